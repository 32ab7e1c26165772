package io.kvfold.langchain4j;

import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.model.StreamingResponseHandler;
import dev.langchain4j.model.output.FinishReason;
import dev.langchain4j.model.output.Response;
import io.kvfold.Engine;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.Timeout;

/** The two language models over the native library and a real, if tiny, model. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
@Timeout(60)
class LanguageModelTest {

    @SuppressWarnings("NullAway.Init") // by openEngine()
    private Engine engine;

    @BeforeAll
    void openEngine() {
        engine = StoriesModel.engine().open();
    }

    @AfterAll
    void closeEngine() {
        if (engine != null) { // there was no model
            engine.close();
        }
    }

    private static KvfoldTokenUsage usage(Response<String> response) {
        return (KvfoldTokenUsage) Objects.requireNonNull(response.tokenUsage());
    }

    private KvfoldLanguageModel.Builder model() {
        return KvfoldLanguageModel.builder().engine(engine).temperature(0.0);
    }

    private KvfoldStreamingLanguageModel.Builder streamingModel() {
        return KvfoldStreamingLanguageModel.builder().engine(engine).temperature(0.0);
    }

    @Test
    void continuesAPromptWithoutATemplate() {
        Response<String> response =
                model().maxOutputTokens(20).build().generate("Once upon a time, there was a little");

        assertThat(response.content()).startsWith(" girl named Lily.");
        assertThat(response.finishReason()).isEqualTo(FinishReason.LENGTH);
        assertThat(usage(response).outputTokenCount()).isEqualTo(20);
        assertThat(usage(response).inputTokenCount()).isBetween(8, 30);
    }

    @Test
    void saysWhatWasCached() {
        KvfoldLanguageModel model = model().maxOutputTokens(1).build();
        model.generate("The dog and the cat went to the park to play");
        KvfoldTokenUsage usage = usage(model.generate("The dog and the cat went to the park to sleep"));

        assertThat(usage.cachedInputTokenCount()).isBetween(5, usage.inputTokenCount() - 1);
    }

    @Test
    void stopsAtAStopSequence() {
        Response<String> response =
                model().stopSequences(List.of("Lily")).build().generate("Once upon a time, there was a little");

        assertThat(response.content()).isEqualTo(" girl named ");
        assertThat(response.finishReason()).isEqualTo(FinishReason.STOP);
    }

    @Test
    void streamsTheSameText() throws Exception {
        Recording recording = new Recording();
        streamingModel().maxOutputTokens(20).build().generate("Once upon a time", recording);
        Response<String> streamed = recording.response.get(30, SECONDS);

        assertThat(streamed.content())
                .isEqualTo(model().maxOutputTokens(20)
                        .build()
                        .generate("Once upon a time")
                        .content());
        assertThat(String.join("", recording.parts)).isEqualTo(streamed.content());
        assertThat(recording.parts).hasSizeGreaterThan(3);
        assertThat(streamed.finishReason()).isEqualTo(FinishReason.LENGTH);
        assertThat(usage(streamed).outputTokenCount()).isEqualTo(20);
    }

    @Test
    void tellsTheHandlerOfAPromptThatDoesNotFit() {
        Recording recording = new Recording();
        streamingModel().build().generate("word ".repeat(5000), recording);

        assertThat(recording.response)
                .failsWithin(Duration.ofSeconds(30))
                .withThrowableThat()
                .withCauseInstanceOf(InvalidRequestException.class)
                .withMessageContaining("tokens but a slot holds");
    }

    @Test
    void refusesWhatIsOutOfRange() {
        assertThatThrownBy(() -> model().topP(2.0).build())
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("topP");
    }

    @Test
    void endsTheRequestOfAHandlerThatThrows() throws Exception {
        Recording recording = new Recording() {
            @Override
            public void onNext(String part) {
                throw new IllegalArgumentException("no more");
            }
        };
        streamingModel().build().generate("Once upon a time", recording);

        assertThat(recording.response)
                .failsWithin(Duration.ofSeconds(30))
                .withThrowableThat()
                .withMessageContaining("no more");
    }

    private static class Recording implements StreamingResponseHandler<String> {
        final List<String> parts = new ArrayList<>();
        final CompletableFuture<Response<String>> response = new CompletableFuture<>();

        @Override
        public void onNext(String part) {
            parts.add(part);
        }

        @Override
        public void onComplete(Response<String> whole) {
            response.complete(whole);
        }

        @Override
        public void onError(Throwable error) {
            response.completeExceptionally(error);
        }
    }
}
