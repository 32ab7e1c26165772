package io.kvfold.bench;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.KvType;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

final class ReportTest {

    private static final Subject STANDARD = new Subject(Path.of("m.gguf"), "standard", null, KvType.F16);
    private static final Subject FOLDED = new Subject(Path.of("m.gguf"), "cla:2", null, KvType.Q8_0);
    private static final Workload WORKLOAD = new Workload(5, 10);

    private static Sample sample(double throughput, Double... firstToken) {
        return new Sample(100, 50, throughput, List.of(firstToken), 3 << 20, Double.NaN);
    }

    @Test
    void comparesRoundByRoundWithAsManySequencesOfTheFirstSubject() {
        List<Result> results = List.of(
                new Result(STANDARD, WORKLOAD, 1, List.of(sample(10, 0.1), sample(20, 0.2))),
                new Result(FOLDED, WORKLOAD, 1, List.of(sample(20, 0.1), sample(20, 0.2))),
                new Result(STANDARD, WORKLOAD, 4, List.of(sample(40, 0.1), sample(40, 0.2))),
                new Result(FOLDED, WORKLOAD, 4, List.of(sample(40, 0.1), sample(20, 0.2))));

        JsonNode json = Report.json(results).path("results");

        assertThat(json.at("/1/throughput_ratio/median").asDouble()).isEqualTo(1.5);
        assertThat(json.at("/1/throughput_ratio/lowest").asDouble()).isEqualTo(1.0);
        assertThat(json.at("/1/throughput_ratio/highest").asDouble()).isEqualTo(2.0);
        assertThat(json.at("/2/throughput_ratio/median").asDouble()).isEqualTo(1.0);
        assertThat(json.at("/3/throughput_ratio/median").asDouble()).isEqualTo(0.75);
        assertThat(Report.markdown(results).lines())
                .hasSize(6)
                .element(3)
                .asString()
                .startsWith(
                        "| m cla:2 q8_0 | 5+10 | 1 | 3.0 | 100.0 | 50.0 | 20.00 | 20.00 - 20.00 | 1.500 | 1.000 - 2.000 |");
    }

    /** With a budget each subject has its own number of sequences. */
    @Test
    void comparesWithTheFirstSubjectWhereNoneHasAsManySequences() {
        List<Result> results = List.of(
                new Result(STANDARD, WORKLOAD, 3, List.of(sample(10, 0.1))),
                new Result(FOLDED, WORKLOAD, 7, List.of(sample(25, 0.1))));

        assertThat(Report.json(results).at("/results/1/throughput_ratio/median").asDouble())
                .isEqualTo(2.5);
    }

    @Test
    void ranksTheFirstTokensOfAllRounds() {
        Result result = new Result(STANDARD, WORKLOAD, 2, List.of(sample(1, 0.1, 0.4), sample(1, 0.2, 0.3)));

        assertThat(result.firstToken(0.5)).isEqualTo(0.2);
        assertThat(result.firstToken(0.99)).isEqualTo(0.4);
        assertThat(result.firstToken(0.01)).isEqualTo(0.1);
    }

    @Test
    void takesTheMiddleOfAnEvenNumber() {
        assertThat(Spread.of(4, 1, 2, 3)).isEqualTo(new Spread(2.5, 1, 4));
        assertThatThrownBy(Spread::of).isInstanceOf(IllegalArgumentException.class);
    }
}
