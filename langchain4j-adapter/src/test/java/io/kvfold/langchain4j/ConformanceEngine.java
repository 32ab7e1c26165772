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

    private static final int SLOTS = 2;

    /** A small model fills a string of JSON until it is stopped. */
    private static final int LONGEST_ANSWER = 512;

    private static final String PROPERTY = "kvfold.conformance.";

    private ConformanceEngine() {}

    static boolean isOnRealModel() {
        return file("model") != null;
    }

    static void useModel(Path model) {
        System.setProperty(PROPERTY + "model", model.toString());
    }

    static void useScript() {
        System.clearProperty(PROPERTY + "model");
    }

    static Engine open() {
        Path model = file("model");
        if (model == null) {
            return FakeLlamaServer.engine();
        }
        Engine.Builder builder = Engine.builder()
                .model(model)
                .slots(SLOTS)
                .option("predict", LONGEST_ANSWER)
                .option("temp", 0); // the tables of docs/conformance.md can be made again
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
        String path = System.getProperty(PROPERTY + name);
        return path == null || path.isEmpty() ? null : Path.of(path);
    }
}
