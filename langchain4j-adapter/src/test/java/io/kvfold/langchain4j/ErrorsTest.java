package io.kvfold.langchain4j;

import static io.kvfold.ScriptedEngine.fail;
import static io.kvfold.ScriptedEngine.refuse;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.langchain4j.exception.InternalServerException;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.NonRetriableException;
import dev.langchain4j.exception.RateLimitException;
import dev.langchain4j.exception.UnsupportedFeatureException;
import io.kvfold.Engine;
import io.kvfold.KvfoldException;
import io.kvfold.ScriptedEngine.Step;
import io.kvfold.internal.NativeStatus;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

class ErrorsTest {

    static Stream<Arguments> failures() {
        return Stream.of(
                Arguments.of(
                        fail(
                                NativeStatus.ERROR_CONTEXT_EXCEEDED,
                                "the prompt has 5000 tokens, a slot 4096",
                                5000,
                                4096),
                        InvalidRequestException.class),
                Arguments.of(fail(NativeStatus.ERROR_INVALID_ARGUMENT, "bad grammar"), InvalidRequestException.class),
                Arguments.of(fail(NativeStatus.ERROR_UNKNOWN_OPTION, "no such option"), InvalidRequestException.class),
                Arguments.of(fail(NativeStatus.ERROR_PLAN_INVALID, "bad plan"), InvalidRequestException.class),
                Arguments.of(
                        refuse(NativeStatus.ERROR_QUEUE_FULL, "256 requests wait, 256 may", 256, 256),
                        RateLimitException.class),
                Arguments.of(fail(NativeStatus.ERROR_OUT_OF_MEMORY, "no memory"), InternalServerException.class),
                Arguments.of(fail(NativeStatus.ERROR_INTERNAL, "llama_decode failed"), InternalServerException.class),
                Arguments.of(fail(NativeStatus.ERROR_UNSUPPORTED, "no embeddings"), UnsupportedFeatureException.class),
                Arguments.of(fail(NativeStatus.ERROR_CLOSED, "closed"), NonRetriableException.class));
    }

    @ParameterizedTest
    @MethodSource("failures")
    void hasAnExceptionForEachFailureOfTheEngine(Step failure, Class<? extends Exception> expected) {
        try (Engine engine =
                FakeLlamaServer.scripted((route, body) -> List.of(failure)).open()) {
            KvfoldChatModel model = KvfoldChatModel.builder().engine(engine).build();

            assertThatThrownBy(() -> model.chat("hi"))
                    .isExactlyInstanceOf(expected)
                    .hasCauseInstanceOf(KvfoldException.class);
        }
    }
}
