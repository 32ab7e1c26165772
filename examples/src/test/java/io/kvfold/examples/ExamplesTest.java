package io.kvfold.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.langchain4j.data.document.loader.FileSystemDocumentLoader;
import dev.langchain4j.model.chat.Capability;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.openai.OpenAiChatModel;
import io.kvfold.Engine;
import io.kvfold.EngineServer;
import io.kvfold.NativeLibrary;
import io.kvfold.demo.DemoModel;
import io.kvfold.langchain4j.KvfoldEmbeddingModel;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The examples run on a real model, if a tiny one: what they print has the right shape, and no sense. */
class ExamplesTest {

    private static final Path MODEL = Path.of("../../shared/models/stories260K.gguf");

    private static void needsTheLibrary() {
        assumeTrue(NativeLibrary.isAvailable(), () -> "no native library: " + NativeLibrary.unavailabilityCause());
    }

    private static void needsTheStoryModel() {
        assumeTrue(Files.exists(MODEL), "no real model: " + MODEL + " is missing");
        needsTheLibrary();
    }

    @Test
    void streamsAnAnswer() {
        needsTheStoryModel();
        String printed = printedBy(() -> ChatExample.main(new String[] {MODEL.toString(), "Once upon a time"}));

        assertThat(printed).matches("(?s).+\\R\\[\\d+ tokens in, \\d+ out, \\d+ tokens/s, \\d+ KiB of KV cache]\\R");
    }

    @Test
    void runsAiServicesUnchanged() {
        needsTheStoryModel();
        String printed = printedBy(() -> DropInExample.main(new String[] {MODEL.toString(), "A cat sat in the sun."}));

        assertThat(printed).containsPattern("Animal\\[kind=(CAT|DOG|BIRD|null), friendly=(true|false)]");
    }

    /** OpenAI's client, a peer of this project's model, gets its answers from the same weights over HTTP. */
    @Test
    void runsTheSameApplicationOnThePeersModelAndOnOurs() {
        needsTheStoryModel();
        String text = "A cat sat in the sun.";
        String ours = printedBy(() -> DropInExample.main(new String[] {MODEL.toString(), text}));
        String theirs;
        try (Engine engine =
                        Engine.builder().model(MODEL).contextSize(2048).slots(1).open();
                EngineServer server = engine.server().port(0).start()) {
            ChatModel peer = OpenAiChatModel.builder()
                    .baseUrl(server.addresses().get(0) + "/v1")
                    .apiKey("none")
                    .modelName("stories260K")
                    .temperature(0.0)
                    .maxTokens(256)
                    .supportedCapabilities(Capability.RESPONSE_FORMAT_JSON_SCHEMA)
                    .build();
            theirs = printedBy(() -> DropInExample.run(peer, text));
        }

        assertThat(theirs).isEqualTo(ours);
    }

    @Test
    void answersFromWhatItFinds(@TempDir Path folder) throws IOException {
        needsTheStoryModel();
        write(folder, "volcano.txt", "Mount Etna is an active volcano on the island of Sicily, and it erupts often.");
        write(folder, "bread.txt", "A sourdough loaf is baked at a high temperature after a long fermentation.");
        write(folder, "chess.txt", "In chess the knight moves in the shape of an L and can jump over other pieces.");
        String printed = asked(
                () -> RagExample.main(new String[] {MODEL.toString(), folder.toString()}),
                "Which mountain spits lava?",
                "How does the horse move on the board?");

        List<String> answers = List.of(printed.split("KiB of KV cache]\\R"));
        assertThat(answers).hasSize(2);
        assertThat(firstSource(answers.get(0))).isEqualTo("volcano.txt");
        assertThat(firstSource(answers.get(1))).isEqualTo("chess.txt");
        assertThat(reused(answers.get(0))).isZero();
        assertThat(reused(answers.get(1))).isGreaterThan(40); // the instructions
    }

    /** Finding must be right; what the demonstration model says about it need not be. */
    @Test
    void demonstratesRetrievalWithoutArguments() {
        needsTheLibrary();
        String printed = printedBy(() -> RagExample.main(new String[0]));

        List<String> answers = List.of(printed.split("KiB of KV cache]\\R"));
        assertThat(answers).hasSize(3);
        assertThat(answers)
                .extracting(ExamplesTest::firstSource)
                .containsExactly("kv-cache.txt", "server.txt", "sessions.txt");
        assertThat(reused(answers.get(0))).isZero();
        assertThat(reused(answers.get(1))).isPositive(); // the instructions
        assertThat(reused(answers.get(2))).isPositive();
    }

    /** The demonstration model was not made for embedding: it knows a sentence again, and does not find what is meant. */
    @Test
    void findsWithAnEmbeddingModelOfOurs(@TempDir Path folder) throws IOException {
        needsTheLibrary();
        write(folder, "volcano.txt", "Mount Etna is an active volcano.");
        write(folder, "chess.txt", "The knight moves in the shape of an L.");
        String printed;
        try (KvfoldEmbeddingModel embeddings = KvfoldEmbeddingModel.builder()
                .modelPath(DemoModel.STANDARD.file())
                .pooling("mean") // it does not say
                .build()) {
            printed = printedBy(() -> RagExample.answer(
                    DemoModel.FOLDED.file(),
                    FileSystemDocumentLoader.loadDocuments(folder),
                    embeddings,
                    List.of("The knight moves in the shape of an L.", "Mount Etna is an active volcano.")));
        }

        List<String> answers = List.of(printed.split("KiB of KV cache]\\R"));
        assertThat(answers).extracting(ExamplesTest::firstSource).containsExactly("chess.txt", "volcano.txt");
        assertThat(reused(answers.get(1))).isPositive(); // the instructions
    }

    private static void write(Path folder, String name, String text) throws IOException {
        Files.writeString(folder.resolve(name), text);
    }

    private static String firstSource(String answer) {
        Matcher source = Pattern.compile("  from (\\S+)\\R").matcher(answer);
        assertThat(source.find()).as(answer).isTrue();
        return source.group(1);
    }

    private static int reused(String answer) {
        Matcher reused = Pattern.compile("(\\d+) of them reused").matcher(answer);
        assertThat(reused.find()).as(answer).isTrue();
        return Integer.parseInt(reused.group(1));
    }

    private static String asked(Runnable program, String... questions) {
        InputStream before = System.in;
        System.setIn(new ByteArrayInputStream(String.join("\n", questions).getBytes(StandardCharsets.UTF_8)));
        try {
            return printedBy(program);
        } finally {
            System.setIn(before);
        }
    }

    private static String printedBy(Runnable program) {
        PrintStream before = System.out;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        try {
            program.run();
        } finally {
            System.setOut(before);
        }
        return printed.toString(StandardCharsets.UTF_8);
    }
}
