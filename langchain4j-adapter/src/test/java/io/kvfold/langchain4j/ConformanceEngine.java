package io.kvfold.langchain4j;

import io.kvfold.Engine;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;

/**
 * What LangChain4j's suites run against: a scripted llama-server, which proves the mapping, or real models, which prove the
 * rest. {@code -Dkvfold.conformance.model=FILE} names an instruct model, {@code -Dkvfold.conformance.mmproj=FILE} its
 * projector for images and {@code -Dkvfold.conformance.embedding-model=FILE} an embedding model, all GGUF files.
 */
final class ConformanceEngine {

    private static final int CONTEXT_SIZE = 16_384;
    private static final int SLOTS = 2;

    private ConformanceEngine() {}

    static Engine open() {
        Path model = file("model");
        if (model == null) {
            return FakeLlamaServer.engine();
        }
        Engine.Builder builder =
                Engine.builder().model(model).contextSize(CONTEXT_SIZE).slots(SLOTS);
        Path projector = file("mmproj");
        return projector == null
                ? builder.open()
                : builder.option("mmproj", projector.toString()).open();
    }

    static Engine openForEmbeddings() {
        Path model = file("embedding-model");
        return model == null
                ? FakeLlamaServer.engine()
                : Engine.builder().model(model).option("embedding", true).open();
    }

    static boolean seesImages() {
        return file("model") == null || file("mmproj") != null;
    }

    private static @Nullable Path file(String name) {
        String path = System.getProperty("kvfold.conformance." + name);
        return path == null || path.isEmpty() ? null : Path.of(path);
    }
}
