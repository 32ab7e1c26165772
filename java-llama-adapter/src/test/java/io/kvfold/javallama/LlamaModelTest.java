package io.kvfold.javallama;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaOutput;
import de.kherud.llama.LogLevel;
import de.kherud.llama.ModelParameters;
import de.kherud.llama.Pair;
import de.kherud.llama.args.LogFormat;
import de.kherud.llama.args.PoolingType;
import io.kvfold.ContextExceededException;
import io.kvfold.EngineClosedException;
import io.kvfold.InvalidRequestException;
import io.kvfold.ModelNotFoundException;
import io.kvfold.NativeLibrary;
import io.kvfold.RealLibrary;
import io.kvfold.TinyModel;
import io.kvfold.UnsupportedOperationByModelException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.concurrent.CopyOnWriteArrayList;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.slf4j.event.Level;

/** The methods of the twin, on a model with random weights. */
class LlamaModelTest {

    @TempDir
    static Path directory;

    private static String file;
    private static LlamaModel model;

    @BeforeAll
    static void openModel() throws Exception {
        RealLibrary.require();
        file = TinyModel.write(directory.resolve("tiny.gguf"), 1).toString();
        model = new LlamaModel(parameters());
    }

    @AfterAll
    static void closeModel() {
        if (model != null) {
            model.close();
        }
    }

    private static ModelParameters parameters() {
        return new ModelParameters().setModel(file).setCtxSize(512).setThreads(1);
    }

    private static InferenceParameters prompt(int tokens) {
        return new InferenceParameters("once upon a time")
                .setNPredict(tokens)
                .setTemperature(0)
                .setIgnoreEos(true);
    }

    @Test
    void generatesWhatItCompletes() {
        String whole = model.complete(prompt(20));
        StringBuilder pieces = new StringBuilder();
        int outputs = 0;
        for (LlamaOutput output : model.generate(prompt(20))) {
            pieces.append(output);
            outputs++;
        }
        assertThat(whole).isNotEmpty();
        assertThat(pieces).hasToString(whole);
        assertThat(outputs).isEqualTo(21);
    }

    @Test
    void leavesTheParametersAsTheyWere() {
        InferenceParameters parameters = prompt(2);
        String before = parameters.toString();
        model.complete(parameters);
        model.generate(parameters).iterator().close();
        assertThat(parameters).hasToString(before);
    }

    @Test
    void startsAGenerationForEveryIterator() {
        LlamaIterable outputs = model.generate(prompt(3));
        LlamaIterator first = outputs.iterator();
        String text = first.next().text;
        first.cancel();
        assertThat(outputs.iterator().next().text).isEqualTo(text);
    }

    @Test
    void freesTheSlotOfACancelledGeneration() {
        LlamaIterator outputs = model.generate(prompt(-1)).iterator();
        for (int i = 0; i < 5; i++) {
            assertThat(outputs.hasNext()).isTrue();
            outputs.next();
        }
        outputs.cancel();
        outputs.cancel();
        assertThat(outputs.hasNext()).isFalse();
        assertThatThrownBy(outputs::next).isInstanceOf(NoSuchElementException.class);
        assertThat(model.complete(prompt(2))).isNotEmpty(); // there is one slot
    }

    @Test
    void takesTextsThatNeedEscapes() {
        String text = "a \"b\" \\ \t \n \u0001 \u007f ä 二 \ud83d\ude00 </a>";
        assertThat(model.decode(model.encode(text)).strip()).isEqualTo(text);
        assertThat(model.complete(new InferenceParameters(text).setNPredict(2).setStopStrings(text)))
                .isNotNull();
    }

    @Test
    void stopsBeforeAStopString() {
        String whole = model.complete(prompt(20));
        String stop = whole.substring(5, 8);
        assertThat(model.complete(prompt(20).setStopStrings(stop))).isEqualTo(whole.substring(0, whole.indexOf(stop)));
    }

    @Test
    void keepsToAGrammar() {
        assertThat(model.complete(prompt(9).setGrammar("root ::= (\"a\" | \"b\")+")))
                .matches("[ab]{9}");
    }

    @Test
    void keepsToAGrammarOfASchema() {
        String grammar = LlamaModel.jsonSchemaToGrammar("{\"enum\": [\"left\", \"right\"]}");
        assertThat(model.complete(prompt(20).setGrammar(grammar).setIgnoreEos(false)))
                .matches("\"(left|right)\"\\s*");
        assertThatThrownBy(() -> LlamaModel.jsonSchemaToGrammar("[]")).isInstanceOf(InvalidRequestException.class);
        assertThatThrownBy(() -> LlamaModel.jsonSchemaToGrammar("{")).isInstanceOf(InvalidRequestException.class);
    }

    @Test
    void tellsTheProbabilitiesOfTokens() {
        LlamaOutput first = model.generate(prompt(1).setNProbs(3)).iterator().next();
        assertThat(first.probabilities).hasSize(3).containsKey(first.text);
        assertThat(first.probabilities.values()).allMatch(probability -> probability > 0 && probability < 1);
        assertThat(model.generate(prompt(1)).iterator().next().probabilities).isEmpty();
    }

    @Test
    void rendersMessages() {
        InferenceParameters chat = new InferenceParameters("ignored")
                .setMessages("be kind", List.of(new Pair<>("user", "who \"are\" you?")))
                .setNPredict(3)
                .setTemperature(0);
        String rendered = "system: be kind\nuser: who \"are\" you?\nassistant:";
        assertThat(model.applyTemplate(chat)).isEqualTo(rendered);
        String answer =
                model.complete(new InferenceParameters(rendered).setNPredict(3).setTemperature(0));
        assertThat(model.complete(chat.setUseChatTemplate(true))).isEqualTo(answer);
    }

    @Test
    void embedsOnlyIfAsked() {
        assertThatThrownBy(() -> model.embed("a"))
                .isInstanceOf(IllegalStateException.class)
                .hasMessageContaining("enableEmbedding()");
        assertThatThrownBy(() -> model.rerank("a", "b"))
                .isInstanceOf(IllegalStateException.class)
                .hasMessageContaining("enableReranking()");
    }

    @Test
    void embedsTheWholeText() {
        try (LlamaModel plain = new LlamaModel(parameters().enableEmbedding());
                LlamaModel mean = new LlamaModel(parameters().enableEmbedding().setPoolingType(PoolingType.MEAN))) {
            assertThat(plain.embed("abc")).hasSize(64).isNotEqualTo(plain.embed("abd"));
            assertThat(length(mean.embed("abc"))).isCloseTo(1, within(1e-5));
            assertThat(plain.complete(prompt(3))).isEqualTo(model.complete(prompt(3)));
        }
    }

    private static double length(float[] vector) {
        double sum = 0;
        for (float value : vector) {
            sum += value * value;
        }
        return Math.sqrt(sum);
    }

    @Test
    void answersBeyondTheContextUnlessToldNotTo() {
        assertThat(model.encode(model.complete(prompt(700)))).hasSizeGreaterThan(512);
        try (LlamaModel fixed = new LlamaModel(parameters().disableContextShift())) {
            assertThat(fixed.encode(fixed.complete(prompt(700)))).hasSizeLessThan(512);
        }
    }

    @Test
    void refusesAPromptThatDoesNotFit() {
        assertThatThrownBy(() -> model.complete(new InferenceParameters("a ".repeat(600))))
                .isInstanceOf(ContextExceededException.class);
    }

    @Test
    void refusesRemovedParametersByName() {
        assertThatThrownBy(() -> model.complete(prompt(1).setPenalizeNl(false)))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("\"penalize_nl\"");
        assertThatThrownBy(() -> model.complete(prompt(1).setTfsZ(0.5f)))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("\"tfs_z\"");
        assertThatThrownBy(() -> model.generate(prompt(1).setPenaltyPrompt("a")).iterator())
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("\"penalty_prompt\"");
        assertThat(model.complete(prompt(1).setTfsZ(1))).isNotNull();
    }

    @Test
    void refusesToFillInWithoutTokensForIt() {
        assertThatThrownBy(() -> model.complete(prompt(1).setInputPrefix("a").setInputSuffix("b")))
                .isInstanceOf(UnsupportedOperationByModelException.class)
                .hasMessageContaining("prefix token is missing");
    }

    @Test
    void fillsInBetweenPrefixAndSuffix() {
        String tokens = "tokenizer.ggml.fim_pre_token_id=int:3,"
                + "tokenizer.ggml.fim_suf_token_id=int:4,tokenizer.ggml.fim_mid_token_id=int:5";
        try (LlamaModel infilling = new LlamaModel(parameters().setOverrideKv(tokens))) {
            String answer = infilling.complete(infill("once upon", "the end"));
            StringBuilder pieces = new StringBuilder();
            infilling.generate(infill("once upon", "the end")).forEach(pieces::append);
            assertThat(answer).isNotEmpty().hasToString(pieces.toString());
            assertThat(infilling.complete(infill("once upon", "a cat"))).isNotEqualTo(answer);
            assertThat(infilling.complete(infill("one day", "the end"))).isNotEqualTo(answer);
        }
    }

    private static InferenceParameters infill(String prefix, String suffix) {
        return new InferenceParameters("")
                .setInputPrefix(prefix)
                .setInputSuffix(suffix)
                .setNPredict(12)
                .setTemperature(0)
                .setIgnoreEos(true);
    }

    @Test
    void saysWhichModelIsMissing() {
        assertThatThrownBy(() -> new LlamaModel(new ModelParameters().setModel("missing.gguf")))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("missing.gguf");
        assertThatThrownBy(() -> new LlamaModel(new ModelParameters().setHfRepo("a")))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("hf:a");
        assertThatThrownBy(() -> new LlamaModel(parameters().setModelUrl("http://localhost/m.gguf")))
                .isInstanceOf(UnsupportedOperationByModelException.class)
                .hasMessageContaining("model-url");
    }

    @Test
    void refusesEverythingAfterItsEnd() {
        LlamaModel closed = new LlamaModel(parameters());
        LlamaIterator running = closed.generate(prompt(-1)).iterator();
        running.next();
        closed.close();
        closed.close();
        assertThatThrownBy(() -> {
                    while (true) {
                        running.next();
                    }
                })
                .isInstanceOf(EngineClosedException.class);
        assertThat(running.hasNext()).isFalse();
        assertThatThrownBy(() -> closed.complete(prompt(1))).isInstanceOf(EngineClosedException.class);
    }

    @Test
    void handsItsLogToACallback() {
        List<String> text = new CopyOnWriteArrayList<>();
        List<String> json = new CopyOnWriteArrayList<>();
        List<LogLevel> levels = new CopyOnWriteArrayList<>();
        try {
            LlamaModel.setLogger(LogFormat.TEXT, (level, line) -> {
                levels.add(level);
                text.add(line);
            });
            model.complete(prompt(1));
            LlamaModel.setLogger(LogFormat.JSON, (level, line) -> json.add(line));
            model.complete(prompt(1));
            LlamaModel.setLogger(null, (level, line) -> {});
        } finally {
            NativeLibrary.logTo(null, Level.ERROR);
        }
        assertThat(levels).isNotEmpty().doesNotContainNull();
        assertThat(text).isNotEmpty().noneMatch(line -> line.startsWith("{\"timestamp\""));
        assertThat(json).isNotEmpty().allMatch(line -> line.matches("\\{\"timestamp\":\\d+,\"level\":\"\\w+\".*}"));
    }

    @Test
    void servesSeveralThreads() throws Exception {
        String expected = model.complete(prompt(20));
        List<String> answers = new CopyOnWriteArrayList<>();
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            Thread thread = new Thread(() -> answers.add(model.complete(prompt(20))));
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
        assertThat(answers).hasSize(4).containsOnly(expected);
    }
}
