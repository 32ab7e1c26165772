package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.NonRetriableException;
import dev.langchain4j.memory.chat.MessageWindowChatMemory;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.service.AiServices;
import dev.langchain4j.service.MemoryId;
import dev.langchain4j.service.Result;
import io.kvfold.Engine;
import io.kvfold.KvPlan;
import io.kvfold.KvStateException;
import io.kvfold.RealLibrary;
import io.kvfold.Session;
import io.kvfold.SessionStore;
import io.kvfold.TinyModel;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Random;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Conversations whose KV state is kept, as an application sees them: by what the usage says was prefilled. */
@Timeout(60)
class SessionsTest {

    private static final String FOLDED = "2_2_2;passes=5";

    @TempDir
    @SuppressWarnings("NullAway.Init")
    static Path models;

    @SuppressWarnings("NullAway.Init")
    private static Path model;

    @TempDir
    @SuppressWarnings("NullAway.Init")
    Path folder;

    @SuppressWarnings("NullAway.Init")
    private SessionStore store;

    @BeforeAll
    static void writeModel() throws IOException {
        RealLibrary.require();
        model = TinyModel.write(models.resolve("tiny.gguf"), 1);
    }

    @BeforeEach
    void openStore() {
        store = SessionStore.directory(folder);
    }

    private static KvfoldChatModel chatModel(String plan) {
        return KvfoldChatModel.builder()
                .modelPath(model)
                .kvPlan(KvPlan.parse(plan, 3))
                .contextSize(2048)
                .slots(1)
                .threads(1)
                .temperature(0.0)
                .maxOutputTokens(5)
                .build();
    }

    private static String document(long seed) {
        Random random = new Random(seed);
        StringBuilder text = new StringBuilder();
        while (text.length() < 500) {
            text.append((char) ('a' + random.nextInt(26)));
        }
        return text.toString();
    }

    private static KvfoldTokenUsage ask(KvfoldChatModel model, Session session, String question) {
        ChatRequest request = ChatRequest.builder()
                .messages(UserMessage.from(document(1) + question))
                .parameters(
                        KvfoldChatRequestParameters.builder().session(session).build())
                .build();
        return (KvfoldTokenUsage) model.chat(request).tokenUsage();
    }

    private static int prefilled(KvfoldTokenUsage usage) {
        return usage.inputTokenCount() - usage.cachedInputTokenCount();
    }

    @Test
    void saysInTheUsageWhatWasPrefilledAfterARestart() {
        Session session = Session.of(store, "document");
        try (KvfoldChatModel model = chatModel(FOLDED)) {
            assertThat(prefilled(ask(model, session, " who"))).isGreaterThan(500);
            assertThat(prefilled(ask(model, session, " why"))).isLessThan(30);
        }
        try (KvfoldChatModel model = chatModel(FOLDED)) {
            assertThat(prefilled(ask(model, session, " when"))).isLessThan(30);
        }
    }

    @Test
    void refusesTheStateOfAnotherPlanIfToldTo() {
        Session session = Session.of(store, "document");
        try (KvfoldChatModel model = chatModel(FOLDED)) {
            ask(model, session, " who");
        }
        try (KvfoldChatModel model = chatModel("0_0_2")) {
            assertThatThrownBy(() -> ask(model, session.strict(), " why"))
                    .isInstanceOf(NonRetriableException.class)
                    .hasCauseInstanceOf(KvStateException.class)
                    .hasMessageContaining("kv-plan");
            assertThat(prefilled(ask(model, session, " why"))).isGreaterThan(500);
        }
    }

    interface Assistant {
        Result<String> chat(@MemoryId String user, @dev.langchain4j.service.UserMessage String message);
    }

    @Test
    void keepsTheConversationsOfAnAiServiceApart() {
        try (KvfoldChatModel model = chatModel("standard")) {
            Assistant assistant = assistant(model);
            assertThat(prefilled(assistant, "ann", document(1))).isGreaterThan(500);
            assertThat(prefilled(assistant, "bob", document(2))).isGreaterThan(500);
            assertThat(prefilled(assistant, "ann", "and then")).isLessThan(60);
        }
        try (KvfoldChatModel model = chatModel("standard")) {
            Assistant assistant = assistant(model);
            assertThat(prefilled(assistant, "bob", document(2))).isLessThan(60); // a new memory, the same document
        }
    }

    private Assistant assistant(KvfoldChatModel model) {
        return AiServices.builder(Assistant.class)
                .chatModel(model)
                .chatMemoryProvider(id -> MessageWindowChatMemory.withMaxMessages(10))
                .chatRequestTransformer(KvfoldSessions.byMemoryId(store))
                .build();
    }

    private static int prefilled(Assistant assistant, String user, String message) {
        return prefilled((KvfoldTokenUsage) assistant.chat(user, message).tokenUsage());
    }

    @Test
    void keepsASessionWhileOtherParametersAreOverridden() {
        Session session = Session.of(store, "a");
        KvfoldChatRequestParameters ours =
                KvfoldChatRequestParameters.builder().session(session).build();
        ChatRequestParameters theirs =
                ChatRequestParameters.builder().temperature(0.5).build();

        assertThat(ours.overrideWith(theirs).session()).isEqualTo(session);
        assertThat(ours).isNotEqualTo(KvfoldChatRequestParameters.EMPTY);
        assertThat(ours.toString()).contains("Session[a in");
    }

    @Test
    void takesASessionAsDefaultOfAModel() {
        try (Engine engine = Engine.builder().model(model).slots(1).threads(1).open();
                KvfoldChatModel model = KvfoldChatModel.builder()
                        .engine(engine)
                        .maxOutputTokens(2)
                        .session(Session.of(store, "only"))
                        .build()) {
            model.chat("who");
        }
        assertThat(folder).isNotEmptyDirectory();
    }
}
