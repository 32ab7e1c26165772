package io.kvfold.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.bench.Subject;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Help;
import picocli.CommandLine.Help.Ansi;
import picocli.CommandLine.Help.Column;
import picocli.CommandLine.Help.Column.Overflow;
import picocli.CommandLine.Help.TextTable;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code kvfold compare}. */
@Command(
        name = "compare",
        header = "Shows two models, KV plans or KV types side by side on one prompt.",
        description = {
            "",
            "Runs one after the other, each in an engine of its own, and prints what both write, their speed, what of the"
                    + " KV cache takes memory, and with --text their perplexity. Without --model, plans or types it"
                    + " compares demo:standard with demo:folded. The likeliest token is taken each time unless"
                    + " --temperature says otherwise, and 64 of them unless --max-tokens does. Speeds are those of a"
                    + " single run; kvfold bench measures them.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold compare --prompt \"Once upon a time\"",
            "  kvfold compare -m a.gguf,b.gguf --chat -p \"Why is the sky blue?\"",
            "  kvfold compare -m model.gguf --plan file,streaming:256 --prompt-file p.txt",
            "  kvfold compare -m model.gguf --kv-type f16,q4_0 -p \"A\" --text wiki.txt --json"
        })
final class CompareCommand implements Callable<Integer> {

    private static final int DEFAULT_MAX_TOKENS = 64;
    private static final int WARM_UP_TOKENS = 4;
    private static final int DEFAULT_WIDTH = 100;
    private static final int NAMES_WIDTH = 20;

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private SubjectOptions subjectOptions;

    @ArgGroup(exclusive = true, multiplicity = "1")
    @SuppressWarnings("NullAway.Init")
    private PromptOption prompt;

    @Option(names = "--chat", description = "Ask the prompt as a message of a chat instead of continuing it as it is.")
    private boolean chat;

    @Mixin
    private final SamplingOptions sampling = new SamplingOptions();

    @Option(
            names = {"-c", "--ctx-size", "--ctx"},
            paramLabel = "N",
            description = "Tokens that the KV cache holds. Default: what the model was trained with.")
    private @Nullable Integer contextSize;

    @Option(
            names = "--text",
            paramLabel = "FILE",
            description = "A UTF-8 text whose perplexity is measured, in chunks of 512 tokens or of the context if that"
                    + " is smaller.")
    private @Nullable Path text;

    @Option(names = "--chunks", paramLabel = "N", description = "Stop after N chunks. Default: the whole text.")
    private int maxChunks = Integer.MAX_VALUE;

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    /** What came of one run. */
    private record Outcome(
            Subject subject,
            String plan,
            String text,
            Timings timings,
            KvCacheStats kv,
            @Nullable Perplexity score) {}

    private record Perplexity(double value, double standardError, int tokens, int context) {}

    @Override
    public Integer call() throws IOException {
        if (maxChunks < 1) {
            throw new ParameterException(spec.commandLine(), "--chunks is 1 or more");
        }
        List<Subject> subjects = subjectOptions.isAsked()
                ? subjectOptions.subjects()
                : subjectOptions.subjects(List.of(ModelFile.DEMO_STANDARD, ModelFile.DEMO_FOLDED));
        if (subjects.size() != 2) {
            throw new ParameterException(
                    spec.commandLine(),
                    "two are compared, not " + subjects.size()
                            + ": name two models with one plan and type, or one model with two plans, types or values of an option");
        }
        String content = prompt.read();
        List<Outcome> outcomes = new ArrayList<>();
        for (Subject subject : subjects) {
            outcomes.add(run(subject, content));
        }
        PrintWriter out = spec.commandLine().getOut();
        if (json) {
            out.println(
                    new ObjectMapper().writerWithDefaultPrettyPrinter().writeValueAsString(json(content, outcomes)));
        } else {
            out.print(table(outcomes.get(0), outcomes.get(1)));
        }
        return ExitCode.OK;
    }

    private Outcome run(Subject subject, String content) throws IOException {
        Engine.Builder builder = subjectOptions.engine(subject).slots(1);
        if (contextSize != null) {
            builder.contextSize(contextSize);
        }
        try (Engine engine = builder.open();
                Progress progress = new Progress(subject.label(), 0, "")) {
            progress.stepTo(0);
            ask(engine, body(content).put("max_tokens", WARM_UP_TOKENS).put("cache_prompt", false));
            JsonNode answer = ask(engine, body(content));
            KvCacheStats kv = engine.kvCacheStats();
            return new Outcome(
                    subject,
                    plan(subject, engine.info().context().kvPlan()),
                    chat
                            ? answer.at("/choices/0/message/content").asText()
                            : answer.path("content").asText(),
                    Timings.of(answer.path("timings")),
                    kv,
                    text == null ? null : perplexity(engine, text));
        }
    }

    /** As the user wrote it; with what it stands for where that is the file's. */
    private static String plan(Subject subject, String inEffect) {
        if (subject.plan() != null) {
            return subject.planName();
        }
        boolean standard = inEffect.isEmpty() || KvPlan.parse(inEffect).isStandard();
        return subject.planName() + ": " + (standard ? "standard" : inEffect);
    }

    private ObjectNode body(String content) {
        ObjectNode body = JsonNodeFactory.instance.objectNode();
        if (chat) {
            body.putArray("messages").addObject().put("role", "user").put("content", content);
        } else {
            body.put("prompt", content);
        }
        body.put("temperature", 0).put("max_tokens", DEFAULT_MAX_TOKENS);
        sampling.addTo(body);
        return body;
    }

    private JsonNode ask(Engine engine, ObjectNode body) {
        try (Generation generation = chat ? engine.chat(body) : engine.complete(body)) {
            return Objects.requireNonNull(generation.next());
        }
    }

    private Perplexity perplexity(Engine engine, Path text) throws IOException {
        int context = Math.min(
                PerplexityCommand.DEFAULT_CONTEXT, engine.info().context().sizePerSlot());
        PerplexityScore score = PerplexityScore.of(engine, text, context, maxChunks);
        return new Perplexity(score.perplexity(), score.standardError(), score.count(), context);
    }

    private static String table(Outcome left, Outcome right) {
        int width = Console.outputWidth() == 0 ? DEFAULT_WIDTH : Console.outputWidth();
        int each = Math.max(20, (width - 1 - NAMES_WIDTH) / 2);
        TextTable table = TextTable.forColumns(
                Help.defaultColorScheme(Ansi.OFF),
                new Column(NAMES_WIDTH, 0, Overflow.WRAP),
                new Column(each, 1, Overflow.WRAP),
                new Column(each, 1, Overflow.WRAP));
        row(
                table,
                "model",
                left,
                right,
                one -> String.valueOf(one.subject().model().getFileName()));
        row(table, "KV plan", left, right, Outcome::plan);
        row(table, "KV type", left, right, one -> one.subject().type().text());
        row(table, "text", left, right, Outcome::text);
        row(
                table,
                "prompt",
                left,
                right,
                one -> Values.format(
                        "%d tokens at %.1f tokens/s",
                        one.timings().promptTokens(), one.timings().promptTokensPerSecond()));
        row(
                table,
                "answer",
                left,
                right,
                one -> Values.format(
                        "%d tokens at %.1f tokens/s",
                        one.timings().tokens(), one.timings().tokensPerSecond()));
        row(
                table,
                "KV bytes per token",
                left,
                right,
                one -> Values.format(
                        "%d, in %d of %d layers",
                        one.kv().bytesPerToken(),
                        one.kv().layersWithStorage(),
                        one.kv().layers()));
        row(
                table,
                "KV cache",
                left,
                right,
                one -> Values.format(
                        "%s committed of %s for %d tokens",
                        Values.bytes(one.kv().bytesCommitted()),
                        Values.bytes(one.kv().bytesAllocated()),
                        one.kv().cells()));
        if (left.score() != null && right.score() != null) {
            row(table, "perplexity", left, right, one -> perplexity(Objects.requireNonNull(one.score())));
        }
        return table.toString();
    }

    private static void row(
            TextTable table, String name, Outcome left, Outcome right, Function<Outcome, String> value) {
        int row = table.rowCount();
        table.addEmptyRow();
        table.putValue(row, 0, text(name));
        put(table, row, 1, value.apply(left));
        put(table, row, 2, value.apply(right));
    }

    /** Lines and what of them wraps, from a row downwards; {@code addRowValues} would start a column where the one before ends. */
    private static void put(TextTable table, int row, int column, String value) {
        int next = row;
        for (String line : value.lines().toList()) {
            while (table.rowCount() <= next) {
                table.addEmptyRow();
            }
            next = table.putValue(next, column, text(line)).row + 1;
        }
    }

    private static Ansi.Text text(String line) {
        return Ansi.OFF.new Text(line, Help.defaultColorScheme(Ansi.OFF));
    }

    private static String perplexity(Perplexity score) {
        return Values.format(
                "%.4f +/- %.5f (%d tokens scored, chunks of %d)",
                score.value(), score.standardError(), score.tokens(), score.context());
    }

    private static ObjectNode json(String prompt, List<Outcome> outcomes) {
        ObjectNode root = JsonNodeFactory.instance.objectNode().put("prompt", prompt);
        ArrayNode results = root.putArray("results");
        for (Outcome one : outcomes) {
            ObjectNode result = one.subject()
                    .addTo(results.addObject())
                    .put("text", one.text())
                    .put("prompt_tokens", one.timings().promptTokens())
                    .put("prompt_tokens_per_second", one.timings().promptTokensPerSecond())
                    .put("completion_tokens", one.timings().tokens())
                    .put("completion_tokens_per_second", one.timings().tokensPerSecond())
                    .put("kv_bytes_per_token", one.kv().bytesPerToken())
                    .put("kv_bytes_committed", one.kv().bytesCommitted())
                    .put("kv_bytes_allocated", one.kv().bytesAllocated());
            Perplexity score = one.score();
            if (score != null) {
                result.putObject("perplexity")
                        .put("value", score.value())
                        .put("standard_error", score.standardError())
                        .put("tokens", score.tokens())
                        .put("context", score.context());
            }
        }
        return root;
    }
}
