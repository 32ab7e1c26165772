package io.kvfold.gguf;

import io.kvfold.Eviction;
import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.Optional;
import java.util.Set;
import java.util.stream.IntStream;

/** A {@link KvPlan} as GGUF metadata; the keys are in {@link GgufKeys}. */
public final class GgufKvPlan {

    private GgufKvPlan() {}

    /**
     * The plan that {@code file} was made for, empty if it says nothing about one.
     *
     * @throws InvalidModelException if a key has another type or length than it should, or stands alone
     * @throws InvalidPlanException if the map names a layer that does not exist
     */
    public static Optional<KvPlan> read(GgufFile file) {
        String architecture = file.architecture();
        String mapKey = GgufKeys.kvLayerMap(architecture);
        String windowLayersKey = GgufKeys.kvWindowLayers(architecture);
        Optional<Boolean> strict = file.bool(GgufKeys.kvStrictDiagonal(architecture));
        Optional<Integer> passes = uint32(file, GgufKeys.kvPrefillPasses(architecture));
        Optional<boolean[]> windowLayers = file.bools(windowLayersKey);
        Optional<Integer> sinks = uint32(file, GgufKeys.kvWindowSinks(architecture));
        Optional<String> eviction = file.string(GgufKeys.kvEviction(architecture));
        Optional<long[]> map = file.integers(mapKey);
        if (map.isEmpty()) {
            if (strict.isPresent()
                    || passes.isPresent()
                    || windowLayers.isPresent()
                    || sinks.isPresent()
                    || eviction.isPresent()) {
                throw new InvalidModelException(file.path() + ": other keys of a KV plan without " + mapKey);
            }
            return Optional.empty();
        }
        if (file.elementType(mapKey).orElseThrow() != GgufValueType.INT32) {
            throw new InvalidModelException(file.path() + ": " + mapKey + " is ARRAY of "
                    + file.elementType(mapKey).orElseThrow() + ", expected INT32");
        }
        long[] kvLayers = map.get();
        long layers = file.integer(GgufKeys.blockCount(architecture)).orElse(kvLayers.length);
        checkLength(file, mapKey, kvLayers.length, layers);
        int[] readable = new int[kvLayers.length];
        for (int i = 0; i < readable.length; i++) {
            readable[i] = (int) kvLayers[i];
        }
        KvPlan plan = KvPlan.of(readable);
        if (strict.isPresent()) {
            plan = plan.withStrictDiagonal(strict.get());
        }
        if (passes.isPresent()) {
            plan = plan.withPrefillPasses(passes.get());
        }
        if (windowLayers.isPresent()) {
            boolean[] marks = windowLayers.get();
            checkLength(file, windowLayersKey, marks.length, layers);
            int[] windowed =
                    IntStream.range(0, marks.length).filter(i -> marks[i]).toArray();
            if (windowed.length > 0) {
                String windowKey = GgufKeys.slidingWindow(architecture);
                plan = plan.withWindow(
                        uint32(file, windowKey)
                                .orElseThrow(() -> new InvalidModelException(
                                        file.path() + ": " + windowLayersKey + " without " + windowKey)),
                        windowed);
            }
        }
        plan = sinks.isPresent() ? plan.withSinks(sinks.get()) : plan;
        return Optional.of(eviction.isPresent() ? plan.withEviction(Eviction.parse(eviction.get())) : plan);
    }

    /**
     * Adds {@code plan} to the metadata of {@code writer}: the map always, everything else where the plan says it.
     *
     * @param architecture value of {@link GgufKeys#ARCHITECTURE} in the same file
     * @throws InvalidPlanException if the plan has automatic retention, which is not a property of a file
     */
    public static void write(GgufWriter writer, String architecture, KvPlan plan) {
        if (plan.automaticRetention().isPresent()) {
            throw new InvalidPlanException("lazy layers that the engine tells at run time are an option of the engine,"
                    + " and cannot be written into a file: " + plan);
        }
        writer.put(
                GgufKeys.kvLayerMap(architecture),
                GgufValueType.INT32,
                IntStream.of(plan.kvLayers()).asLongStream().toArray());
        if (plan.strictDiagonal()) {
            writer.put(GgufKeys.kvStrictDiagonal(architecture), true);
        }
        plan.prefillPasses().ifPresent(passes -> writer.put(GgufKeys.kvPrefillPasses(architecture), passes));
        plan.window().ifPresent(window -> {
            boolean[] marks = new boolean[plan.layers()];
            for (int i = 0; i < marks.length; i++) {
                marks[i] = plan.usesWindow(i);
            }
            writer.put(GgufKeys.slidingWindow(architecture), window);
            writer.put(GgufKeys.kvWindowLayers(architecture), marks);
            if (plan.sinks() > 0) {
                writer.put(GgufKeys.kvWindowSinks(architecture), plan.sinks());
            }
        });
        plan.eviction().ifPresent(eviction -> writer.put(GgufKeys.kvEviction(architecture), eviction.toString()));
    }

    /**
     * Writes a copy of a model file with another plan. Weights and all other metadata stay; a plan that the file had is
     * replaced.
     *
     * @param target replaced if it exists; must not be the source
     * @throws IOException if writing fails; {@code target} is then as it was
     * @throws InvalidModelException if the metadata holds something that cannot be copied, such as arrays of arrays
     */
    public static void copy(GgufFile source, KvPlan plan, Path target, GgufWriter.Progress progress)
            throws IOException {
        if (Files.exists(target) && Files.isSameFile(source.path(), target)) {
            throw new IOException(target + " is the file to copy");
        }
        String architecture = source.architecture();
        Set<String> replaced = new HashSet<>(Set.of(
                GgufKeys.kvLayerMap(architecture),
                GgufKeys.kvStrictDiagonal(architecture),
                GgufKeys.kvPrefillPasses(architecture),
                GgufKeys.kvWindowLayers(architecture),
                GgufKeys.kvWindowSinks(architecture),
                GgufKeys.kvEviction(architecture)));
        if (plan.window().isPresent()) {
            replaced.add(GgufKeys.slidingWindow(architecture));
        }
        GgufWriter writer = new GgufWriter();
        for (String key : source.keys()) {
            if (key.equals(GgufKeys.ALIGNMENT)) {
                writer.alignment((int) source.alignment());
            } else if (!replaced.contains(key)) {
                copyValue(source, key, writer);
            }
        }
        write(writer, architecture, plan);
        for (GgufTensor tensor : source.tensors()) {
            writer.tensor(tensor.name(), tensor.type(), tensor.shape(), out -> source.copy(tensor, out));
        }
        writer.write(target, progress);
    }

    private static void copyValue(GgufFile source, String key, GgufWriter writer) {
        GgufValueType type = source.type(key).orElseThrow();
        switch (type) {
            case STRING -> writer.put(key, source.string(key).orElseThrow());
            case BOOL -> writer.put(key, source.bool(key).orElseThrow());
            case FLOAT32 -> writer.put(key, (float) source.number(key).orElseThrow());
            case FLOAT64 -> writer.put(key, source.number(key).orElseThrow());
            case ARRAY -> copyArray(source, key, writer);
            default -> writer.put(key, type, source.integer(key).orElseThrow());
        }
    }

    private static void copyArray(GgufFile source, String key, GgufWriter writer) {
        GgufValueType type = source.elementType(key).orElseThrow();
        switch (type) {
            case STRING -> writer.put(key, source.strings(key).orElseThrow());
            case BOOL -> writer.put(key, source.bools(key).orElseThrow());
            case FLOAT32 -> {
                double[] values = source.numbers(key).orElseThrow();
                float[] exact = new float[values.length];
                for (int i = 0; i < exact.length; i++) {
                    exact[i] = (float) values[i];
                }
                writer.put(key, exact);
            }
            case FLOAT64 -> writer.put(key, source.numbers(key).orElseThrow());
            case ARRAY ->
                throw new InvalidModelException(
                        source.path() + ": " + key + " is an array of arrays, which is not copied");
            default -> writer.put(key, type, source.integers(key).orElseThrow());
        }
    }

    private static Optional<Integer> uint32(GgufFile file, String key) {
        if (file.type(key).isEmpty()) {
            return Optional.empty();
        }
        long value = file.integer(key).orElseThrow();
        if (file.type(key).orElseThrow() != GgufValueType.UINT32 || value > Integer.MAX_VALUE) {
            throw new InvalidModelException(
                    file.path() + ": " + key + " is " + value + " of type "
                            + file.type(key).orElseThrow() + ", expected a UINT32 of at most " + Integer.MAX_VALUE,
                    value,
                    (long) Integer.MAX_VALUE);
        }
        return Optional.of((int) value);
    }

    private static void checkLength(GgufFile file, String key, long length, long layers) {
        if (length != layers) {
            throw new InvalidModelException(
                    file.path() + ": " + key + " has " + length + " elements, the model has " + layers + " layers",
                    length,
                    layers);
        }
    }
}
