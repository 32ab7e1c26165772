package io.kvfold;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.OptionalInt;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;

/**
 * Which layer of a decoder reads whose keys and values.
 *
 * <p>Layers are counted from 0 at the bottom. The queries of layer <i>i</i> attend to the keys and values of layer
 * <i>kv(i)</i>. A layer that at least one layer reads (itself included) is a <em>producer</em>: only producers have key
 * and value projections and rows in the KV cache, so the cache takes {@link #kvLayerCount()} / {@link #layers()} of its
 * standard size. Being a producer and reading somebody else's rows are independent of each other: in
 * {@code 0_2_1_3} layers 1 and 2 do both.
 *
 * <p>A layer with kv(i) &gt; i reads <em>upward</em>, from a layer that is computed after it. It sees strictly earlier
 * positions only, never its own; at the first position it sees nothing and its attention contributes zero. A token that
 * is decoded alone costs one ordinary pass and is exact; a chunk of several tokens is iterated, see
 * {@link #prefillPasses()}.
 *
 * <p>The text form, which is the same here, on the command line, in GGUF metadata and in logs, is that of LCKV's
 * {@code layer_types} followed by attributes:
 *
 * <pre>
 * plan      = map , { ";" , attribute } ;
 * map       = layer , { "_" , layer } ;                 (* one per layer, layer 0 first; at most 512 *)
 * layer     = number , [ "s" ] ;                        (* kv(i); "s": this layer reads through a sliding window *)
 * attribute = "window=" , number                        (* width, from 1; required if, and only if, there is an "s" *)
 *           | "sinks=" , number                         (* first positions that the window never loses, from 1 *)
 *           | "strict"                                  (* every layer masks its own position, as force_nodiag *)
 *           | "passes=" , number                        (* prefill passes of an upward group, from 1 *)
 *           | "exact"                                   (* instead of passes: prefill like one token at a time *)
 *           | "lazy=" , ( decimal | "default" )         (* automatic retention by a threshold, from 0 to 1 *)
 *           | "full=" , number                          (* or by the number of layers that stay full, from 0 *)
 *           | "queries=" , number                       (* of the last queries of the prompt that are scored, 1 to 512 *)
 *           | "decide=" , ( "early" | "end" | "decode" )
 *           | "keep=" , number , { "_" , number }       (* layers that are never lazy *)
 *           | "evict=" , method , ":" , budget          (* tokens that stay when a prompt has ended *)
 *           | name , "=" , number                       (* of the method, see Eviction *)
 *           | "at=" , ( "end" | "chunk" , [ ":" , number ] )  (* also on the way, after each chunk *)
 *           | "answer=" , number                        (* and during the answer, after each so many tokens, from 1 *)
 *           | "skip=" , number , { "_" , number } ;     (* layers that keep every token *)
 * method    = "knorm" | "keydiff" | "lagkv" | "streaming" | "snapkv" | "tova" | "pyramidkv" | "chunkkv" | "observed"
 *           | "expected" | "h2o" | "rkv" | "keyformer" | "corm" ;
 * budget    = number | digit , { digit } , "." , digit , { digit } ;
 * decimal   = digit , [ "." , digit , { digit } ] ;     (* at most 6 digits after the point *)
 * number    = digit , { digit } ;                       (* at most 9 digits *)
 * </pre>
 *
 * Each attribute appears at most once, in any order, except that {@code passes} and {@code exact} exclude each other.
 * {@code lazy} and {@code full} do, too; {@code queries}, {@code decide} and {@code keep} belong to one of them, with which
 * {@code window} and {@code sinks} may be left out: 1024, or 1020 with {@code full}, and 4. The numbers of a method and
 * {@code skip} belong to {@code evict}, see {@link Eviction}; {@code sinks} is for windows and method alike, and {@code recent} another name of {@code queries}. There is no white space. {@link #parse} also takes {@code layer = number , ["s"] , "x" , number} for that many equal
 * layers ({@code 0_20x20_21}), and in place of the map the name of a factory below. {@link #toString()} never prints
 * either, drops leading zeros, and prints the attributes in the order above, so that two plans are equal exactly if
 * their texts are.
 *
 * <table>
 * <caption>Names</caption>
 * <tr><th>text</th><th>factory</th></tr>
 * <tr><td>{@code standard}</td><td>{@link #standard}</td></tr>
 * <tr><td>{@code cla:K}</td><td>{@link #crossLayerAttention}</td></tr>
 * <tr><td>{@code cla:keep-ends}</td><td>{@link #keepEnds}</td></tr>
 * <tr><td>{@code cla:dense-front}</td><td>{@link #denseFront}</td></tr>
 * <tr><td>{@code cla:dense-back}</td><td>{@link #denseBack}</td></tr>
 * <tr><td>{@code lckv:W}</td><td>{@link #layerCondensed}</td></tr>
 * <tr><td>{@code pizza-bottom:N} … {@code lasagna-top:N}</td><td>{@link #of(Partition, Position, int, int)}</td></tr>
 * <tr><td>{@code streaming}, {@code streaming:RECENT}</td><td>{@link #streaming}</td></tr>
 * <tr><td>{@code simlayerkv}, {@code simlayerkv:THRESHOLD}</td><td>{@link #simLayerKv}</td></tr>
 * <tr><td>{@code lighttransfer:N}</td><td>{@link #lightTransfer}</td></tr>
 * <tr><td>{@code yoco:WINDOW}</td><td>{@link #yoco}</td></tr>
 * <tr><td>{@code mlkv:N}</td><td>{@link #mlkv}</td></tr>
 * </table>
 *
 * <p>A layer that reads through a sliding window with sinks <em>retains</em> only the first few and the most recent
 * tokens; SimLayerKV calls it lazy. That needs no training for the plan, see {@link #withRetention}. Which layers are lazy
 * can also be left to the engine, which finds it out for each sequence, see {@link #withAutomaticRetention}. What a
 * producer keeps is the widest of its readers' needs.
 *
 * <p>Immutable.
 *
 * @see <a href="https://arxiv.org/abs/2405.10637">LCKV</a>, <a href="https://arxiv.org/abs/2405.12981">CLA</a>, <a
 *     href="https://arxiv.org/abs/2410.14442">A Systematic Study of Cross-Layer KV Sharing</a>, <a
 *     href="https://arxiv.org/abs/2406.09297">MLKV</a>, <a href="https://arxiv.org/abs/2405.05254">YOCO</a>, <a
 *     href="https://arxiv.org/abs/2410.13846">SimLayerKV</a>, <a
 *     href="https://arxiv.org/abs/2309.17453">StreamingLLM</a>
 */
public final class KvPlan {
    /** The most layers a plan can have, which is also llama.cpp's limit ({@code LLAMA_MAX_LAYERS}). */
    public static final int MAX_LAYERS = 512;

    /** The sinks that StreamingLLM and SimLayerKV keep. */
    public static final int DEFAULT_SINKS = 4;

    /** The recent tokens that SimLayerKV keeps in a lazy layer. */
    public static final int DEFAULT_RECENT = 1024;

    /** The recent tokens that LightTransfer keeps in a lazy layer. */
    public static final int LIGHT_TRANSFER_RECENT = 1020;

    private static final Pattern LAYER = Pattern.compile("([0-9]{1,9})(s)?(?:x([0-9]{1,9}))?");
    private static final Pattern DECIMAL = Pattern.compile("[0-9]{1,3}(\\.[0-9]{1,6})?");
    private static final Pattern NUMBER = Pattern.compile("[0-9]{1,9}");

    /** Where the layers that share their keys and values lie (Systematic Study, section 3). */
    public enum Partition {
        /** The upper layers share. */
        PIZZA,
        /** The layers in between share; layers at the bottom and at the top keep their own. */
        SANDWICH,
        /** Consecutive groups of (nearly) equal size share. */
        LASAGNA
    }

    /** Which layer of a group of sharing layers produces the keys and values. */
    public enum Position {
        /** The lowest: readers follow it, one pass. */
        BOTTOM,
        /** The one at half height, rounded down. */
        MIDDLE,
        /** The highest: all others read upward. */
        TOP
    }

    /**
     * A run of neighbouring layers that is computed as a whole when a chunk of tokens is prefilled.
     *
     * @param first the lowest layer
     * @param last the highest layer, included
     * @param iterated whether the run contains upward readers and is repeated from its input in every prefill pass;
     *     otherwise it runs once
     */
    public record Group(int first, int last, boolean iterated) {}

    private final int[] kvLayer;
    private final boolean[] windowed;
    private final boolean[] producer;
    private final int window; // 0: no layer has one
    private final int sinks;
    private final boolean strictDiagonal;
    private final OptionalInt prefillPasses;
    private final Optional<AutomaticRetention> automatic;
    private final Optional<Eviction> eviction;

    private KvPlan(
            int[] kvLayer,
            boolean[] windowed,
            int window,
            int sinks,
            boolean strictDiagonal,
            OptionalInt prefillPasses,
            Optional<AutomaticRetention> automatic,
            Optional<Eviction> eviction) {
        int layers = kvLayer.length;
        if (layers == 0) {
            throw new InvalidPlanException("a KV plan needs at least 1 layer", 0L, 1L);
        }
        if (layers > MAX_LAYERS) {
            throw tooManyLayers(layers);
        }
        this.kvLayer = kvLayer;
        this.windowed = windowed;
        this.window = window;
        this.sinks = sinks;
        this.strictDiagonal = strictDiagonal;
        this.prefillPasses = prefillPasses;
        this.automatic = automatic;
        this.eviction = window == 0 ? eviction : eviction.map(which -> which.besideWindows(sinks));
        producer = new boolean[layers];
        boolean anyWindowed = false;
        for (int i = 0; i < layers; i++) {
            if (kvLayer[i] < 0 || kvLayer[i] >= layers) {
                throw new InvalidPlanException(
                        "layer " + i + " reads layer " + kvLayer[i] + ", but the layers are 0 to " + (layers - 1),
                        (long) kvLayer[i],
                        layers - 1L);
            }
            producer[kvLayer[i]] = true;
            anyWindowed |= windowed[i];
            if (windowed[i] && window == 0) {
                throw new InvalidPlanException(
                        "layer " + i + " reads through a sliding window, but the plan gives no window=N");
            }
        }
        eviction.ifPresent(this::checkEviction);
        if (automatic.isPresent()) {
            checkAutomatic(automatic.get());
            return;
        }
        if (window != 0 && !anyWindowed) {
            throw noWindowReader("window=" + window);
        }
        if (sinks != 0 && !anyWindowed) {
            throw noWindowReader("sinks=" + sinks);
        }
    }

    // ---- factories ------------------------------------------------------------------------------------------------

    /**
     * The map with the given entries; no windows, no attributes.
     *
     * @param kvLayers kv(i) for each layer i, layer 0 first
     * @throws InvalidPlanException if there are no or more than {@value #MAX_LAYERS} layers, or an entry is not a layer
     */
    public static KvPlan of(int... kvLayers) {
        return new KvPlan(
                kvLayers.clone(),
                new boolean[kvLayers.length],
                0,
                0,
                false,
                OptionalInt.empty(),
                Optional.empty(),
                Optional.empty());
    }

    /** Every layer reads its own keys and values: an ordinary decoder. */
    public static KvPlan standard(int layers) {
        int[] map = identity(layers);
        return of(map);
    }

    /**
     * CLA: consecutive groups of {@code k} layers read the group's lowest layer. If k does not divide the number of
     * layers, the odd group is at the bottom and smaller.
     *
     * @param layers the model's layers
     * @param k group size, from 1
     */
    public static KvPlan crossLayerAttention(int layers, int k) {
        checkLayers(layers, 1);
        if (k < 1) {
            throw new InvalidPlanException("cla:" + k + " needs a group size of at least 1", (long) k, 1L);
        }
        if (k > layers) {
            throw new InvalidPlanException(
                    "cla:" + k + " needs groups of " + k + " layers, but there are only " + layers + " layers",
                    (long) k,
                    (long) layers);
        }
        int odd = layers % k;
        int[] map = new int[layers];
        for (int i = 0; i < layers; i++) {
            map[i] = i < odd ? 0 : i - (i - odd) % k;
        }
        return of(map);
    }

    /**
     * CLA's Keep-Ends: the first and the last layer on their own, pairs in between; an odd one is at the bottom.
     *
     * @param layers the model's layers, from 2
     */
    public static KvPlan keepEnds(int layers) {
        checkLayers(layers, 2);
        int[] map = identity(layers);
        for (int i = layers - 2; i >= 2; i -= 2) {
            map[i] = i - 1;
        }
        return of(map);
    }

    /**
     * CLA's Dense-Front: the lower half on their own, then all but the last layer read the highest of these.
     *
     * @param layers the model's layers, from 2
     */
    public static KvPlan denseFront(int layers) {
        checkLayers(layers, 2);
        int[] map = identity(layers);
        Arrays.fill(map, layers / 2, layers - 1, layers / 2 - 1);
        return of(map);
    }

    /**
     * CLA's Dense-Back: layers 0 and 1 on their own, a run that reads layer 1, then layers / 2 - 1 on their own.
     *
     * @param layers the model's layers, from 2
     */
    public static KvPlan denseBack(int layers) {
        checkLayers(layers, 2);
        int[] map = identity(layers);
        Arrays.fill(map, 2, Math.max(2, layers - layers / 2 + 1), 1);
        return of(map);
    }

    /**
     * LCKV: {@code warmupLayers} ordinary layers, half of them at the bottom (rounded up) and half at the top; all
     * layers in between read the highest of these. The same as sandwich-top with one KV layer more than warm-up layers.
     *
     * @param layers the model's layers
     * @param warmupLayers 0 to layers - 1
     */
    public static KvPlan layerCondensed(int layers, int warmupLayers) {
        checkLayers(layers, 1);
        if (warmupLayers < 0 || warmupLayers >= layers) {
            throw new InvalidPlanException(
                    "lckv:" + warmupLayers + " needs 0 to " + (layers - 1) + " warm-up layers among " + layers
                            + " layers",
                    (long) warmupLayers,
                    layers - 1L);
        }
        return of(Partition.SANDWICH, Position.TOP, layers, warmupLayers + 1);
    }

    /**
     * One of the nine maps of the Systematic Study.
     *
     * <p>With <i>l</i> KV layers: pizza keeps layers 0 to l-2 on their own and shares above; sandwich keeps
     * ceil((l-1)/2) at the bottom and floor((l-1)/2) at the top on their own and shares in between; lasagna shares in l
     * groups of nearly equal size, smaller ones below. As the study keeps layer 0 a producer, lasagna-middle and
     * lasagna-top with l &gt; 1 leave layer 0 on its own and make l-1 groups of the rest.
     *
     * @param partition where the sharing layers lie
     * @param position which of them produces
     * @param layers the model's layers
     * @param kvLayers how many layers produce, 1 to layers
     */
    public static KvPlan of(Partition partition, Position position, int layers, int kvLayers) {
        checkLayers(layers, 1);
        if (kvLayers < 1 || kvLayers > layers) {
            throw new InvalidPlanException(
                    name(partition, position) + ":" + kvLayers + " needs 1 to " + layers + " KV layers",
                    (long) kvLayers,
                    (long) layers);
        }
        int[] map = identity(layers);
        switch (partition) {
            case PIZZA -> share(map, kvLayers - 1, layers - 1, position);
            case SANDWICH -> share(map, kvLayers / 2, layers - 1 - (kvLayers - 1) / 2, position);
            case LASAGNA -> {
                boolean alone = position != Position.BOTTOM && kvLayers > 1;
                int groups = alone ? kvLayers - 1 : kvLayers;
                int first = alone ? 1 : 0;
                for (int group = groups; group > 0; group--) {
                    int size = (layers - first) / group;
                    share(map, first, first + size - 1, position);
                    first += size;
                }
            }
        }
        return of(map);
    }

    /**
     * YOCO: the lower half of the layers attends to its own keys and values through a sliding window; the upper half
     * reads the keys and values of layer layers / 2.
     *
     * @param layers the model's layers, from 2
     * @param window see {@link #window()}
     */
    public static KvPlan yoco(int layers, int window) {
        checkLayers(layers, 2);
        int half = layers / 2;
        int[] map = identity(layers);
        Arrays.fill(map, half, layers, half);
        return of(map).withWindow(window, Arrays.copyOf(identity(layers), half));
    }

    /**
     * StreamingLLM: every layer retains {@value #DEFAULT_SINKS} sinks and the most recent tokens, so that the cache has
     * the same size however long the text is.
     *
     * @param layers the model's layers
     * @param recent see {@link #withRetention}
     */
    public static KvPlan streaming(int layers, int recent) {
        int[] all = identity(layers);
        return of(all).withRetention(DEFAULT_SINKS, recent, all);
    }

    /**
     * SimLayerKV: the engine tells for each sequence which layers are lazy, those whose last {@link
     * AutomaticRetention#DEFAULT_QUERIES} prompt queries attend to {@value #DEFAULT_SINKS} sinks and the most recent {@value
     * #DEFAULT_RECENT} positions with a score above the threshold.
     *
     * @param layers the model's layers
     * @param threshold from 0 to 1, see {@link AutomaticRetention#above}; empty for that of the model's family
     */
    public static KvPlan simLayerKv(int layers, OptionalDouble threshold) {
        AutomaticRetention how = threshold.isPresent()
                ? AutomaticRetention.above(threshold.getAsDouble())
                : AutomaticRetention.aboveDefault();
        return standard(layers).withAutomaticRetention(DEFAULT_SINKS, DEFAULT_RECENT, how);
    }

    /**
     * LightTransfer: the engine tells for each sequence which {@code fullLayers} layers are the least lazy; the others
     * keep {@value #DEFAULT_SINKS} sinks and the most recent {@value #LIGHT_TRANSFER_RECENT} positions.
     *
     * @param layers the model's layers
     * @param fullLayers from 0 to layers
     */
    public static KvPlan lightTransfer(int layers, int fullLayers) {
        return standard(layers)
                .withAutomaticRetention(
                        DEFAULT_SINKS, LIGHT_TRANSFER_RECENT, AutomaticRetention.keepingFull(fullLayers));
    }

    /**
     * MLKV: {@code kvLayers} consecutive groups of nearly equal size read their lowest layer; lasagna-bottom. The
     * method's other half, fewer KV heads, is a property of the model, not of the plan.
     *
     * @param layers the model's layers
     * @param kvLayers how many layers produce, 1 to layers
     */
    public static KvPlan mlkv(int layers, int kvLayers) {
        return of(Partition.LASAGNA, Position.BOTTOM, layers, kvLayers);
    }

    /**
     * Reads a plan whose map is written out.
     *
     * @throws InvalidPlanException if the text breaks the grammar above, or one of the names is used, since those need
     *     the number of layers
     */
    public static KvPlan parse(String text) {
        return new Parser(text, OptionalInt.empty()).plan();
    }

    /**
     * Reads a plan for a model with {@code layers} layers: a map that is written out, or one of the names above.
     *
     * @throws InvalidPlanException if the text breaks the grammar above or has another number of layers
     */
    public static KvPlan parse(String text, int layers) {
        checkLayers(layers, 1);
        return new Parser(text, OptionalInt.of(layers)).plan();
    }

    // ---- variations -----------------------------------------------------------------------------------------------

    /**
     * This plan with exactly the given layers reading through a sliding window.
     *
     * @param width see {@link #window()}, from 1
     * @param layers the layers that have it, at least one
     */
    public KvPlan withWindow(int width, int... layers) {
        if (width < 1) {
            throw new InvalidPlanException(
                    "window=" + width + " is too small, the least is 1: the position itself", (long) width, 1L);
        }
        boolean[] marks = new boolean[layers()];
        for (int layer : layers) {
            checkLayer(layer);
            marks[layer] = true;
        }
        return new KvPlan(kvLayer, marks, width, sinks, strictDiagonal, prefillPasses, automatic, eviction);
    }

    /**
     * This plan with window readers that see the first positions of a sequence as well, wherever the window is.
     *
     * @param positions from 0, which means the window alone
     * @throws InvalidPlanException if it is negative, or no layer reads through a window
     */
    public KvPlan withSinks(int positions) {
        if (positions < 0) {
            throw new InvalidPlanException("sinks=" + positions + " is negative", (long) positions, 0L);
        }
        return new KvPlan(kvLayer, windowed, window, positions, strictDiagonal, prefillPasses, automatic, eviction);
    }

    /**
     * This plan with exactly the given layers retaining only sinks and recent tokens: {@link #withWindow} and
     * {@link #withSinks} together. Positions stay as they were.
     *
     * @param sinks first positions to keep, from 0; usually {@value #DEFAULT_SINKS}
     * @param recent most recent positions to keep, the current one included, from 1; usually {@value #DEFAULT_RECENT}
     * @param layers the lazy layers, at least one
     */
    public KvPlan withRetention(int sinks, int recent, int... layers) {
        return withWindow(recent, layers).withSinks(sinks);
    }

    /**
     * This plan with lazy layers that the engine finds out at run time, for each sequence by itself.
     *
     * <p>While a sequence has not decided, its keys and values of the layers in question are in the full part of the
     * cache; then those that a lazy layer keeps are copied into the window-sized one, and the rest gives its memory back.
     * A producer is kept in full as long as one of its readers needs that.
     *
     * @param sinks first positions that a lazy layer keeps, from 1; usually {@value #DEFAULT_SINKS}
     * @param recent most recent positions that it keeps, the current one included, from 1
     * @param how which layers are lazy, and when that is decided
     * @throws InvalidPlanException if a number is out of range, a layer reads upward, no layer is left to decide on, or
     *     more are to stay full than there are
     */
    public KvPlan withAutomaticRetention(int sinks, int recent, AutomaticRetention how) {
        if (sinks < 1) {
            throw new InvalidPlanException("sinks=" + sinks + " is too small, the least is 1", (long) sinks, 1L);
        }
        if (recent < 1) {
            throw new InvalidPlanException("window=" + recent + " is too small, the least is 1", (long) recent, 1L);
        }
        return new KvPlan(kvLayer, windowed, recent, sinks, strictDiagonal, prefillPasses, Optional.of(how), eviction);
    }

    /**
     * This plan with layers that keep some tokens of a sequence when its prompt has ended.
     *
     * @throws InvalidPlanException if it skips a layer that does not exist, no layer is left to evict from, retention is
     *     automatic, or a layer reads through a window what another one needs in full
     */
    public KvPlan withEviction(Eviction which) {
        return new KvPlan(
                kvLayer, windowed, window, sinks, strictDiagonal, prefillPasses, automatic, Optional.of(which));
    }

    /** This plan with every layer masking its own position, or only the upward readers. */
    public KvPlan withStrictDiagonal(boolean strict) {
        return new KvPlan(kvLayer, windowed, window, sinks, strict, prefillPasses, automatic, eviction);
    }

    /**
     * This plan with a number of prefill passes.
     *
     * @param passes from 1, or 0 for an exact prefill; see {@link #prefillPasses()}
     */
    public KvPlan withPrefillPasses(int passes) {
        if (passes < 0) {
            throw new InvalidPlanException(
                    "passes=" + passes + " is negative; the least is 1, or 0 for an exact prefill", (long) passes, 0L);
        }
        return new KvPlan(
                kvLayer, windowed, window, sinks, strictDiagonal, OptionalInt.of(passes), automatic, eviction);
    }

    // ---- what the plan says ---------------------------------------------------------------------------------------

    /** The number of layers, L. */
    public int layers() {
        return kvLayer.length;
    }

    /** kv(i): the layer whose keys and values the queries of layer {@code layer} read. */
    public int kvLayer(int layer) {
        checkLayer(layer);
        return kvLayer[layer];
    }

    /** The whole map: kv(i) for every layer, a copy. */
    public int[] kvLayers() {
        return kvLayer.clone();
    }

    /** Whether some layer reads this layer's keys and values, so that it computes and stores them. */
    public boolean isProducer(int layer) {
        checkLayer(layer);
        return producer[layer];
    }

    /** The number of producers, l. */
    public int kvLayerCount() {
        int count = 0;
        for (boolean p : producer) {
            count += p ? 1 : 0;
        }
        return count;
    }

    /** Whether this layer reads a higher layer. */
    public boolean isUpward(int layer) {
        checkLayer(layer);
        return kvLayer[layer] > layer;
    }

    /** Whether any layer reads a higher layer, so that prefill has to iterate. */
    public boolean isUpward() {
        for (int i = 0; i < kvLayer.length; i++) {
            if (kvLayer[i] > i) {
                return true;
            }
        }
        return false;
    }

    /** Whether this layer masks its own position: it is an upward reader, or the plan is {@link #strictDiagonal()}. */
    public boolean masksDiagonal(int layer) {
        return isUpward(layer) || strictDiagonal;
    }

    /** Whether this layer reads through the sliding {@link #window()}. A property of the reader, not of the producer. */
    public boolean usesWindow(int layer) {
        checkLayer(layer);
        return windowed[layer];
    }

    /**
     * Whether this layer is a producer of whose rows only the {@link #sinks()} and the last {@link #window()} are ever
     * read, as all its readers use the window.
     */
    public boolean keepsOnlyWindow(int layer) {
        checkLayer(layer);
        boolean only = producer[layer];
        for (int i = 0; i < kvLayer.length; i++) {
            only &= kvLayer[i] != layer || windowed[i];
        }
        return only;
    }

    /**
     * The width of the sliding window in positions, own position included: position t sees s if t - s &lt; window. This
     * is llama.cpp's {@code n_swa}; LCKV's {@code sliding_window} W means W here for its eager attention and W + 1 for
     * its flash attention. Empty if no layer uses a window.
     */
    public OptionalInt window() {
        return window == 0 ? OptionalInt.empty() : OptionalInt.of(window);
    }

    /** The number of first positions that window readers see besides the window; 0 if they see the window alone. */
    public int sinks() {
        return sinks;
    }

    /** How the engine finds further lazy layers at run time; empty if the plan says it all. */
    public Optional<AutomaticRetention> automaticRetention() {
        return automatic;
    }

    /** Which tokens stay when a prompt has ended; empty if all do. */
    public Optional<Eviction> eviction() {
        return eviction;
    }

    /** Whether this layer may turn out lazy: retention is automatic, and neither fixes it nor keeps it full. */
    public boolean mayBeLazy(int layer) {
        checkLayer(layer);
        return automatic.isPresent() && isCandidate(automatic.get(), layer);
    }

    /**
     * Whether this layer is a producer of whose rows some sequences need all and others only the window, as its readers
     * turn out: it has address space for both. So it is if some reader {@linkplain #mayBeLazy may be lazy} and the
     * others use the window.
     */
    public boolean mayKeepOnlyWindow(int layer) {
        checkLayer(layer);
        boolean some = false;
        for (int i = 0; i < kvLayer.length; i++) {
            if (kvLayer[i] == layer) {
                if (!mayBeLazy(i) && !windowed[i]) {
                    return false;
                }
                some |= mayBeLazy(i);
            }
        }
        return some;
    }

    /** Whether every layer masks its own position, not only upward readers ({@code force_nodiag} in LCKV). */
    public boolean strictDiagonal() {
        return strictDiagonal;
    }

    /**
     * How often an {@linkplain Group#iterated iterated} group is computed for a chunk of several tokens of a sequence:
     * with p passes the first p tokens of the chunk are exact and the others approximate, so that no implementation
     * needs more passes than the chunk has tokens. LCKV's default is 9 (m + b). 0 means exact, as if the tokens had
     * come one at a time; empty means that the plan leaves it to the engine. Without upward readers it has no effect.
     */
    public OptionalInt prefillPasses() {
        return prefillPasses;
    }

    /**
     * Whether this is an ordinary decoder: kv(i) = i everywhere, no window, automatic or not, no strict diagonal, no
     * eviction.
     */
    public boolean isStandard() {
        return window == 0 && !strictDiagonal && eviction.isEmpty() && Arrays.equals(kvLayer, identity(layers()));
    }

    /**
     * The order of computation of a chunk, bottom up. An iterated group opens at an upward reader and extends to the
     * highest layer that any of its layers reads; all other layers form maximal runs that are computed once.
     */
    public List<Group> groups() {
        List<Group> groups = new ArrayList<>();
        int next = 0;
        while (next < kvLayer.length) {
            int first = next;
            int last = first;
            boolean iterated = kvLayer[first] > first;
            if (iterated) {
                for (int i = first; i <= last; i++) {
                    last = Math.max(last, kvLayer[i]);
                }
            } else {
                while (last + 1 < kvLayer.length && kvLayer[last + 1] <= last + 1) {
                    last++;
                }
            }
            groups.add(new Group(first, last, iterated));
            next = last + 1;
        }
        return List.copyOf(groups);
    }

    /**
     * A picture of several lines, the top layer first: which layer stores keys and values ({@code KV}), and by lines
     * and in words which one it reads. No trailing newline. For people; not a format to parse.
     */
    public String picture() {
        int[] lowest = lowest();
        int[] highest = highest();
        int[] lane = lanes(lowest, highest);
        int lanes = Arrays.stream(lane).max().orElse(-1) + 1;
        int width = Integer.toString(layers() - 1).length();
        StringBuilder out = new StringBuilder();
        out.append(layers()).append(" layers, ").append(kvLayerCount()).append(" with a KV cache");
        if (window != 0) {
            out.append(", window ").append(window);
        }
        if (sinks != 0) {
            out.append(" and ").append(sinks).append(sinks == 1 ? " sink" : " sinks");
        }
        automatic.ifPresent(how -> out.append(", automatic retention ").append(how));
        eviction.ifPresent(which -> out.append(", eviction ").append(which));
        if (strictDiagonal) {
            out.append(", strict diagonal");
        }
        if (prefillPasses.isPresent()) {
            int passes = prefillPasses.getAsInt();
            out.append(passes == 0 ? ", exact prefill" : ", prefill passes " + passes);
        }
        for (int i = layers() - 1; i >= 0; i--) {
            StringBuilder row = new StringBuilder();
            row.append(' ').append(padded(i, width)).append(producer[i] ? "  KV " : "     ");
            row.append(drawLanes(i, lane, lanes, lowest, highest));
            if (kvLayer[i] != i) {
                row.append("  reads ").append(kvLayer[i]);
                row.append(kvLayer[i] > i ? " above" : "");
            }
            row.append(windowed[i] ? (kvLayer[i] == i ? "  in the window" : " in the window") : "");
            out.append('\n').append(row.toString().stripTrailing());
        }
        return out.toString();
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof KvPlan that
                && Arrays.equals(kvLayer, that.kvLayer)
                && Arrays.equals(windowed, that.windowed)
                && window == that.window
                && sinks == that.sinks
                && strictDiagonal == that.strictDiagonal
                && prefillPasses.equals(that.prefillPasses)
                && automatic.equals(that.automatic)
                && eviction.equals(that.eviction);
    }

    @Override
    public int hashCode() {
        return toString().hashCode();
    }

    /** The canonical text, which {@link #parse(String)} reads back. */
    @Override
    public String toString() {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < kvLayer.length; i++) {
            text.append(i == 0 ? "" : "_").append(kvLayer[i]).append(windowed[i] ? "s" : "");
        }
        if (window != 0) {
            text.append(";window=").append(window);
        }
        if (sinks != 0) {
            text.append(";sinks=").append(sinks);
        }
        automatic.ifPresent(how -> text.append(';').append(how));
        eviction.ifPresent(which -> text.append(';').append(which.text(sinks == 0)));
        if (strictDiagonal) {
            text.append(";strict");
        }
        if (prefillPasses.isPresent()) {
            int passes = prefillPasses.getAsInt();
            text.append(passes == 0 ? ";exact" : ";passes=" + passes);
        }
        return text.toString();
    }

    // ---- parts ----------------------------------------------------------------------------------------------------

    private static int[] identity(int layers) {
        checkLayers(layers, 1);
        int[] map = new int[layers];
        Arrays.setAll(map, i -> i);
        return map;
    }

    private static void share(int[] map, int first, int last, Position position) {
        int target = switch (position) {
            case BOTTOM -> first;
            case MIDDLE -> (first + last) / 2;
            case TOP -> last;
        };
        Arrays.fill(map, first, last + 1, target);
    }

    private static String name(Partition partition, Position position) {
        return (partition + "-" + position).toLowerCase(Locale.ROOT);
    }

    private static void checkLayers(int layers, int least) {
        if (layers < least) {
            throw new InvalidPlanException(
                    "this KV plan needs at least " + least + " layers, not " + layers, (long) layers, (long) least);
        }
        if (layers > MAX_LAYERS) {
            throw tooManyLayers(layers);
        }
    }

    private static InvalidPlanException noWindowReader(String attribute) {
        return new InvalidPlanException(attribute + " is given, but no layer reads through a window (12s)");
    }

    private static InvalidPlanException tooManyLayers(long layers) {
        return new InvalidPlanException(
                "a KV plan has at most " + MAX_LAYERS + " layers, not " + layers, layers, (long) MAX_LAYERS);
    }

    private boolean isCandidate(AutomaticRetention how, int layer) {
        return !windowed[layer] && !how.keptFull().contains(layer);
    }

    private void checkAutomatic(AutomaticRetention how) {
        if (isUpward()) {
            throw new InvalidPlanException(
                    "automatic retention needs layers that read downward, but this plan has upward readers");
        }
        how.keptFull().forEach(this::checkLayer);
        long candidates = IntStream.range(0, kvLayer.length)
                .filter(layer -> isCandidate(how, layer))
                .count();
        if (candidates == 0) {
            throw new InvalidPlanException("automatic retention has no layer to decide on");
        }
        if (IntStream.range(0, kvLayer.length).noneMatch(layer -> mayKeepOnlyWindow(layer))) {
            throw new InvalidPlanException("automatic retention could free nothing: all that its layers read is read in"
                    + " full by layers that it leaves alone");
        }
        if (how.fullLayers() > candidates) {
            throw new InvalidPlanException(
                    "full=" + how.fullLayers() + " is more than the " + candidates + " layers to choose from",
                    (long) how.fullLayers(),
                    candidates);
        }
    }

    private void checkEviction(Eviction which) {
        which.skipped().forEach(this::checkLayer);
        which.check();
        if (which.method().looksAtQueries() && isUpward()) {
            throw new InvalidPlanException(
                    "eviction by the attention of queries needs layers that read downward, but this"
                            + " plan has upward readers");
        }
        if (automatic.isPresent()) {
            throw new InvalidPlanException("eviction cannot be combined with lazy layers that are told at run time");
        }
        for (int i = 0; i < kvLayer.length; i++) {
            if (windowed[i] && !keepsOnlyWindow(kvLayer[i])) {
                throw new InvalidPlanException("layer " + i + " reads through a window what layer " + kvLayer[i]
                        + " keeps for others, from which eviction may take the recent tokens");
            }
        }
        if (IntStream.range(0, kvLayer.length)
                .noneMatch(layer -> producer[layer]
                        && !keepsOnlyWindow(layer)
                        && !which.skipped().contains(layer))) {
            throw new InvalidPlanException("eviction has no layer to evict from");
        }
    }

    private void checkLayer(int layer) {
        if (layer < 0 || layer >= kvLayer.length) {
            throw new InvalidPlanException(
                    "there is no layer " + layer + ": the layers are 0 to " + (kvLayer.length - 1),
                    (long) layer,
                    kvLayer.length - 1L);
        }
    }

    /** For each producer the lowest layer that reads it, or itself if none is lower. */
    private int[] lowest() {
        int[] lowest = identity(layers());
        for (int i = layers() - 1; i >= 0; i--) {
            lowest[kvLayer[i]] = Math.min(lowest[kvLayer[i]], i);
        }
        return lowest;
    }

    /** For each producer the highest layer that reads it, or itself if none is higher. */
    private int[] highest() {
        int[] highest = identity(layers());
        for (int i = 0; i < layers(); i++) {
            highest[kvLayer[i]] = Math.max(highest[kvLayer[i]], i);
        }
        return highest;
    }

    /** The lane in which a producer with other readers is drawn, so that lanes in use never overlap; -1: no lane. */
    private static int[] lanes(int[] lowest, int[] highest) {
        int[] lane = new int[lowest.length];
        Arrays.fill(lane, -1);
        List<Integer> freeFrom = new ArrayList<>();
        for (int bottom = 0; bottom < lane.length; bottom++) {
            for (int p = 0; p < lane.length; p++) {
                if (lowest[p] != bottom || lowest[p] == highest[p]) {
                    continue;
                }
                int free = 0;
                while (free < freeFrom.size() && freeFrom.get(free) > bottom) {
                    free++;
                }
                if (free == freeFrom.size()) {
                    freeFrom.add(0);
                }
                freeFrom.set(free, highest[p] + 1);
                lane[p] = free;
            }
        }
        return lane;
    }

    private String drawLanes(int layer, int[] lane, int lanes, int[] lowest, int[] highest) {
        char[] row = new char[2 * lanes];
        Arrays.fill(row, ' ');
        for (int p = 0; p < layers(); p++) {
            if (lane[p] >= 0 && lowest[p] < layer && layer < highest[p]) {
                row[2 * lane[p] + 1] = '|';
            }
        }
        if (lane[layer] >= 0) {
            connect(row, lane[layer]);
            row[0] = '<';
        }
        if (kvLayer[layer] != layer) {
            connect(row, lane[kvLayer[layer]]);
        }
        return new String(row);
    }

    private static void connect(char[] row, int lane) {
        int column = 2 * lane + 1;
        for (int i = 0; i < column; i++) {
            row[i] = row[i] == ' ' ? '-' : row[i];
        }
        row[column] = '+';
    }

    private static String padded(int number, int width) {
        String digits = Integer.toString(number);
        return " ".repeat(width - digits.length()) + digits;
    }

    /** Reads the text form; messages name the layer or the attribute at fault. */
    private static final class Parser {
        private final String text;
        private final OptionalInt layers;

        Parser(String text, OptionalInt layers) {
            this.text = text;
            this.layers = layers;
        }

        KvPlan plan() {
            String[] parts = text.split(";", -1);
            OptionalInt window = OptionalInt.empty();
            OptionalInt sinks = OptionalInt.empty();
            OptionalInt passes = OptionalInt.empty();
            boolean strict = false;
            Optional<AutomaticRetention> automatic = Optional.empty();
            OptionalInt queries = OptionalInt.empty();
            Optional<AutomaticRetention.Decision> decision = Optional.empty();
            Optional<int[]> keep = Optional.empty();
            Map<String, String> evicting = new LinkedHashMap<>();
            for (int i = 1; i < parts.length; i++) {
                String attribute = parts[i];
                if (attribute.startsWith("window=")) {
                    once("window", window.isEmpty());
                    window = OptionalInt.of(number(attribute, "window=".length(), 1));
                } else if (attribute.startsWith("sinks=")) {
                    once("sinks", sinks.isEmpty());
                    sinks = OptionalInt.of(number(attribute, "sinks=".length(), 1));
                } else if (attribute.equals("strict")) {
                    once("strict", !strict);
                    strict = true;
                } else if (attribute.startsWith("passes=")) {
                    once("passes or exact", passes.isEmpty());
                    passes = OptionalInt.of(number(attribute, "passes=".length(), 1));
                } else if (attribute.equals("exact")) {
                    once("passes or exact", passes.isEmpty());
                    passes = OptionalInt.of(0);
                } else if (attribute.startsWith("lazy=")) {
                    once("lazy or full", automatic.isEmpty());
                    automatic = Optional.of(threshold(attribute.substring("lazy=".length())));
                } else if (attribute.startsWith("full=")) {
                    once("lazy or full", automatic.isEmpty());
                    automatic = Optional.of(AutomaticRetention.keepingFull(number(attribute, "full=".length(), 0)));
                } else if (attribute.startsWith("queries=")
                        || attribute.startsWith("recent=")) { // as SnapKV calls them
                    once("queries", queries.isEmpty());
                    queries = OptionalInt.of(number(attribute, attribute.indexOf('=') + 1, 1));
                } else if (attribute.startsWith("decide=")) {
                    once("decide", decision.isEmpty());
                    decision = Optional.of(decision(attribute.substring("decide=".length())));
                } else if (attribute.startsWith("keep=")) {
                    once("keep", keep.isEmpty());
                    keep = Optional.of(
                            Arrays.stream(attribute.substring("keep=".length()).split("_", -1))
                                    .mapToInt(layer -> number(layer, 0, 0))
                                    .toArray());
                } else if (Eviction.hasAttribute(attribute.substring(0, Math.max(0, attribute.indexOf('='))))) {
                    int equals = attribute.indexOf('=');
                    String name = attribute.substring(0, equals);
                    once(name, evicting.put(name, attribute.substring(equals + 1)) == null);
                } else {
                    throw new InvalidPlanException("the KV plan " + quoted(text) + " has the attribute "
                            + quoted(attribute) + ", but there are only window=N, sinks=N, lazy=THRESHOLD, full=N,"
                            + " queries=N, decide=WHEN, keep=LAYERS, evict=METHOD:BUDGET, at=WHEN, answer=N,"
                            + " skip=LAYERS, "
                            + Eviction.parameterNames() + ", strict, passes=N and exact");
                }
            }
            Optional<Eviction> eviction = eviction(evicting, sinks, queries);
            if (eviction.isPresent()) {
                queries = OptionalInt.empty();
            }
            boolean isName = !parts[0].isEmpty() && parts[0].charAt(0) >= 'a' && parts[0].charAt(0) <= 'z';
            int givenWindow = window.orElse(automatic.map(Parser::defaultRecent).orElse(0));
            KvPlan plan = isName ? named(parts[0]) : map(parts[0], givenWindow);
            boolean namedAutomatic = plan.automatic.isPresent();
            once("lazy or full", !namedAutomatic || automatic.isEmpty());
            AutomaticRetention how = automatic.or(() -> plan.automatic).orElse(null);
            if (how == null && (queries.isPresent() || decision.isPresent() || keep.isPresent())) {
                throw new InvalidPlanException(
                        "queries, decide and keep belong to automatic retention: lazy=THRESHOLD or full=N");
            }
            if (window.isPresent()) {
                once("window", !isName || namedAutomatic || plan.window == 0);
                if (how == null && plan.window == 0) {
                    throw noWindowReader("window=" + window.getAsInt());
                }
            }
            if (sinks.isPresent()) {
                once("sinks", plan.sinks == 0 || namedAutomatic);
            }
            if (how == null) {
                boolean ofMethod = plan.window == 0
                        && eviction.map(Eviction::parameters)
                                .filter(numbers -> numbers.containsKey("sinks"))
                                .isPresent();
                return new KvPlan(
                        plan.kvLayer,
                        plan.windowed,
                        plan.window,
                        ofMethod ? 0 : sinks.orElse(plan.sinks),
                        strict,
                        passes,
                        Optional.empty(),
                        eviction);
            }
            how = queries.isPresent() ? how.withQueries(queries.getAsInt()) : how;
            how = decision.isPresent() ? how.withDecision(decision.get()) : how;
            how = keep.isPresent() ? how.withKeptFull(keep.get()) : how;
            int ownWindow = plan.window == 0 ? defaultRecent(how) : plan.window;
            int ownSinks = plan.sinks == 0 ? DEFAULT_SINKS : plan.sinks;
            return new KvPlan(
                    plan.kvLayer,
                    plan.windowed,
                    window.orElse(ownWindow),
                    sinks.orElse(ownSinks),
                    strict,
                    passes,
                    Optional.of(how),
                    eviction);
        }

        private static Optional<Eviction> eviction(
                Map<String, String> attributes, OptionalInt sinks, OptionalInt queries) {
            if (attributes.isEmpty()) {
                return Optional.empty();
            }
            queries.ifPresent(number -> attributes.put("queries", String.valueOf(number)));
            Eviction eviction = Eviction.parse(attributes);
            return Optional.of(
                    sinks.isPresent() && eviction.parameters().containsKey("sinks")
                            ? eviction.with("sinks", sinks.getAsInt())
                            : eviction);
        }

        private static int defaultRecent(AutomaticRetention how) {
            return how.isByNumber() ? LIGHT_TRANSFER_RECENT : DEFAULT_RECENT;
        }

        private static AutomaticRetention threshold(String text) {
            if (text.equals("default")) {
                return AutomaticRetention.aboveDefault();
            }
            if (!DECIMAL.matcher(text).matches()) {
                throw new InvalidPlanException(
                        quoted(text)
                                + " is no threshold of lazy layers: a number from 0 to 1 with at most 6 digits after the point");
            }
            return AutomaticRetention.above(Double.parseDouble(text));
        }

        private static AutomaticRetention.Decision decision(String text) {
            for (AutomaticRetention.Decision decision : AutomaticRetention.Decision.values()) {
                if (decision.name().toLowerCase(Locale.ROOT).equals(text)) {
                    return decision;
                }
            }
            throw new InvalidPlanException(quoted(text) + " is no time to decide; there are early, end and decode");
        }

        private KvPlan map(String map, int window) {
            List<Integer> kvLayers = new ArrayList<>();
            List<Boolean> marks = new ArrayList<>();
            for (String token : map.split("_", -1)) {
                Matcher layer = LAYER.matcher(token);
                if (!layer.matches()) {
                    throw new InvalidPlanException("layer " + kvLayers.size() + " of the KV plan " + quoted(text)
                            + " is " + quoted(token) + ", which is not a layer number, alone or followed by s");
                }
                int times = layer.group(3) == null ? 1 : Integer.parseInt(layer.group(3));
                if (times == 0) {
                    throw new InvalidPlanException(
                            "layer " + kvLayers.size() + " of the KV plan " + quoted(text) + " is repeated 0 times",
                            0L,
                            1L);
                }
                if (kvLayers.size() + (long) times > MAX_LAYERS) {
                    throw tooManyLayers(kvLayers.size() + (long) times);
                }
                for (int i = 0; i < times; i++) {
                    kvLayers.add(Integer.parseInt(layer.group(1)));
                    marks.add(layer.group(2) != null);
                }
            }
            if (layers.isPresent() && layers.getAsInt() != kvLayers.size()) {
                throw new InvalidPlanException(
                        "the KV plan has " + kvLayers.size() + " layers, but the model has " + layers.getAsInt(),
                        (long) kvLayers.size(),
                        (long) layers.getAsInt());
            }
            boolean[] windowed = new boolean[marks.size()];
            for (int i = 0; i < windowed.length; i++) {
                windowed[i] = marks.get(i);
            }
            int[] entries = kvLayers.stream().mapToInt(Integer::intValue).toArray();
            boolean any = marks.contains(true);
            return new KvPlan(
                    entries,
                    windowed,
                    any ? window : 0,
                    0,
                    false,
                    OptionalInt.empty(),
                    Optional.empty(),
                    Optional.empty());
        }

        private KvPlan named(String name) {
            int colon = name.indexOf(':');
            String head = colon < 0 ? name : name.substring(0, colon);
            int count = layers.orElseThrow(() -> new InvalidPlanException("the KV plan " + quoted(name)
                    + " depends on the number of layers; without a model, write the map out"));
            for (Partition partition : Partition.values()) {
                for (Position position : Position.values()) {
                    if (head.equals(name(partition, position))) {
                        return of(partition, position, count, argument(name, colon));
                    }
                }
            }
            return switch (head) {
                case "standard" -> {
                    if (colon >= 0) {
                        throw new InvalidPlanException("the KV plan standard takes no number, not " + quoted(name));
                    }
                    yield standard(count);
                }
                case "cla" ->
                    switch (name) {
                        case "cla:keep-ends" -> keepEnds(count);
                        case "cla:dense-front" -> denseFront(count);
                        case "cla:dense-back" -> denseBack(count);
                        default -> crossLayerAttention(count, argument(name, colon));
                    };
                case "lckv" -> layerCondensed(count, argument(name, colon));
                case "streaming" -> streaming(count, colon < 0 ? DEFAULT_RECENT : argument(name, colon));
                case "simlayerkv" -> {
                    KvPlan plan = simLayerKv(count, OptionalDouble.empty());
                    AutomaticRetention how =
                            colon < 0 ? AutomaticRetention.aboveDefault() : threshold(name.substring(colon + 1));
                    yield plan.withAutomaticRetention(DEFAULT_SINKS, DEFAULT_RECENT, how);
                }
                case "lighttransfer" -> lightTransfer(count, argument(name, colon));
                case "yoco" -> yoco(count, argument(name, colon));
                case "mlkv" -> mlkv(count, argument(name, colon));
                default ->
                    throw new InvalidPlanException("there is no KV plan " + quoted(name)
                            + "; write a map such as 0_0_2_2, or standard, cla:K, cla:keep-ends, cla:dense-front,"
                            + " cla:dense-back, lckv:W, streaming:RECENT, simlayerkv:THRESHOLD, lighttransfer:N, yoco:WINDOW, mlkv:N, or pizza-, sandwich- or lasagna- with"
                            + " bottom:N, middle:N or top:N");
            };
        }

        private static int argument(String name, int colon) {
            if (colon < 0) {
                throw new InvalidPlanException("the KV plan " + quoted(name) + " needs a number, as in " + name + ":2");
            }
            return number(name, colon + 1, 0);
        }

        private static int number(String part, int from, int least) {
            String digits = part.substring(from);
            if (!NUMBER.matcher(digits).matches()) {
                throw new InvalidPlanException(
                        quoted(part) + " in the KV plan needs a number of at most 9 digits, not " + quoted(digits));
            }
            int number = Integer.parseInt(digits);
            if (number < least) {
                throw new InvalidPlanException(
                        part + " in the KV plan is too small, the least is " + least, (long) number, (long) least);
            }
            return number;
        }

        private void once(String attribute, boolean first) {
            if (!first) {
                throw new InvalidPlanException("the KV plan " + quoted(text) + " gives " + attribute + " twice");
            }
        }

        private static String quoted(String part) {
            return '"' + (part.length() <= 80 ? part : part.substring(0, 80) + "...") + '"';
        }
    }
}
