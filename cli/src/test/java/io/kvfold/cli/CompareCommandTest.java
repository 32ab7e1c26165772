package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.Engine;
import io.kvfold.ScriptedEngine;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class CompareCommandTest {

    private static final String TIMINGS = "\"timings\":{\"prompt_n\":3,\"prompt_per_second\":70.0,\"predicted_n\":5,"
            + "\"predicted_per_second\":20.5}";
    private static final String LONG_TEXT = "one two three four five six seven eight nine ten eleven twelve thirteen";

    /** One per engine that was opened. */
    private final List<ScriptedEngine> engines = new ArrayList<>();

    private Engine.Builder scripted() {
        ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(ScriptedEngine.chunk(
                switch (route) {
                    case "/tokenize" ->
                        body.path("content").asText().isEmpty()
                                ? "{\"tokens\":[1]}"
                                : "{\"tokens\":[1" + ",31".repeat(300) + "]}";
                    case "/v1/chat/completions" ->
                        "{\"choices\":[{\"message\":{\"content\":\"said\"}}]," + TIMINGS + "}";
                    default ->
                        "{\"content\":\"" + (engines.size() == 1 ? LONG_TEXT : "short\\nand sweet") + "\"," + TIMINGS
                                + "}";
                })));
        engines.add(scripted);
        return scripted.builder();
    }

    @SuppressWarnings("NullAway.Init")
    private Path model;

    @BeforeEach
    void writeAModel(@TempDir Path directory) throws IOException {
        model = directory.resolve("model.gguf");
        TinyFile.header("llama").write(model);
    }

    private CommandRun compare(String... arguments) {
        List<String> all = new ArrayList<>(List.of("compare", "--model", model.toString(), "-p", "a"));
        all.addAll(List.of(arguments));
        CommandRun run = CommandRun.of(this::scripted, all.toArray(String[]::new));
        assertThat(run.exitCode()).as(run.err()).isIn(ExitCode.OK, ExitCode.USAGE);
        return run;
    }

    @Test
    void runsTwoPlansOneAfterTheOther() throws JsonProcessingException {
        JsonNode result = new ObjectMapper()
                .readTree(
                        compare("--plan", "file,cla:2", "--seed", "7", "--json").out());

        assertThat(engines)
                .extracting(engine -> engine.openedWith().get(0).path("kv-plan").asText())
                .containsExactly("", "0_0_2_2");
        assertThat(engines).extracting(ScriptedEngine::closes).containsExactly(1, 1);
        JsonNode request = engines.get(1).lastRequest().body();
        assertThat(request.path("temperature").asDouble(-1)).isZero();
        assertThat(request.path("seed").asInt()).isEqualTo(7);
        assertThat(result.path("results"))
                .extracting(one ->
                        one.path("plan").asText() + ": " + one.path("text").asText())
                .containsExactly("file: " + LONG_TEXT, "cla:2: short\nand sweet");
        assertThat(result.at("/results/1"))
                .isEqualTo(
                        new ObjectMapper()
                                .readTree(
                                        "{\"model\":\"model.gguf\",\"plan\":\"cla:2\",\"kv_type\":\"f16\","
                                                + "\"text\":\"short\\nand sweet\",\"prompt_tokens\":3,\"prompt_tokens_per_second\":70.0,"
                                                + "\"completion_tokens\":5,\"completion_tokens_per_second\":20.5,"
                                                + "\"kv_bytes_per_token\":256,\"kv_bytes_committed\":8192,\"kv_bytes_allocated\":131072}"));
    }

    @Test
    void putsTextsAndFiguresSideBySide() {
        List<String> lines = compare("--kv-type", "f16,q8_0").out().lines().toList();

        assertThat(lines).anyMatch(line -> line.matches("KV type +f16 +q8_0 *"));
        assertThat(lines).anyMatch(line -> line.matches("text +one two three .* short *"));
        assertThat(lines).anyMatch(line -> line.matches(" +\\S.* and sweet *"));
        assertThat(lines)
                .anyMatch(line -> line.matches("answer +5 tokens at 20.5 tokens/s +5 tokens at 20.5 tokens/s *"));
    }

    @Test
    void asksAsInAChatWhenTold() {
        CommandRun run = compare("--kv-type", "f16,q8_0", "--chat");

        assertThat(run.out()).containsPattern("text +said +said");
        assertThat(engines.get(1).lastRequest().body().at("/messages/0/content").asText())
                .isEqualTo("a");
    }

    @Test
    void addsThePerplexityOfAText(@TempDir Path directory) throws IOException {
        Path text = Files.writeString(directory.resolve("text"), "whatever");

        // a slot of 128 tokens: two chunks of it in 301 tokens, 63 tokens scored in each
        assertThat(compare("--kv-type", "f16,q8_0", "--text", text.toString()).out())
                .containsPattern("perplexity +1\\.5820 \\+/- 0\\.00000 .*1\\.5820")
                .containsPattern("126 tokens")
                .contains("128");
    }

    @Test
    void wantsTwo() {
        CommandRun one = compare();
        CommandRun three = compare("--plan", "file,cla:2,lckv:2");

        assertThat(one.exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(one.err()).contains("two are compared, not 1");
        assertThat(three.err()).contains("two are compared, not 3");
        assertThat(engines).isEmpty();
    }
}
