package io.kvfold.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.InvalidRequestException;
import io.kvfold.bench.Bench;
import io.kvfold.bench.Plots;
import io.kvfold.bench.Report;
import io.kvfold.bench.Result;
import io.kvfold.bench.Sample;
import io.kvfold.bench.Subject;
import io.kvfold.bench.Workload;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code kvfold bench}. */
@Command(
        name = "bench",
        header = "Measures speed and memory of plans, KV types and other options, in turn.",
        description = {
            "",
            "Every model, plan, type and value of an option is run with every number of sequences; a round runs all of"
                    + " them once, and the order turns by one each round. All sequences of a run start at once with random prompts and end"
                    + " after --generate tokens. Prints a Markdown table of medians with the lowest and highest of the"
                    + " rounds; ratios are to the first line of the same workload, round by round. Run it alone on the"
                    + " machine.",
            "",
            "With --kv-budget the number of sequences is the most whose keys and values fit the budget (256 at most),"
                    + " as in Table 1 of the LCKV paper.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold bench -m demo:standard,demo:folded",
            "  kvfold bench -m model.gguf --plan standard,lckv:2 --parallel 1,4,16",
            "  kvfold bench -m model.gguf --kv-type f16,q4_0 --kv-budget 512MiB",
            "  kvfold bench -m model.gguf --option cpu-attention=fused,upstream",
            "  kvfold bench -m a.gguf -m b.gguf --workload 512+512,5+2043 --plots out"
        })
final class BenchCommand implements Callable<Integer> {

    private static final Workload DEFAULT_WORKLOAD = new Workload(512, 128);

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private SubjectOptions subjectOptions;

    @Option(
            names = "--workload",
            split = ",",
            paramLabel = "P+G",
            description =
                    "Tokens of each prompt and each answer. Default: 512+128, or half and an eighth of what a model"
                            + " was trained with if that is less.")
    private List<String> workloads = List.of();

    @Option(names = "--parallel", split = ",", paramLabel = "N", description = "Sequences side by side. Default: 1.")
    private List<Integer> parallel = List.of(1);

    @Option(
            names = "--kv-budget",
            paramLabel = "SIZE",
            converter = Values.SizeConverter.class,
            description = "Memory that keys and values may take, such as 512MiB or 8GiB; replaces --parallel.")
    private @Nullable Long budget;

    @Option(names = "--rounds", paramLabel = "N", description = "Runs of each case. Default: 3.")
    private int rounds = 3;

    @Option(names = "--json", paramLabel = "FILE", description = "Writes all figures as JSON.")
    private @Nullable Path json;

    @Option(names = "--plots", paramLabel = "FOLDER", description = "Draws throughput, first token and KV cache (PNG).")
    private @Nullable Path plots;

    private record Case(Subject subject, Workload workload, int sequences) {}

    @Override
    public Integer call() throws IOException, InterruptedException {
        if (rounds < 1 || parallel.stream().anyMatch(n -> n < 1 || n > Subject.MAX_SEQUENCES)) {
            throw new ParameterException(
                    spec.commandLine(), "--rounds is 1 or more, --parallel 1 to " + Subject.MAX_SEQUENCES);
        }
        List<Case> cases = cases();
        List<List<Sample>> samples = new ArrayList<>();
        cases.forEach(one -> samples.add(new ArrayList<>()));
        Bench bench = new Bench(subjectOptions::engine);
        try (Progress progress = new Progress("measuring", (long) rounds * cases.size(), " runs")) {
            for (int round = 0; round < rounds; round++) {
                for (int k = 0; k < cases.size(); k++) {
                    int index = (k + round) % cases.size();
                    Case one = cases.get(index);
                    progress.message(one.subject().label());
                    samples.get(index).add(bench.run(one.subject(), one.workload(), one.sequences()));
                    progress.stepTo((long) round * cases.size() + k + 1);
                }
            }
        }
        List<Result> results = new ArrayList<>();
        for (int i = 0; i < cases.size(); i++) {
            Case one = cases.get(i);
            results.add(new Result(one.subject(), one.workload(), one.sequences(), samples.get(i)));
        }
        PrintWriter out = spec.commandLine().getOut();
        out.print(Report.markdown(results));
        if (json != null) {
            Files.writeString(
                    json,
                    new ObjectMapper().writerWithDefaultPrettyPrinter().writeValueAsString(Report.json(results))
                            + "\n");
        }
        if (plots != null) {
            Plots.write(results, plots).forEach(file -> out.println("wrote " + file));
        }
        return ExitCode.OK;
    }

    /** By workload, so that the lines to compare stand together. */
    private List<Case> cases() {
        List<Subject> subjects = subjectOptions.subjects();
        List<Case> cases = new ArrayList<>();
        List<Workload> asked = workloads.isEmpty()
                ? List.of(defaultWorkload(subjects))
                : workloads.stream().map(this::workload).toList();
        for (Workload workload : asked) {
            if (budget == null) {
                parallel.forEach(n -> subjects.forEach(subject -> cases.add(new Case(subject, workload, n))));
                continue;
            }
            long bytes = budget;
            for (Subject subject : subjects) {
                int fitting = subject.sequencesWithin(bytes, workload.tokens(), subjectOptions.ubatchSize())
                        .orElseThrow(() -> new InvalidRequestException(subject.label() + " does not fit " + workload
                                + " tokens of one sequence into " + Values.bytes(bytes)));
                cases.add(new Case(subject, workload, fitting));
            }
        }
        return cases;
    }

    private static Workload defaultWorkload(List<Subject> subjects) {
        long trained = subjects.stream()
                .map(subject -> GgufFile.open(subject.model()))
                .mapToLong(file -> file.integer(GgufKeys.contextLength(file.architecture()))
                        .orElse(Long.MAX_VALUE))
                .min()
                .orElseThrow();
        return trained < DEFAULT_WORKLOAD.tokens()
                ? new Workload((int) trained / 2, (int) trained / 8)
                : DEFAULT_WORKLOAD;
    }

    private Workload workload(String text) {
        if (!text.matches("[1-9][0-9]{0,6}\\+[1-9][0-9]{0,6}")) {
            throw new ParameterException(
                    spec.commandLine(), "--workload is PROMPT+ANSWER such as 512+128, not " + text);
        }
        String[] parts = text.split("\\+");
        return new Workload(Integer.parseInt(parts[0]), Integer.parseInt(parts[1]));
    }
}
