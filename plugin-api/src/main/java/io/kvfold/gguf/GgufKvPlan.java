package io.kvfold.gguf;

import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import java.util.Optional;
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
        Optional<long[]> map = file.integers(mapKey);
        if (map.isEmpty()) {
            if (strict.isPresent() || passes.isPresent() || windowLayers.isPresent()) {
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
        return Optional.of(plan);
    }

    /**
     * Adds {@code plan} to the metadata of {@code writer}: the map always, everything else where the plan says it.
     *
     * @param architecture value of {@link GgufKeys#ARCHITECTURE} in the same file
     */
    public static void write(GgufWriter writer, String architecture, KvPlan plan) {
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
        });
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
