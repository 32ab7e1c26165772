package io.kvfold.javallama;

import static org.assertj.core.api.Assertions.assertThat;

import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaOutput;
import de.kherud.llama.ModelParameters;
import de.kherud.llama.args.LogFormat;
import de.kherud.llama.args.MiroStat;
import io.kvfold.NativeLibrary;
import io.kvfold.RealLibrary;
import io.kvfold.TinyModel;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.slf4j.event.Level;

/** What java-llama.cpp's README shows, section by section. */
class ReadmeTest {

    @TempDir
    static Path directory;

    private static String file;

    @BeforeAll
    static void writeModel() throws Exception {
        RealLibrary.require();
        file = TinyModel.write(directory.resolve("tiny.gguf"), 1).toString();
    }

    private static ModelParameters parameters() {
        return new ModelParameters().setModel(file).setThreads(1);
    }

    /** A conversation whose prompt grows with every line. */
    @Test
    void quickStart() throws IOException {
        BufferedReader lines = new BufferedReader(new StringReader("hello\nwho are you\n"));
        try (LlamaModel model = new LlamaModel(parameters().setGpuLayers(43))) {
            String prompt = "this is a conversation";
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                prompt += "\nUser: " + line + "\nLlama: ";
                int before = prompt.length();
                InferenceParameters parameters = new InferenceParameters(prompt)
                        .setTemperature(0.7f)
                        .setPenalizeNl(true)
                        .setMiroStat(MiroStat.V2)
                        .setStopStrings("User:")
                        .setIgnoreEos(true)
                        .setNPredict(16);
                for (LlamaOutput output : model.generate(parameters)) {
                    prompt += output;
                }
                assertThat(prompt).hasSizeGreaterThan(before).doesNotEndWith("User:");
            }
        }
    }

    @Test
    void inference() {
        InferenceParameters parameters =
                new InferenceParameters("tell me a joke").setNPredict(8).setIgnoreEos(true);
        try (LlamaModel model = new LlamaModel(parameters().enableEmbedding())) {
            for (LlamaOutput output : model.generate(parameters)) {
                assertThat(output.text).isNotNull();
            }
            assertThat(model.complete(parameters)).isNotEmpty();
            assertThat(model.embed("embed this")).hasSize(64);
        }
    }

    @Test
    void grammar() {
        InferenceParameters parameters = new InferenceParameters("")
                .setGrammar("root ::= (expr \"=\" term \"\\n\")+\nexpr ::= term ([-+*/] term)*\nterm ::= [a-z]")
                .setTemperature(0.8f)
                .setNPredict(12);
        try (LlamaModel model = new LlamaModel(parameters())) {
            StringBuilder text = new StringBuilder();
            for (LlamaOutput output : model.generate(parameters)) {
                text.append(output);
            }
            assertThat(text.toString()).matches("([a-z]([-+*/=][a-z])*[-+*/=]?\\n?)+");
        }
    }

    @Test
    void logging() {
        PrintStream before = System.out;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        try {
            LlamaModel.setLogger(LogFormat.TEXT, null);
            new LlamaModel(parameters()).close();
            String text = printed.toString(StandardCharsets.UTF_8);
            LlamaModel.setLogger(LogFormat.JSON, null);
            new LlamaModel(parameters()).close();
            String json = printed.toString(StandardCharsets.UTF_8).substring(text.length());
            LlamaModel.setLogger(
                    LogFormat.TEXT, (level, message) -> System.out.println("<" + level.name() + ">: " + message));
            new LlamaModel(parameters()).close();
            assertThat(printed.toString(StandardCharsets.UTF_8)).contains("<INFO>: ");
            LlamaModel.setLogger(null, (level, line) -> {});
            int silentFrom = printed.size();
            new LlamaModel(parameters()).close();
            assertThat(text).contains("loading model");
            assertThat(json.lines()).isNotEmpty().allMatch(line -> line.startsWith("{\"timestamp\":"));
            assertThat(printed.size()).isEqualTo(silentFrom);
        } finally {
            System.setOut(before);
            NativeLibrary.logTo(null, Level.ERROR);
        }
    }
}
