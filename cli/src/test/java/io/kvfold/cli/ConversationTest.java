package io.kvfold.cli;

import static io.kvfold.cli.ChatScript.end;
import static io.kvfold.cli.ChatScript.piece;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.ContextExceededException;
import io.kvfold.Engine;
import io.kvfold.ScriptedEngine;
import io.kvfold.internal.NativeStatus;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

final class ConversationTest {

    private final ChatScript script = new ChatScript();
    private final ScriptedEngine scripted = new ScriptedEngine(script);
    private final Engine engine = scripted.open();
    private final Conversation conversation = new Conversation(engine, new SamplingOptions(), "Answer in one word.");
    private final List<String> pieces = new ArrayList<>();

    @AfterEach
    void closeEngine() {
        engine.close();
    }

    private List<String> messages(int request) {
        return scripted.requests().get(request).body().path("messages").findValuesAsText("content");
    }

    @Test
    void handsOverThePiecesOfAnAnswerAndItsTimings() {
        script.then(piece("Bl"), piece("ue"), end("stop"));

        Conversation.Answer answer = conversation.ask("Which colour?", pieces::add);

        assertThat(pieces).containsExactly("Bl", "ue");
        assertThat(answer.cancelled()).isFalse();
        assertThat(answer.finishReason()).isEqualTo("stop");
        assertThat(answer.timings()).isEqualTo(new Timings(7, 70.0, 2, 20.5));
    }

    @Test
    void sendsEverythingThatWasSaid() {
        script.then(piece("Blue"), end("stop")).then(piece("Sky"), end("stop"));
        conversation.ask("Which colour?", pieces::add);
        conversation.ask("Of what?", pieces::add);

        assertThat(scripted.lastRequest().body().path("messages").findValuesAsText("role"))
                .containsExactly("system", "user", "assistant", "user");
        assertThat(messages(1)).containsExactly("Answer in one word.", "Which colour?", "Blue", "Of what?");
    }

    @Test
    void keepsThePartOfAnAnswerThatCameBeforeItWasCancelled() {
        script.then(piece("Bl"), ScriptedEngine.hang(), piece("ue")).then(end("stop"));

        Conversation.Answer answer = conversation.ask("Which colour?", piece -> {
            pieces.add(piece);
            conversation.cancel();
        });
        conversation.ask("Go on.", pieces::add);

        assertThat(answer.cancelled()).isTrue();
        assertThat(messages(1)).containsExactly("Answer in one word.", "Which colour?", "Bl", "Go on.");
    }

    @Test
    void forgetsAQuestionThatFailed() {
        script.then(ScriptedEngine.fail(NativeStatus.ERROR_CONTEXT_EXCEEDED, "600 tokens, 512 fit", 600, 512))
                .then(end("stop"));

        assertThatThrownBy(() -> conversation.ask("A long one", pieces::add))
                .isInstanceOf(ContextExceededException.class);
        conversation.ask("A short one", pieces::add);

        assertThat(messages(1)).containsExactly("Answer in one word.", "A short one");
    }

    @Test
    void forgetsEverythingButTheSystemMessageOnReset() {
        script.then(piece("Blue"), end("stop")).then(end("stop"));
        conversation.ask("Which colour?", pieces::add);
        conversation.reset();
        conversation.ask("Again?", pieces::add);

        assertThat(messages(1)).containsExactly("Answer in one word.", "Again?");
    }

    @Test
    void reportsSpeedAndTheKvCacheInCellsAndBytes() {
        script.then(piece("Blue"), end("length"));

        assertThat(conversation.report(conversation.ask("Which colour?", pieces::add)))
                .isEqualTo("[cut off; 2 tokens at 20.5 tokens/s, prompt 7 at 70.0;"
                        + " KV cache 12 of 512 cells, 3.00 KiB in use, 8.00 KiB committed of 128 KiB]");
    }

    @Test
    void saysWhatCountsAgainstTheBudget() {
        assertThat(conversation.memory())
                .endsWith("  memory    8.63 KiB of 64.0 KiB: pages 8.00 KiB, checkpoints 512 B, states 128 B;"
                        + " swapped to files 256 B");
    }

    @Test
    void ignoresACancelBetweenAnswers() {
        conversation.cancel();
        script.then(end("stop"));

        assertThat(conversation.ask("Which colour?", pieces::add).cancelled()).isFalse();
    }
}
