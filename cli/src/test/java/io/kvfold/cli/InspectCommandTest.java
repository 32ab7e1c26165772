package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.Engine;
import io.kvfold.KvPlan;
import io.kvfold.gguf.GgufKvPlan;
import io.kvfold.gguf.GgufWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class InspectCommandTest {

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @SuppressWarnings("NullAway.Init")
    private Path model;

    @BeforeEach
    void writeAModel() throws IOException {
        model = directory.resolve("model.gguf");
        TinyFile.header("llama").write(model);
    }

    private static CommandRun inspect(Object... arguments) {
        String[] all = new String[arguments.length + 1];
        all[0] = "inspect";
        for (int i = 0; i < arguments.length; i++) {
            all[i + 1] = arguments[i].toString();
        }
        return CommandRun.of(Engine::builder, all);
    }

    @Test
    void tellsTheShapeAndTheKvCacheAtTheContextTheModelWasTrainedWith() {
        CommandRun run = inspect(model);

        assertThat(run.exitCode()).isZero();
        assertThat(run.out())
                .contains("model         tiny", "architecture  llama", "file type     f32 (512 B)")
                .contains("heads         4, 2 for keys and values", "vocabulary    256")
                .contains("1.00 KiB per token in 4 of 4 layers, keys f16, values f16", "512 KiB at 512 tokens")
                .contains("KV plan       standard");
    }

    @Test
    void countsAllFilesOfAModel() throws IOException {
        Path first = directory.resolve("split-00001-of-00002.gguf");
        Path second = directory.resolve("split-00002-of-00002.gguf");
        TinyFile.header("llama").put("split.count", 2).write(first);
        TinyFile.header("llama").put("split.count", 2).write(second);

        assertThat(inspect(first).out()).contains("file type     f32 (1.00 KiB)");
        assertThat(inspect(second).err()).contains("is part 2 of 2 of a model; inspect the first");
    }

    @Test
    void takesTheModelAsOtherCommandsDo() {
        assertThat(inspect("-m", model).out()).isEqualTo(inspect(model).out());
        assertThat(inspect("--model", model, model).err()).contains("named twice");
    }

    @Test
    void tellsWhatAPlanAndATypeSave() {
        CommandRun run = inspect(model, "--kv-plan", "lckv:2", "--kv-type", "q8_0", "--ctx", 1024);

        assertThat(run.out())
                .contains("408 B per token in 3 of 4 layers, keys q8_0, values q8_0", "408 KiB at 1024 tokens")
                .contains("KV plan       0_2_2_3", "reads 2 above");
    }

    @Test
    void tellsWhichLayersAreLazyAndWhatThatLeavesInUse() throws JsonProcessingException {
        assertThat(inspect(model, "--kv-plan", "0_1s_2_3s;window=60;sinks=4").out())
                .contains("at 512 tokens reserved, 288 KiB in use when they are there")
                .contains("lazy layers   1, 3: they see the first 4 and the last 60 tokens");
        assertThat(inspect(model, "--kv-plan", "standard;window=60;sinks=4;lazy=0.9;keep=0")
                        .out())
                .contains("at 512 tokens reserved, 176 KiB to 512 KiB in use when they are there")
                .contains(
                        "lazy layers   those of 1 to 3 that turn out to be (lazy=0.9;keep=0): they see the first 4 and");

        JsonNode kv = new ObjectMapper()
                .readTree(inspect(model, "--kv-plan", "lighttransfer:3;window=60", "--json")
                        .out())
                .path("kv");
        assertThat(kv.path("layers_that_may_be_lazy")).hasSize(4);
        assertThat(kv.path("lazy_layers")).isEmpty();
        assertThat(kv.path("bytes_in_use_most").asLong()).isEqualTo(256 * (3 * 512 + 64));
        assertThat(kv.path("bytes_in_use_least").asLong()).isEqualTo(256 * (3 * 512 + 64));
        assertThat(kv.path("bytes").asLong()).isGreaterThanOrEqualTo(4 * 256 * 512);
    }

    @Test
    void tellsWhatEvictionLeaves() {
        assertThat(inspect(model, "--kv-plan", "standard;evict=knorm:128;skip=0")
                        .out())
                .contains("at 512 tokens reserved, 224 KiB to 512 KiB in use when they are there")
                .contains(
                        "eviction      knorm leaves 128 of 512 tokens when a prompt has ended, all of them in layers 0");
        assertThat(inspect(model, "--kv-plan", "cla:2;evict=pyramidkv:0.25;queries=16;beta=5")
                        .out())
                .contains("eviction      pyramidkv leaves 94 to 230 of 512 tokens when a prompt has ended");
        assertThat(inspect(model, "--kv-plan", "standard;evict=knorm:128;at=chunk:64")
                        .out())
                .contains("at 512 tokens reserved, 128 KiB to 192 KiB in use when they are there")
                .contains("eviction      knorm leaves 128 of 512 tokens when a prompt has ended,"
                        + " and has 192 on the way in chunks of 64");
        assertThat(inspect(model, "--kv-plan", "standard;evict=knorm:128;at=chunk:64;answer=100")
                        .out())
                .contains("at 512 tokens reserved, 128 KiB to 228 KiB in use when they are there")
                .contains(" and has 192 on the way in chunks of 64, and at most 228 during an answer,"
                        + " from which it evicts after each 100 tokens");
    }

    @Test
    void showsThePlanOfTheFile() throws IOException, JsonProcessingException {
        GgufWriter writer = TinyFile.header("llama");
        GgufKvPlan.write(writer, "llama", KvPlan.of(0, 0, 2, 2));
        writer.write(model);

        JsonNode facts = new ObjectMapper().readTree(inspect(model, "--json").out());

        assertThat(facts.path("kv").path("plan_of_file").asText()).isEqualTo("0_0_2_2");
        assertThat(facts.path("kv").path("layers_with_storage").asInt()).isEqualTo(2);
        assertThat(facts.path("kv").path("bytes_per_token").asInt()).isEqualTo(512);
        assertThat(facts.path("kv").path("bytes").asInt()).isEqualTo(512 * 512);
        assertThat(facts.path("heads_kv").asInt()).isEqualTo(2);
        assertThat(facts.path("file_type").asText()).isEqualTo("f32");
    }

    @Test
    void saysWhyTheKvCacheOfARecurrentModelCannotBeTold() throws IOException {
        TinyFile.header("mamba").write(model);

        CommandRun run = inspect(model);

        assertThat(run.exitCode()).isZero();
        assertThat(run.out()).contains("KV cache      architecture mamba keeps a recurrent state");
    }

    @Test
    void givesScriptsAnExitCodeForWhatIsNoModel() throws IOException {
        assertThat(inspect(directory.resolve("nothing")).exitCode()).isEqualTo(ExitCode.MODEL);
        assertThat(inspect(Files.createFile(directory.resolve("empty"))).exitCode())
                .isEqualTo(ExitCode.MODEL);
        assertThat(inspect(model, "--kv-plan", "0_1").exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(inspect(model, "--ctx", 0).exitCode()).isEqualTo(ExitCode.USAGE);
    }
}
