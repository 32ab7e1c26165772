package io.kvfold.langchain4j;

import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;

import dev.langchain4j.data.segment.TextSegment;
import dev.langchain4j.model.output.Response;
import dev.langchain4j.model.scoring.request.ScoringRequest;
import io.kvfold.Engine;
import java.util.List;
import org.junit.jupiter.api.Test;

class KvfoldScoringModelTest {

    @Test
    void scoresInTheOrderOfTheTexts() {
        try (Engine engine = FakeLlamaServer.engine();
                KvfoldScoringModel model =
                        KvfoldScoringModel.builder().engine(engine).build()) {
            Response<List<Double>> scores = model.scoreAll(
                    List.of(TextSegment.from("red cars"), TextSegment.from("a cat sat"), TextSegment.from("cat")),
                    "a cat sat");

            assertThat(scores.content().get(1)).isGreaterThan(scores.content().get(2));
            assertThat(scores.content().get(2)).isGreaterThan(0);
            assertThat(scores.tokenUsage()).isNotNull();
            assertThat(model.score("cat", "cat").content()).isPositive();
            assertThat(model.scoreAll(List.of(), "cat").content()).isEmpty();
        }
    }

    @Test
    void scoresAsynchronously() {
        try (Engine engine = FakeLlamaServer.engine()) {
            KvfoldScoringModel model =
                    KvfoldScoringModel.builder().engine(engine).build();

            assertThat(model.scoreAsync(ScoringRequest.builder()
                                    .documents(List.of("dog", "cat"))
                                    .query("cat")
                                    .build())
                            .orTimeout(5, SECONDS)
                            .join()
                            .scores())
                    .containsExactly(0.0, 1.0);
        }
    }
}
