package io.kvfold.bench;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalStateException;

import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.ScriptedEngine;
import io.kvfold.ScriptedEngine.Step;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

final class BenchTest {

    private static final Workload WORKLOAD = new Workload(2, 3);

    private static Sample run(int missing) throws InterruptedException {
        ScriptedEngine scripted = new ScriptedEngine((route, body) -> {
            int asked = body.path("n_predict").asInt();
            return List.of(
                    chunk("{'content':'a','tokens':[5],'tokens_predicted':1,'stop':false}"),
                    // two tokens of one character, or the last ones of an answer that ends within a character
                    chunk("{'content':'','tokens':[],'tokens_predicted':" + (asked - missing) + ",'stop':true}"));
        });
        Subject subject = new Subject(Path.of("m.gguf"), "standard", KvPlan.standard(2), KvType.F16);
        return new Bench(any -> scripted.builder().model(Path.of("m.gguf"))).run(subject, WORKLOAD, 2);
    }

    private static Step chunk(String json) {
        return ScriptedEngine.chunk(json.replace('\'', '"'));
    }

    @Test
    void countsTokensThatNoChunkOfTheirOwnTellsOf() throws InterruptedException {
        Sample sample = run(0);

        assertThat(sample.firstToken()).hasSize(2);
        assertThat(sample.throughput()).isPositive();
    }

    @Test
    void refusesAnAnswerThatIsShort() {
        assertThatIllegalStateException().isThrownBy(() -> run(1)).withMessageContaining("tokens, not");
    }
}
