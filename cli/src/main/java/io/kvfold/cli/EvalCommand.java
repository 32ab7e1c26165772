package io.kvfold.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.Engine;
import io.kvfold.KvCacheStats;
import io.kvfold.bench.Subject;
import io.kvfold.eval.Evaluation;
import io.kvfold.eval.Haystack;
import io.kvfold.eval.Question;
import io.kvfold.eval.Report;
import io.kvfold.eval.Score;
import io.kvfold.eval.Task;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;
import picocli.CommandLine.TypeConversionException;

/** {@code kvfold eval}. */
@Command(
        name = "eval",
        header = "Measures what a model finds again in long texts, with RULER's synthetic tasks.",
        description = {
            "",
            "Makes up texts of the lengths asked for, from a seed and without any file, and scores the share of the"
                    + " expected words or numbers that stand in the likeliest answer, as RULER does. All models, plans and"
                    + " types get the same questions. The wording is Kvfold's own, so compare the figures with each other,"
                    + " not with published ones.",
            "",
            "  single        a number hidden in the text, at even depths in turn",
            "  multi-key     one of four numbers, told apart by names",
            "  multi-value   four numbers of one name",
            "  multi-query   four numbers of four names, all asked for",
            "  variables     the five variables of a chain of assignments",
            "  common-words  the words that a list has more often than others",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold eval --model model.gguf --lengths 1024,4096",
            "  kvfold eval -m model.gguf --kv-type f16,q4_0 --plot needles.png",
            "  kvfold eval -m model.gguf --kv-plan standard,streaming:256 --tasks single",
            "  kvfold eval -m model.gguf --text book.txt --json scores.json"
        })
final class EvalCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private SubjectOptions subjectOptions;

    @Option(
            names = "--tasks",
            split = ",",
            paramLabel = "TASK",
            converter = TaskConverter.class,
            description = "Which of these. Default: all.")
    private List<Task> tasks = List.of(Task.values());

    @Option(
            names = "--lengths",
            split = ",",
            paramLabel = "N",
            description = "Tokens of prompt and answer. Default: ${DEFAULT-VALUE}.")
    private List<Integer> lengths = List.of(1024, 2048);

    @Option(
            names = "--samples",
            paramLabel = "N",
            description = "Questions of each task and length. Default: ${DEFAULT-VALUE}.")
    private int samples = 10;

    @Option(
            names = "--depths",
            paramLabel = "N",
            description = "Depths of the single needle, from the text's beginning to its end. Default:"
                    + " ${DEFAULT-VALUE}.")
    private int depths = 5;

    @Option(names = "--seed", paramLabel = "N", description = "Other questions. Default: ${DEFAULT-VALUE}.")
    private long seed = 42;

    @Option(
            names = "--text",
            paramLabel = "FILE",
            description =
                    "A UTF-8 text whose sentences surround what is to be found. Default: five short ones, over and"
                            + " over.")
    private @Nullable Path text;

    @Option(names = "--raw", description = "Leave out the model's chat template.")
    private boolean raw;

    @Option(names = "--json", paramLabel = "FILE", description = "Writes the scores as JSON.")
    private @Nullable Path json;

    @Option(
            names = "--plot",
            paramLabel = "FILE",
            description = "Draws how often the single needle was found, depth by length (PNG).")
    private @Nullable Path plot;

    @Override
    public Integer call() throws IOException {
        if (samples < 1 || depths < 2) {
            throw new ParameterException(spec.commandLine(), "--samples is 1 or more and --depths 2 or more");
        }
        if (plot != null && !tasks.contains(Task.SINGLE)) {
            throw new ParameterException(spec.commandLine(), "--plot draws the task single, which --tasks leaves out");
        }
        Haystack haystack = text == null ? Haystack.NOISE : Haystack.of(TextFile.read(text));
        List<Subject> subjects = subjectOptions.subjects();
        List<Score> scores = new ArrayList<>();
        try (Progress progress = new Progress(
                "asking", (long) subjects.size() * lengths.size() * tasks.size() * samples, " questions")) {
            for (Subject subject : subjects) {
                progress.message(subject.label());
                ask(subject, haystack, scores, progress);
            }
        }
        PrintWriter out = spec.commandLine().getOut();
        out.print(Report.markdown(scores));
        if (json != null) {
            Files.writeString(
                    json,
                    new ObjectMapper()
                                    .writerWithDefaultPrettyPrinter()
                                    .writeValueAsString(Report.json(scores).put("seed", seed))
                            + "\n");
        }
        if (plot != null) {
            Report.plot(scores, plot);
        }
        return ExitCode.OK;
    }

    private void ask(Subject subject, Haystack haystack, List<Score> scores, Progress progress) {
        int longest = Collections.max(lengths);
        try (Engine engine =
                subjectOptions.engine(subject).contextSize(longest).slots(1).open()) {
            boolean chats = !raw && engine.info().model().chatTemplate();
            Evaluation evaluation = new Evaluation(engine, haystack, seed, chats);
            for (Asked asked : questions(evaluation)) {
                double value = evaluation.score(asked.question());
                scores.add(
                        new Score(subject, asked.task(), asked.length(), asked.depth(), value, bytesPerToken(engine)));
                progress.stepTo(scores.size());
            }
        }
    }

    private record Asked(Task task, int length, double depth, Question question) {}

    /** All of them, so that a length that is too small is refused before anything is computed. */
    private List<Asked> questions(Evaluation evaluation) {
        List<Asked> questions = new ArrayList<>();
        for (int length : lengths) {
            for (Task task : tasks) {
                for (int i = 0; i < samples; i++) {
                    double depth = task == Task.SINGLE ? (double) (i % depths) / (depths - 1) : Double.NaN;
                    questions.add(new Asked(task, length, depth, evaluation.question(task, length, depth, i)));
                }
            }
        }
        return questions;
    }

    /** Takes their names as {@link Task#toString} has them. */
    static final class TaskConverter implements ITypeConverter<Task> {
        @Override
        public Task convert(String text) {
            return Stream.of(Task.values())
                    .filter(task -> task.toString().equals(text))
                    .findFirst()
                    .orElseThrow(() -> new TypeConversionException(
                            "'" + text + "' is not one of " + Arrays.toString(Task.values())));
        }
    }

    /** Of the slot that has answered. */
    private static double bytesPerToken(Engine engine) {
        KvCacheStats.Slot slot = engine.kvCacheStats().bySlot().get(0);
        return (double) slot.bytesInUse() / slot.tokens();
    }
}
