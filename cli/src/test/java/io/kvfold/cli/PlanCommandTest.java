package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assumptions.assumeThat;

import io.kvfold.Engine;
import io.kvfold.KvPlan;
import io.kvfold.NativeLibrary;
import io.kvfold.TinyModel;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKvPlan;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import javax.imageio.ImageIO;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;

/** {@code kvfold plan} on a model with three layers and random weights. */
final class PlanCommandTest {

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path folder;

    @SuppressWarnings("NullAway.Init")
    private Path model;

    @SuppressWarnings("NullAway.Init")
    private Path text;

    @BeforeEach
    void needsTheLibrary() throws IOException {
        assumeThat(NativeLibrary.isAvailable())
                .as("the native library is built")
                .isTrue();
        model = TinyModel.write(folder.resolve("tiny.gguf"), 1);
        text = Files.writeString(folder.resolve("text"), "a quick brown fox jumps over a lazy dog ".repeat(60));
    }

    private CommandRun plan(String command, String... arguments) {
        List<String> all = new ArrayList<>(
                List.of("plan", command, "--model", model.toString(), "--text", text.toString(), "--threads", "1"));
        all.addAll(List.of(arguments));
        return CommandRun.of(Engine::builder, all.toArray(String[]::new));
    }

    @Test
    void sharesAsManyLayersAsAreAskedForAndWritesThePlan() throws IOException {
        Path out = folder.resolve("shared.gguf");

        CommandRun run = plan("share", "--layers", "1", "--threshold", "-1", "--chunks", "1", "--out", out.toString());

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out()).contains("3 layers, 29 pieces of 64 tokens").contains("3 layers, 2 with a KV cache");
        KvPlan printed = printedPlan(run);
        assertThat(printed.kvLayerCount()).isEqualTo(2);
        assertThat(GgufKvPlan.read(GgufFile.open(out))).contains(printed);
        Matcher perplexity = Pattern.compile("PPL = ([0-9.]+) without the plan, ([0-9.]+) with it")
                .matcher(run.out());
        assertThat(perplexity.find()).as(run.out()).isTrue();
        assertThat(perplexity.group(1)).isNotEqualTo(perplexity.group(2));
        CommandRun alone = CommandRun.of(
                Engine::builder, "perplexity", "-m", out.toString(), "--text", text.toString(), "--chunks", "1");
        assertThat(alone.out()).startsWith("PPL = " + perplexity.group(2));
    }

    @Test
    void saysHowManyLayersMayShareIfTheyAreTooFew() {
        CommandRun run = plan(
                "share",
                "--layers",
                "2",
                "--threshold",
                "0.99999",
                "--out",
                folder.resolve("no").toString());

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err())
                .contains("only 0 of 2 layers can share with a cosine above 0.99999")
                .hasLineCount(1);
        assertThat(folder.resolve("no")).doesNotExist();
    }

    @Test
    void findsLazyLayersAndDrawsTheirScores() throws Exception {
        Path out = folder.resolve("lazy.gguf");
        Path plot = folder.resolve("scores.svg");

        CommandRun run = plan(
                "lazy",
                "--recent",
                "64",
                "--tokens",
                "300",
                "--count",
                "2",
                "--plot",
                plot.toString(),
                "--out",
                out.toString());

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out())
                .contains("attention on 4 sinks and 64 recent tokens, last 32 of 300 tokens")
                .contains("2 of 3 layers are lazy (the highest scores)")
                .containsPattern("KV cache of 4096 tokens: 1.50 MiB without the plan, [0-9.]+ KiB with it")
                .containsPattern(
                        "PPL = [0-9.]+ without the plan, [0-9.]+ with it \\(\\d+ tokens scored in 4 chunks of 300\\)");
        KvPlan printed = printedPlan(run);
        assertThat(printed.window()).hasValue(64);
        assertThat(printed.sinks()).isEqualTo(4);
        assertThat(GgufKvPlan.read(GgufFile.open(out))).contains(printed);
        assertThat(DocumentBuilderFactory.newInstance()
                        .newDocumentBuilder()
                        .parse(plot.toFile())
                        .getElementsByTagName("title")
                        .getLength())
                .isEqualTo(3);
        CommandRun generated =
                CommandRun.of(Engine::builder, "generate", "-m", out.toString(), "-p", "fox", "-n", "200", "-c", "512");
        assertThat(generated.exitCode()).as(generated.err()).isZero();
    }

    @Test
    void aThresholdOfZeroMakesEveryLayerLazyAndOneNone() {
        assertThat(printedPlan(plan("lazy", "--recent", "64", "--threshold", "0")))
                .isEqualTo(KvPlan.streaming(3, 64));
        assertThat(printedPlan(plan("lazy", "--recent", "64", "--threshold", "1")))
                .isEqualTo(KvPlan.standard(3));
    }

    @Test
    void showsWhichTokensEachLayerKeeps() throws Exception {
        Path plot = folder.resolve("kept.svg");

        CommandRun run = plan(
                "evict", "--evict", "streaming:80;skip=1", "--tokens", "320", "--plot", plot.toString(), "--heads");

        assertThat(run.exitCode()).as(run.err()).isZero();
        String row = "\\|\\+ {47}\\.#{15}\\|"; // 5 tokens in a column: 4 sinks and 76 recent ones
        assertThat(run.out())
                .startsWith("320 tokens in 64 columns; # where all heads keep all of them")
                .containsPattern(
                        "    0       80      240    30.0 KiB  " + row) // keys and values of 2 heads of 16 in f16
                .containsPattern("    1      320        0         0 B  \\|#{64}\\|")
                .containsPattern("    2       80      240    30.0 KiB  " + row)
                .containsPattern("  all      480      480    60.0 KiB\\R--kv-plan '0_1_2;evict=streaming:80;skip=1'");
        Element picture = picture(plot);
        assertThat(titles(picture))
                .hasSize(6)
                .startsWith("layer 0, head 0: 80 of 320 tokens", "layer 0, head 1: 80 of 320 tokens")
                .contains("layer 1, head 1: 320 of 320 tokens");
        // for each head the background, and the sinks and the recent tokens, or all
        assertThat(picture.getElementsByTagName("rect").getLength()).isEqualTo(1 + 4 * 3 + 2 * 2);
    }

    @Test
    void showsWhatAPlanKeepsInChunksAndWhereLayersShareOrHaveAWindow() throws Exception {
        Path plot = folder.resolve("kept.svg");

        CommandRun run = plan(
                "evict",
                "--kv-plan",
                "0s_1_1;window=40;evict=snapkv:0.25;queries=16;at=chunk:64",
                "--tokens",
                "320",
                "--plot",
                plot.toString());

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out())
                .contains("    0       40  in its window       |" + " ".repeat(56) + "#".repeat(8) + "|")
                .containsPattern(
                        "    1       80      240    30.0 KiB  \\|[ .:+#]{64}\\|\\R  all       80      240    30.0 KiB")
                .endsWith("--kv-plan '0s_1_1;window=40;evict=snapkv:0.25;queries=16;at=chunk:64'"
                        + System.lineSeparator());
        assertThat(titles(picture(plot))).containsExactly("layer 0: 40 of 320 tokens", "layer 1: 80 of 320 tokens");
    }

    private static Element picture(Path plot) throws Exception {
        return DocumentBuilderFactory.newInstance()
                .newDocumentBuilder()
                .parse(plot.toFile())
                .getDocumentElement();
    }

    private static List<String> titles(Element picture) {
        NodeList titles = picture.getElementsByTagName("title");
        return IntStream.range(0, titles.getLength())
                .mapToObj(i -> titles.item(i).getTextContent())
                .toList();
    }

    private CommandRun tune(String memory, String... more) throws IOException {
        text = Files.writeString(folder.resolve("long text"), "a quick brown fox jumps over a lazy dog ".repeat(150));
        List<String> all = new ArrayList<>(List.of("--memory", memory, "--context", "1024", "--users", "2"));
        all.addAll(List.of("--tokens", "1024", "--recent", "64", "--chunks", "1", "--questions", "1"));
        all.addAll(List.of(more));
        return plan("tune", all.toArray(String[]::new));
    }

    @Test
    void recommendsWhatCostsLeastOfWhatFits() throws IOException {
        Path out = folder.resolve("tuned.gguf");
        Path plot = folder.resolve("front.png");

        CommandRun run = tune("600KiB", "--plot", plot.toString(), "--out", out.toString()); // f16 takes 768 KiB

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out())
                .contains("standard f16: 768 KiB, KL divergence ", "q8_0 alone: not possible, ") // heads of 16 elements
                // half of the first chunk of 512 tokens and all of the second
                .contains("standard;evict=tova:0.5;at=chunk;answer=64 f16: 576 KiB", "standard;evict=snapkv:0.25;")
                .contains("1 of 3 layers lazy f16: ", "| standard f16 | 384 | 768 KiB |")
                .contains("The best that fit 600 KiB, on the half of the text that the search has not seen:")
                .contains("On the text that was not seen: KL divergence ")
                .contains(".contextSize(1024).slots(2).kvBudget(614400L)", " --kv-budget 614400");
        Matcher builder = Pattern.compile("KvPlan\\.parse\\(\"(.*)\", 3\\)").matcher(run.out());
        assertThat(builder.find()).as(run.out()).isTrue();
        KvPlan printed = KvPlan.parse(builder.group(1), 3);
        assertThat(run.out()).contains("--kv-plan '" + builder.group(1) + "' --kv-type f16");
        assertThat(printed).isNotEqualTo(KvPlan.standard(3));
        assertThat(GgufKvPlan.read(GgufFile.open(out))).contains(printed);
        assertThat(ImageIO.read(plot.toFile()).getWidth()).isEqualTo(960);
    }

    /** What the table says of plans that were measured, each of which is the least in bytes so far. */
    @Test
    void printsNoneThatAnotherOneIsBetterThan() throws IOException {
        List<double[]> front = Pattern.compile("\\| .* \\| (\\d+) \\| [^|]* \\| (-?[0-9.]+) ± ")
                .matcher(tune("600KiB").out())
                .results()
                .map(row -> new double[] {Double.parseDouble(row.group(1)), Double.parseDouble(row.group(2))})
                .toList();

        assertThat(front).hasSizeGreaterThan(1);
        for (int i = 1; i < front.size(); i++) {
            assertThat(front.get(i)[0]).isLessThanOrEqualTo(front.get(i - 1)[0]);
            assertThat(front.get(i)[1]).isGreaterThanOrEqualTo(front.get(i - 1)[1]);
        }
    }

    @Test
    void saysThatNothingIsWorthItWhereAllFits() throws IOException {
        CommandRun run = tune("1MiB");

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out()).contains("Nothing is worth it: the whole cache in f16 takes 768 KiB of 1.00 MiB.");
    }

    @Test
    void namesWhatTheLeastTakesWhereNothingFits() throws IOException {
        CommandRun run = tune("1KiB");

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).contains("nothing fits: the least that was found takes ", "--memory is 1.00 KiB");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "lazy | --threshold 1.5 --recent 9 | a threshold of 1.5 is not within 0 to 1",
                "lazy | --count 4 --recent 9 | 4 lazy layers of 3",
                "lazy | --recent 0 | recent 0",
                "lazy | --sinks -1 | sinks -1",
                "lazy | --recent 3000 | but a sequence takes",
                "lazy | --recent 64 --tokens 80 | take 100",
                "lazy | --kv-plan 0s_1_2;window=8 | has windows of its own",
                "lazy | --count 1 --threshold 1 | exclude each other",
                "tune | --memory 1KiB --recent 508 --tokens 1024 | --recent 508 and 4 sinks a lazy layer forgets nothing of the 512",
                "tune | --memory 1KiB --users 0 | --users, --context, --minutes and --chunks are 1 or more, --tokens 4 or more",
                "tune | --memory 1KiB --plot missing/front.png | there is no folder",
                "tune | --memory 1KiB --kv-plan cla:2 | looks for the plan itself",
                "evict | --tokens 300 | evicts no tokens; --evict METHOD:BUDGET does",
                "evict | --evict knorm:301 --tokens 300 | the text has 300 tokens, and evict=knorm:301 keeps 301",
                "evict | --evict knorm:0.999 --tokens 20 --kv-plan 0_1_1;evict=knorm:9 | both say what evicts",
                "evict | --evict oracle:9 | \"oracle\" is no method of eviction; there are knorm, keydiff",
                "evict | --evict snapkv:40 | not more than the last 64",
                "evict | --evict knorm | needs a budget",
                "evict | --evict knorm:9 --tokens 9999 | but --tokens is 9999",
                "evict | --evict knorm:9 --tokens 0 | --tokens is 1 or more, not 0",
                "evict | --evict knorm:9 --heads | about the picture of --plot",
                "evict | --evict snapkv:100 --kv-plan lckv:1 | upward",
                "share | --layers 3 | at most 2 can read another",
                "share | --layers 0 | the least is 1",
                "share | --layers 1 --threshold 2 | not within -1 to 1",
                "share | --layers 1 --tokens 5000 | but a sequence takes 5000",
                "share | --layers 1 --kv-plan 0_0_2 | this one has the KV plan 0_0_2",
            })
    void whatIsOutOfRangeIsNamed(String command, String arguments, String message) {
        CommandRun run = plan(command, arguments.split(" "));

        assertThat(run.exitCode()).isNotZero();
        assertThat(run.err()).contains(message);
    }

    private static KvPlan printedPlan(CommandRun run) {
        Matcher option = Pattern.compile("--kv-plan '?([^\\s']+)").matcher(run.out());
        assertThat(option.find()).as(run.out() + run.err()).isTrue();
        return KvPlan.parse(option.group(1));
    }
}
