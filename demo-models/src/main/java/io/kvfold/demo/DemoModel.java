package io.kvfold.demo;

import io.kvfold.ModelNotFoundException;
import io.kvfold.internal.CacheDirectory;
import io.kvfold.internal.ResourceFile;
import java.io.IOException;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * Two models of 8 layers that this project trained on the same texts, with weights in q8_0 and a chat template. They show
 * what folding does; with 3 million parameters they know next to nothing. What they were trained on and what may be done
 * with them is told by the model cards beside the files.
 *
 * <pre>{@code
 * Engine engine = Engine.builder().model(DemoModel.FOLDED.file()).open();
 * }</pre>
 */
public enum DemoModel {
    /** Every layer keeps keys and values of its own. */
    STANDARD("kvfold-demo-standard-q8_0.gguf"),

    /** Trained with the KV plan {@code lckv:2}: three layers keep keys and values, the others read one of these. */
    FOLDED("kvfold-demo-folded-q8_0.gguf");

    private static final Map<DemoModel, Path> UNPACKED = new ConcurrentHashMap<>();

    private final String fileName;

    DemoModel(String fileName) {
        this.fileName = fileName;
    }

    /**
     * The model as a GGUF file. The first call of a JVM unpacks it into the user's cache directory, or checks what is
     * there against the resource. Where the cache cannot be written, a temporary directory takes it until the JVM ends.
     * Any number of threads and processes may ask at once.
     *
     * @throws ModelNotFoundException if the class path lacks the resource, or if it can be written to neither directory;
     *     the message says what was tried and why it failed
     */
    public Path file() {
        return UNPACKED.compute(this, (model, known) -> known != null && Files.exists(known) ? known : model.unpack());
    }

    private Path unpack() {
        URL resource = DemoModel.class.getResource(fileName);
        if (resource == null) {
            throw new ModelNotFoundException(
                    "the class path holds no " + fileName + "; is kvfold-demo-models on it, and whole?");
        }
        ResourceFile model;
        try {
            model = ResourceFile.of(resource, fileName);
        } catch (IOException e) {
            throw new ModelNotFoundException(resource + " cannot be read: " + e, e);
        }
        Path cache = CacheDirectory.path().resolve(model.sha256());
        try {
            return model.unpackInto(cache);
        } catch (IOException inCache) {
            try {
                return unpackTemporarily(model);
            } catch (IOException e) {
                ModelNotFoundException failure = new ModelNotFoundException(
                        fileName + " can be unpacked neither into " + cache + " (" + inCache
                                + ") nor into a temporary directory (" + e + ")",
                        e);
                failure.addSuppressed(inCache);
                throw failure;
            }
        }
    }

    private static Path unpackTemporarily(ResourceFile model) throws IOException {
        Path directory = Files.createTempDirectory("kvfold-"); // readable by this user only
        directory.toFile().deleteOnExit();
        Path file = model.unpackInto(directory);
        file.toFile().deleteOnExit();
        return file;
    }
}
