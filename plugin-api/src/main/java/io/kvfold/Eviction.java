package io.kvfold;

import java.math.BigDecimal;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.OptionalDouble;
import java.util.OptionalInt;
import java.util.Set;
import java.util.SortedMap;
import java.util.SortedSet;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * Which tokens the layers of a {@link KvPlan} keep of a sequence when its prompt has ended; the memory of the others is given
 * back.
 *
 * <p>Each KV head of each layer chooses for itself, {@link #budget} tokens of those that the sequence has. The tokens of the
 * answer are added to them, and stay unless tokens are also chosen {@linkplain #inAnswers during the answer}. The next prompt of the conversation is added too, and at its end tokens are chosen again from all
 * that is left. A prompt that departs from what the sequence has before that point is computed anew.
 *
 * <p>The prompt itself is computed with all of its tokens, so that it needs their memory once, or {@linkplain #inChunks in
 * chunks}, after each of which tokens are chosen from what is there; then no more than the budget and a chunk is there at a
 * time.
 *
 * <p>Immutable.
 *
 * @see KvPlan#withEviction
 */
public final class Eviction {
    private static final int SHARE_DIGITS = 6;
    private static final int MANY = 999_999_999;
    private static final Pattern NUMBER = Pattern.compile("[0-9]{1,9}");
    private static final Pattern DECIMAL = Pattern.compile("[0-9]{1,3}\\.[0-9]{1,6}");
    private static final String SINKS = "sinks";
    private static final String QUERIES = "queries";
    private static final String KERNEL = "kernel";
    private static final String NEWEST = "newest";
    private static final String CHUNK = "chunk";
    private static final String ANSWER = "answer";

    /** Tokens of a chunk where a plan's text has {@code at=chunk}. */
    public static final int DEFAULT_CHUNK = 512;

    private static final int LEAST_CHUNK = 16;

    /**
     * What decides how much a token is worth. The first ones look at keys and values alone, those from {@link #SNAPKV} on at
     * what the last queries of the prompt attend to, which may be a question about the rest of it. They need cells that
     * sequences have in common ({@code kv-unified}, the default) and layers that read downward.
     */
    public enum Method {
        /** Keys with the smallest norm stay (<a href="https://arxiv.org/abs/2406.11430">L2 norm</a>). */
        KNORM(),
        /** Keys that are least like the mean of all stay (<a href="https://arxiv.org/abs/2504.15364">KeyDiff</a>). */
        KEYDIFF(),
        /**
         * Tokens whose keys and values stand out from the tokens after them stay (<a
         * href="https://arxiv.org/abs/2504.04704">LagKV</a>): {@code sinks} first ones always (4), and chunks of {@code lag}
         * tokens (128) are measured by the next one.
         */
        LAGKV(new Parameter(SINKS, 4, 1, MANY), new Parameter("lag", 128, 2, MANY)),
        /**
         * The {@code sinks} first tokens (4) and the most recent ones stay (<a
         * href="https://arxiv.org/abs/2309.17453">StreamingLLM</a>). Unlike {@link KvPlan#streaming} once for each prompt.
         */
        STREAMING(new Parameter(SINKS, 4, 1, MANY)),
        /**
         * What the last {@code queries} tokens (64), which stay themselves, attend to, averaged over {@code kernel}
         * neighbours (5) (<a href="https://arxiv.org/abs/2404.14469">SnapKV</a>).
         */
        SNAPKV(Parameter.queries(), Parameter.kernel()),
        /**
         * What the last token attends to, the same for all heads of a layer (<a
         * href="https://arxiv.org/abs/2401.06104">TOVA</a>).
         */
        TOVA(),
        /**
         * As {@link #SNAPKV}, with budgets that fall from the lowest layer to the highest, which has about the mean divided by
         * {@code beta} (20) (<a href="https://arxiv.org/abs/2406.02069">PyramidKV</a>).
         */
        PYRAMIDKV(Parameter.queries(), Parameter.kernel(), new Parameter("beta", 20, 1, MANY)),
        /**
         * Chunks of {@code chunk} tokens (20) by the mean of what {@link #SNAPKV} says of them, the same for all heads of a
         * layer (<a href="https://arxiv.org/abs/2502.00299">ChunkKV</a>); as many as the budget holds.
         */
        CHUNKKV(Parameter.queries(), Parameter.kernel(), new Parameter("chunk", 20, 1, MANY)),
        /**
         * What all queries of the prompt attend to, on average of those that see it (H2O's accumulated attention, <a
         * href="https://arxiv.org/abs/2306.14048">paper</a>, as kvpress' ObservedAttention has it). The attention of the whole
         * prompt is computed twice for it.
         */
        OBSERVED(),
        /**
         * What queries to come will attend to, times how long the value is that a token would add (<a
         * href="https://arxiv.org/abs/2510.00636">ExpectedAttention</a>): before RoPE they are taken to be as those of the
         * prompt, and to stand at the next {@code future} positions (512). The {@code sinks} first tokens stay (4).
         */
        EXPECTED(new Parameter(SINKS, 4, 1, MANY), new Parameter("future", 512, 1, 65_536)),
        /**
         * What all queries so far attend to in sum, those of the prompt and of the answer, and the most recent tokens, which are
         * half of the budget (<a href="https://arxiv.org/abs/2306.14048">H2O</a>). The attention of every token is computed
         * twice for it, or with {@code sample} only that of every so many (1), and nothing is drafted.
         */
        H2O(Parameter.sample()),
        /**
         * What the last {@code queries} tokens (8), which stay themselves, attend to, or a token within {@code kernel} around it
         * (7), unless its key is much like others (R-KV, <a href="https://arxiv.org/abs/2505.24133">paper</a>), which is meant
         * for long answers: {@link Eviction#inAnswers}.
         */
        RKV(new Parameter(QUERIES, 8, 1, AutomaticRetention.MAX_QUERIES), new Parameter(KERNEL, 7, 1, MANY)),
        /**
         * As {@link #H2O}, with the most recent tokens {@code recency} percent of the budget (30), and Gumbel noise in what is
         * added up, divided by a temperature that rises from 1 in the prompt to 2 when the answer has {@code steps} tokens
         * (256) (<a href="https://arxiv.org/abs/2403.09054">Keyformer</a>). The noise is always the same for the same {@code
         * seed} (1).
         */
        KEYFORMER(
                new Parameter("recency", 30, 0, 100),
                new Parameter("steps", 256, 1, MANY),
                new Parameter("seed", 1, 0, MANY),
                Parameter.sample()),
        /**
         * Each token that one of the last {@code queries} tokens (256) attends to more than to the average of those before it,
         * and the {@code newest} ones (256) (<a href="https://arxiv.org/abs/2404.15949">CORM</a>): how many these are is not
         * known before, and differs between layers. The budget is the most that a layer keeps, of all heads as many as the one
         * that has the most of them; where there are more, those stay that were attended to so most often. A share of 1 keeps
         * them all, as the paper does.
         */
        CORM(new Parameter(QUERIES, 256, 1, AutomaticRetention.MAX_QUERIES), new Parameter(NEWEST, 256, 1, MANY));

        private final List<Parameter> parameters;

        Method(Parameter... parameters) {
            this.parameters = List.of(parameters);
        }

        /** Its name in the text of a plan. */
        public String label() {
            return name().toLowerCase(Locale.ROOT);
        }

        boolean looksAtQueries() {
            return compareTo(SNAPKV) >= 0;
        }

        boolean evictsInAnswers() {
            return !looksAtQueries() || this == TOVA || keepsVotes() || this == RKV;
        }

        /** What queries have said of tokens that stay is known later, so that it need not be the last ones that decide. */
        private boolean keepsVotes() {
            return this == H2O || this == KEYFORMER || this == CORM;
        }

        private Parameter parameter(String name) {
            return parameters.stream()
                    .filter(parameter -> parameter.name.equals(name))
                    .findAny()
                    .orElseThrow(() -> new InvalidPlanException(label() + " has no " + name));
        }
    }

    private record Parameter(String name, int usual, int least, int most) {
        static Parameter queries() {
            return new Parameter(QUERIES, 64, 1, AutomaticRetention.MAX_QUERIES);
        }

        static Parameter kernel() {
            return new Parameter(KERNEL, 5, 1, MANY);
        }

        static Parameter sample() {
            return new Parameter("sample", 1, 1, MANY);
        }
    }

    private final Method method;
    private final int tokens; // 0: a share
    private final double share;
    private final SortedMap<String, Integer> parameters; // those of the method, all of them
    private final int chunk; // 0: at the end of the prompt only
    private final int part; // of an answer; 0: nothing is evicted from it
    private final SortedSet<Integer> skipped;

    private Eviction(
            Method method,
            int tokens,
            double share,
            SortedMap<String, Integer> parameters,
            int chunk,
            int part,
            SortedSet<Integer> skipped) {
        this.method = method;
        this.tokens = tokens;
        this.share = share;
        this.parameters = parameters;
        this.chunk = chunk;
        this.part = part;
        this.skipped = skipped;
    }

    private static Eviction of(Method method, int tokens, double share) {
        SortedMap<String, Integer> usual = new TreeMap<>();
        method.parameters.forEach(parameter -> usual.put(parameter.name, parameter.usual));
        return new Eviction(method, tokens, share, usual, 0, 0, Collections.emptySortedSet());
    }

    /**
     * A budget that is the same for every sequence.
     *
     * @param tokens that each layer keeps, from 1 to 999,999,999
     */
    public static Eviction keeping(Method method, int tokens) {
        if (tokens < 1 || tokens > MANY) {
            throw new InvalidPlanException(
                    "the number of tokens to keep is " + tokens + ", allowed are 1 to " + MANY, (long) tokens, 1L);
        }
        return of(method, tokens, 0);
    }

    /**
     * A budget that grows with the sequence.
     *
     * @param share of its tokens that each layer keeps, above 0 and at most 1, with at most 6 digits after the point
     */
    public static Eviction keepingShare(Method method, double share) {
        if (!(share > 0 && share <= 1)
                || BigDecimal.valueOf(share).stripTrailingZeros().scale() > SHARE_DIGITS) {
            throw new InvalidPlanException("the share of tokens to keep is " + share
                    + ", allowed are numbers above 0 and up to 1 with at most " + SHARE_DIGITS
                    + " digits after the point");
        }
        return of(method, 0, share);
    }

    /**
     * These with another number for the method, such as {@code lag}.
     *
     * @throws InvalidPlanException if the method has no such number, or it is out of its range
     */
    public Eviction with(String parameter, int value) {
        Parameter known = method.parameter(parameter);
        if (value < known.least || value > known.most) {
            throw new InvalidPlanException(
                    parameter + " is " + value + ", allowed are " + known.least + " to " + known.most,
                    (long) value,
                    (long) (value < known.least ? known.least : known.most));
        }
        if (parameter.equals(KERNEL) && value % 2 == 0) {
            throw new InvalidPlanException("kernel is " + value + ", allowed are odd numbers");
        }
        SortedMap<String, Integer> changed = new TreeMap<>(parameters);
        changed.put(parameter, value);
        return new Eviction(method, tokens, share, changed, chunk, part, skipped);
    }

    /**
     * These, also whenever a prompt has come to a multiple of so many tokens. A method that looks at queries looks at the last
     * ones of the chunk. What is left may be other tokens than if the whole prompt had been there: what is gone once is not
     * chosen later.
     *
     * <p>No plan has {@link Method#OBSERVED} in chunks, which looks at all queries of a prompt, or, but for {@link Method#CORM},
     * chunks with fewer tokens than there are queries that decide.
     *
     * @param size tokens of a chunk, from 16 to 999,999,999, usually {@value #DEFAULT_CHUNK}
     */
    public Eviction inChunks(int size) {
        if (size < LEAST_CHUNK || size > MANY) {
            throw new InvalidPlanException(
                    "a chunk has " + size + " tokens, allowed are " + LEAST_CHUNK + " to " + MANY, (long) size, (long)
                            (size < LEAST_CHUNK ? LEAST_CHUNK : MANY));
        }
        return new Eviction(method, tokens, share, parameters, size, part, skipped);
    }

    /** These at the end of a prompt only. */
    public Eviction atEnd() {
        return new Eviction(method, tokens, share, parameters, 0, part, skipped);
    }

    /**
     * These, also during the answer, whenever it has brought the sequence to a multiple of so many tokens. So no layer has more
     * than its budget and so many tokens after the prompt, however long the answer is.
     *
     * <p>For {@link Method#KNORM}, {@link Method#KEYDIFF}, {@link Method#LAGKV}, {@link Method#STREAMING}, {@link
     * Method#TOVA}, which takes the query of the newest token, {@link Method#H2O}, {@link Method#KEYFORMER}, {@link
     * Method#CORM}, and {@link Method#RKV}, whose queries are no more than these tokens. No plan has it with the others, whose queries are those of a
     * prompt.
     *
     * @param tokens between two evictions, from 1 to 999,999,999; 0 evicts nothing from answers, as without this call
     */
    public Eviction inAnswers(int tokens) {
        if (tokens < 0 || tokens > MANY) {
            throw new InvalidPlanException(
                    "answer is " + tokens + ", allowed are 0 to " + MANY, (long) tokens, tokens < 0 ? 0L : (long) MANY);
        }
        return new Eviction(method, this.tokens, share, parameters, chunk, tokens, skipped);
    }

    /** These with exactly the given layers keeping every token. */
    public Eviction skipping(int... layers) {
        SortedSet<Integer> those = Arrays.stream(layers).boxed().collect(Collectors.toCollection(TreeSet::new));
        return new Eviction(method, tokens, share, parameters, chunk, part, Collections.unmodifiableSortedSet(those));
    }

    /** What decides how much a token is worth. */
    public Method method() {
        return method;
    }

    /** The tokens that a layer keeps; empty if it is a share. */
    public OptionalInt tokens() {
        return tokens == 0 ? OptionalInt.empty() : OptionalInt.of(tokens);
    }

    /** The share of tokens that a layer keeps; empty if it is a number. */
    public OptionalDouble share() {
        return tokens == 0 ? OptionalDouble.of(share) : OptionalDouble.empty();
    }

    /** The numbers of the method by name, in alphabetical order; unmodifiable. */
    public SortedMap<String, Integer> parameters() {
        return Collections.unmodifiableSortedMap(parameters);
    }

    /** Tokens of a chunk; empty if tokens are chosen at the end of a prompt only. */
    public OptionalInt chunk() {
        return chunk == 0 ? OptionalInt.empty() : OptionalInt.of(chunk);
    }

    /** Tokens of an answer between two evictions; empty if nothing is evicted from it. */
    public OptionalInt answerPart() {
        return part == 0 ? OptionalInt.empty() : OptionalInt.of(part);
    }

    /** The layers that keep every token, in order; unmodifiable. */
    public SortedSet<Integer> skipped() {
        return skipped;
    }

    private int value(String parameter) {
        return Objects.requireNonNull(parameters.get(parameter));
    }

    /**
     * How many tokens of a sequence a layer keeps; {@link Method#CHUNKKV} and {@link Method#CORM} may keep fewer.
     *
     * @param layers of the model
     * @param sequence tokens that it has
     */
    public long budget(int layer, int layers, long sequence) {
        long kept = tokens > 0
                ? tokens
                : BigDecimal.valueOf(share)
                        .multiply(BigDecimal.valueOf(sequence))
                        .longValue();
        if (skipped.contains(layer) || kept >= sequence) {
            return sequence;
        }
        kept = method.looksAtQueries() ? Math.max(kept, recent()) : kept;
        kept = method == Method.PYRAMIDKV ? pyramid(layer, layers, sequence, kept) : kept;
        return Math.min(sequence, Math.max(1, kept));
    }

    /**
     * How many tokens a layer has at most while a prompt is computed.
     *
     * @param layers of the model
     * @param prompt tokens that it has
     */
    public long peak(int layer, int layers, long prompt) {
        if (chunk == 0 || skipped.contains(layer)) {
            return prompt;
        }
        long most = 0;
        long rows = 0;
        for (long computed = 0; computed < prompt; ) {
            long more = Math.min(chunk, prompt - computed);
            computed += more;
            most = Math.max(most, rows + more);
            rows = Math.min(rows + more, budget(layer, layers, computed));
        }
        return most;
    }

    /**
     * How many tokens a layer has at most from the end of a prompt to that of its answer.
     *
     * @param layers of the model
     * @param prompt tokens that it has
     * @param answer tokens that it has
     */
    public long answerPeak(int layer, int layers, long prompt, long answer) {
        long left = budget(layer, layers, prompt);
        long end = prompt + answer;
        long first = part == 0 ? end : prompt + part - prompt % part;
        if (part == 0 || first > end || skipped.contains(layer)) {
            return left + answer;
        }
        // a budget never grows faster than the sequence, so that after each eviction a layer has its budget
        long last = end - end % part;
        long beforeLast = last > first ? budget(layer, layers, last - part) + part : 0;
        return Math.max(Math.max(left + first - prompt, beforeLast), budget(layer, layers, last) + end - last);
    }

    private int queries() {
        return switch (method) {
            case TOVA -> 1;
            case OBSERVED, EXPECTED, H2O, KEYFORMER -> 0;
            default -> value(QUERIES);
        };
    }

    /** The most recent tokens that stay in any case, of a method that looks at queries. */
    private int recent() {
        return method == Method.CORM ? value(NEWEST) : queries();
    }

    /** From the lowest layer to the highest in equal steps, where a layer has room for it. */
    private long pyramid(int layer, int layers, long sequence, long kept) {
        double least = (double) kept / value("beta");
        double most = 2.0 * kept - least;
        if (most >= sequence - queries()) {
            most = sequence - queries();
            least = 2.0 * kept - most;
        }
        boolean room = layers > 1 && sequence >= most && most >= least && least >= queries();
        return room ? (long) Math.rint(most - layer * (most - least) / (layers - 1)) : kept;
    }

    /** These as a plan with windows has them, which keep as many first tokens; the text says that number once. */
    Eviction besideWindows(int sinks) {
        if (!parameters.containsKey(SINKS)) {
            return this;
        }
        if (sinks == 0 && value(SINKS) != method.parameter(SINKS).usual) {
            throw new InvalidPlanException(
                    "windows and eviction keep the same sinks, but only eviction has sinks=" + value(SINKS));
        }
        return sinks == 0 ? this : with(SINKS, sinks);
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Eviction that && toString().equals(that.toString());
    }

    @Override
    public int hashCode() {
        return toString().hashCode();
    }

    /** The attributes of {@link KvPlan}'s text, without a leading {@code ;}. */
    @Override
    public String toString() {
        return text(true);
    }

    /** With a point in it, even if it is 1, which alone is a number of tokens. */
    private String shareText() {
        BigDecimal decimal = BigDecimal.valueOf(share).stripTrailingZeros();
        return decimal.setScale(Math.max(1, decimal.scale())).toPlainString();
    }

    /** As {@link #toString()}, perhaps without the sinks, which the plan says where it has some of its own. */
    String text(boolean withSinks) {
        StringBuilder text = new StringBuilder("evict=").append(method.label()).append(':');
        text.append(tokens > 0 ? String.valueOf(tokens) : shareText());
        for (Parameter parameter : method.parameters) {
            int value = value(parameter.name);
            if (value != parameter.usual && (withSinks || !parameter.name.equals(SINKS))) {
                text.append(';').append(parameter.name).append('=').append(value);
            }
        }
        if (chunk > 0) {
            text.append(";at=chunk").append(chunk == DEFAULT_CHUNK ? "" : ":" + chunk);
        }
        if (part > 0) {
            text.append(";answer=").append(part);
        }
        if (!skipped.isEmpty()) {
            text.append(";skip=").append(skipped.stream().map(String::valueOf).collect(Collectors.joining("_")));
        }
        return text.toString();
    }

    /** Whether a plan's attribute belongs here; {@code sinks} and {@code queries} may belong to others as well. */
    static boolean hasAttribute(String name) {
        return ATTRIBUTES.contains(name) || NAMES.contains(name);
    }

    private static final Set<String> ATTRIBUTES = Set.of("evict", "at", ANSWER, "skip");

    private static final SortedSet<String> NAMES = Arrays.stream(Method.values())
            .flatMap(method -> method.parameters.stream())
            .map(Parameter::name)
            .collect(Collectors.toCollection(TreeSet::new));

    /** The names of all methods' numbers but the sinks, for messages. */
    static String parameterNames() {
        return NAMES.stream()
                .filter(name -> !name.equals(SINKS) && !name.equals(QUERIES))
                .map(name -> name + "=N")
                .collect(Collectors.joining(", "));
    }

    /**
     * Reads what {@link #toString()} says.
     *
     * @throws InvalidPlanException if the text has other attributes than those of eviction, or they break the grammar of
     *     {@link KvPlan}
     */
    public static Eviction parse(String text) {
        Map<String, String> attributes = new LinkedHashMap<>();
        for (String attribute : text.split(";", -1)) {
            int equals = Math.max(0, attribute.indexOf('='));
            String name = attribute.substring(0, equals);
            if (!hasAttribute(name) || attributes.put(name, attribute.substring(equals + 1)) != null) {
                throw new InvalidPlanException(
                        "\"" + attribute + "\" in \"" + text + "\" is no attribute of eviction, or is there twice");
            }
        }
        return parse(attributes);
    }

    /** Attributes for which {@link #hasAttribute} is true. */
    static Eviction parse(Map<String, String> attributes) {
        String evict = attributes.get("evict");
        if (evict == null) {
            throw new InvalidPlanException(
                    attributes.keySet().iterator().next() + " belongs to eviction: evict=METHOD:BUDGET");
        }
        int colon = evict.indexOf(':');
        if (colon < 0) {
            throw new InvalidPlanException("evict=" + evict + " needs a budget, in tokens or as a share of them, as in"
                    + " evict=knorm:1024 or evict=knorm:0.25");
        }
        Method method = Arrays.stream(Method.values())
                .filter(each -> each.label().equals(evict.substring(0, colon)))
                .findAny()
                .orElseThrow(() -> new InvalidPlanException("\"" + evict.substring(0, colon)
                        + "\" is no method of eviction; there are "
                        + Arrays.stream(Method.values()).map(Method::label).collect(Collectors.joining(", "))));
        String budget = evict.substring(colon + 1);
        Eviction eviction;
        if (DECIMAL.matcher(budget).matches()) {
            eviction = keepingShare(method, Double.parseDouble(budget));
        } else {
            eviction = keeping(method, number("evict", budget));
        }
        for (Map.Entry<String, String> attribute : attributes.entrySet()) {
            switch (attribute.getKey()) {
                case "evict" -> {}
                case "at" -> eviction = eviction.at(attribute.getValue());
                case ANSWER -> eviction = eviction.answer(number(ANSWER, attribute.getValue()));
                case "skip" ->
                    eviction =
                            eviction.skipping(Arrays.stream(attribute.getValue().split("_", -1))
                                    .mapToInt(layer -> number("skip", layer))
                                    .toArray());
                default ->
                    eviction = eviction.with(attribute.getKey(), number(attribute.getKey(), attribute.getValue()));
            }
        }
        return eviction;
    }

    private Eviction at(String when) {
        return switch (when) {
            case "end" -> atEnd();
            case CHUNK -> inChunks(DEFAULT_CHUNK);
            default -> {
                if (!when.startsWith(CHUNK + ":")) {
                    throw new InvalidPlanException(
                            '"' + when + "\" is no time to evict; known are end, chunk and chunk:TOKENS");
                }
                yield inChunks(number("at", when.substring(CHUNK.length() + 1)));
            }
        };
    }

    private Eviction answer(int tokens) {
        if (tokens == 0) {
            throw new InvalidPlanException("answer is 0, allowed are 1 to " + MANY, 0L, 1L);
        }
        return inAnswers(tokens);
    }

    /**
     * @throws InvalidPlanException if the budget, or a chunk, is too small for the queries that decide, or there are none of them
     *     in an answer
     */
    void check() {
        if (part > 0 && !method.evictsInAnswers()) {
            throw new InvalidPlanException(method.label()
                    + " looks at the queries of a prompt, so it evicts nothing during the answer (answer=" + part
                    + "); "
                    + Arrays.stream(Method.values())
                            .filter(Method::evictsInAnswers)
                            .map(Method::label)
                            .collect(Collectors.joining(", "))
                    + " do");
        }
        if (chunk > 0 && method == Method.OBSERVED) {
            throw new InvalidPlanException(method.label()
                    + " looks at all queries of a prompt, so it evicts at its end only, not with at=chunk");
        }
        boolean lastDecide = method.looksAtQueries() && !method.keepsVotes();
        if (chunk > 0 && lastDecide && chunk < queries()) {
            throw new InvalidPlanException(
                    "a chunk has " + chunk + " tokens, fewer than the last " + queries() + ", whose attention decides",
                    (long) chunk,
                    (long) queries());
        }
        if (part > 0 && lastDecide && part < queries()) {
            throw new InvalidPlanException(
                    "answer=" + part + " is fewer than the last " + queries() + " tokens, whose attention decides",
                    (long) part,
                    (long) queries());
        }
        if (method.looksAtQueries() && tokens > 0 && tokens <= recent()) {
            throw new InvalidPlanException(
                    "the number of tokens to keep is " + tokens + ", not more than the last " + recent()
                            + ", which always stay",
                    (long) tokens,
                    (long) recent());
        }
    }

    private static int number(String attribute, String digits) {
        if (!NUMBER.matcher(digits).matches()) {
            throw new InvalidPlanException(
                    attribute + " in the KV plan needs a number of at most 9 digits, not \"" + digits + '"');
        }
        return Integer.parseInt(digits);
    }
}
