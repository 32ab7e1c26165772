package io.kvfold.benchmarks;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaOutput;
import de.kherud.llama.ModelParameters;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.bench.Timeline;
import io.kvfold.demo.DemoModel;
import io.kvfold.javallama.LlamaModel;
import io.kvfold.langchain4j.KvfoldStreamingChatModel;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OperationsPerInvocation;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * What a token costs on its way from llama.cpp's queue to Java, by the layer at which it is taken. An operation is a token;
 * the model should be so small that computing it costs next to nothing. Run with {@code -prof gc} for the bytes allocated
 * per token.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Fork(1)
@Warmup(iterations = 5, time = 2)
@Measurement(iterations = 5, time = 2)
public class TokenPath {

    private static final int TOKENS = 256;

    /** A GGUF file; the demonstration model if empty. */
    @Param("")
    public String model = "";

    @SuppressWarnings("NullAway.Init")
    private Engine engine;

    @SuppressWarnings("NullAway.Init")
    private KvfoldStreamingChatModel chatModel;

    @SuppressWarnings("NullAway.Init")
    private LlamaModel twin;

    @Setup
    public void open() {
        Path file = model.isEmpty() ? DemoModel.STANDARD.file() : Path.of(model);
        engine = Engine.builder()
                .model(file)
                .slots(1)
                .contextSize(2 * TOKENS)
                .threads(1)
                .option("ignore-eos", true)
                .open();
        chatModel = KvfoldStreamingChatModel.builder()
                .engine(engine)
                .temperature(0.0)
                .build();
        twin = new LlamaModel(new ModelParameters()
                .setModel(file.toString())
                .setParallel(1)
                .setCtxSize(2 * TOKENS)
                .setThreads(1));
    }

    @TearDown
    public void close() {
        twin.close();
        chatModel.close();
        engine.close();
    }

    /** Chunks of a chat, as JSON. */
    @Benchmark
    @OperationsPerInvocation(TOKENS)
    public int engineChat() {
        return chunks(engine.chat(chat()));
    }

    private static ObjectNode chat() {
        ObjectNode body = JsonNodeFactory.instance.objectNode();
        body.putArray("messages").addObject().put("role", "user").put("content", "Once upon a time");
        return body.put("max_tokens", TOKENS).put("temperature", 0).put("stream", true);
    }

    /** Chunks of a chat, unparsed: the bridge alone. */
    @Benchmark
    @OperationsPerInvocation(TOKENS)
    public int bridgeChat() {
        int bytes = 0;
        try (Generation generation = engine.chat(chat())) {
            for (byte[] chunk = generation.nextJson(); chunk != null; chunk = generation.nextJson()) {
                bytes += chunk.length;
            }
        }
        return bytes;
    }

    /** Chunks of a completion, as JSON: without a chat's parser. */
    @Benchmark
    @OperationsPerInvocation(TOKENS)
    public int engineCompletion() {
        ObjectNode body = JsonNodeFactory.instance.objectNode();
        body.put("prompt", "Once upon a time")
                .put("n_predict", TOKENS)
                .put("temperature", 0)
                .put("stream", true);
        return chunks(engine.complete(body));
    }

    /** Events of the streaming ChatModel. */
    @Benchmark
    @OperationsPerInvocation(TOKENS)
    public Timeline streamingChatModel() {
        return StreamedAnswer.of(chatModel, "Once upon a time", TOKENS, System.nanoTime());
    }

    /** Outputs of java-llama.cpp's twin. */
    @Benchmark
    @OperationsPerInvocation(TOKENS)
    public int javaLlamaTwin() {
        InferenceParameters parameters = new InferenceParameters("Once upon a time")
                .setNPredict(TOKENS)
                .setTemperature(0)
                .setIgnoreEos(true);
        int count = 0;
        for (LlamaOutput output : twin.generate(parameters)) {
            count += output.text.isEmpty() ? 0 : 1;
        }
        return count;
    }

    private static int chunks(Generation opened) {
        int count = 0;
        try (Generation generation = opened) {
            for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
                count++;
            }
        }
        return count;
    }
}
