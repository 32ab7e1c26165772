package io.kvfold;

import static org.junit.jupiter.api.Assertions.fail;

import java.nio.file.Files;
import java.nio.file.Path;

/** What benchmarks/real-models.sh fetches, for tests with the tag {@code real-models}, which have asked for it. */
public final class DownloadedModels {

    private DownloadedModels() {}

    /** An instruct model of 135 million weights, trained for 8,192 tokens; llama's architecture, 30 layers, 3 KV heads of 64. */
    public static Path smolLm2() {
        return file("SmolLM2-135M-Instruct.Q4_1.gguf");
    }

    /** A base model of 270 million weights with windows of its own. */
    public static Path gemma3() {
        return file("gemma-3-270m-q4_k_m.gguf");
    }

    /** A Python that has huggingface_hub, openai and anthropic. */
    public static Path python() {
        return file("python/bin/python");
    }

    private static Path file(String name) {
        Path file = Path.of(System.getProperty("kvfold.real-models", "")).resolve(name);
        return Files.exists(file)
                ? file
                : fail("there is no " + file + ": bash benchmarks/real-models.sh fetches it, as -Preal-models does");
    }
}
