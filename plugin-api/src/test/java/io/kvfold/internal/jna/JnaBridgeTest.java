package io.kvfold.internal.jna;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.EngineOption;
import io.kvfold.ForkedJvm;
import io.kvfold.Generation;
import io.kvfold.GenerationCancelledException;
import io.kvfold.InternalEngineException;
import io.kvfold.InvalidRequestException;
import io.kvfold.Logits;
import io.kvfold.ModelNotFoundException;
import io.kvfold.NativeLibrary;
import io.kvfold.QueueFullException;
import io.kvfold.TokenStats;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

/** What crosses the boundary, seen from both sides: a JVM of its own runs on a library that answers what it is given. */
@EnabledOnOs(OS.LINUX)
class JnaBridgeTest {

    @TempDir
    Path directory;

    @Test
    void carriesTextNumbersErrorsAndCallbacksAcross() throws Exception {
        Path stub = StubLibrary.compileInto(directory);
        String output = new ForkedJvm()
                .with("-Dkvfold.library.path=" + stub)
                .with("-Dfile.encoding=ISO-8859-1") // must not matter
                .with("-Dorg.slf4j.simpleLogger.log.io.kvfold.native=debug")
                .with("-Dsun.jnu.encoding=UTF-8") // for the name of the model on a machine without a UTF-8 locale
                .run(Main.class)
                .outputOfSuccess();
        assertThat(output)
                .contains("all as expected")
                .contains(
                        "[kvfold-native", "DEBUG io.kvfold.native", "INFO io.kvfold.native", "ERROR io.kvfold.native");
    }

    @Test
    void asksForNoLineThatNobodyReads() throws Exception {
        Path stub = StubLibrary.compileInto(directory);
        String output = new ForkedJvm()
                .with("-Dkvfold.library.path=" + directory)
                .with("-Dorg.slf4j.simpleLogger.log.io.kvfold.native=error")
                .with("-Dfile.encoding=UTF-8")
                .with("-Dstderr.encoding=UTF-8")
                .with("-Dsun.jnu.encoding=UTF-8")
                .run(Main.class)
                .outputOfSuccess();
        assertThat(stub).exists();
        assertThat(output)
                .contains("ERROR io.kvfold.native - größer als \ud83d\ude00")
                .doesNotContain("WARN io.kvfold.native");
    }

    static final class Main {

        private static final ObjectNode BODY = JsonNodeFactory.instance
                .objectNode()
                .put("text", "ä – 二 – \ud83d\ude00 \u0000")
                .put("n", Long.MAX_VALUE);

        private Main() {}

        public static void main(String[] args) throws Exception {
            assertThat(NativeLibrary.unavailabilityCause()).isNull();
            assertThat(NativeLibrary.info().version()).isEqualTo("stub");
            assertThat(NativeLibrary.options())
                    .containsExactly(new EngineOption(List.of("ctx-size", "c"), List.of(), "N", "context"));
            NativeLibrary.quantize(Path.of("in"), Path.of("aus-\u00e4"), JsonNodeFactory.instance.objectNode());
            assertThatThrownBy(() -> NativeLibrary.quantize(Path.of("a"), Path.of("b"), BODY))
                    .isInstanceOf(ModelNotFoundException.class);
            assertThat(NativeLibrary.schemaToGrammar(
                            JsonNodeFactory.instance.objectNode().put("type", "ä")))
                    .isEqualTo("root ::= \"ä\"");
            assertThatThrownBy(() -> NativeLibrary.schemaToGrammar(BODY)).isInstanceOf(InvalidRequestException.class);
            assertThatThrownBy(() -> Engine.open(Path.of("missing.gguf")))
                    .isInstanceOf(ModelNotFoundException.class)
                    .hasMessage("kein Modell: für");

            Engine.Builder builder = Engine.builder().model(Path.of("größte.gguf"));
            assertThatThrownBy(() -> builder.loadProgress(f -> f < 0.5f).open())
                    .isInstanceOf(GenerationCancelledException.class);
            List<Float> progress = new ArrayList<>();
            try (Engine engine = builder.loadProgress(progress::add).open()) {
                assertThat(progress).containsExactly(0f, 0.25f, 0.5f, 0.75f, 1f);
                use(engine);
                assertThat(engine.tokenStats()).isEqualTo(new TokenStats(5_000_000_000L, 1, 0.5, 2, 0.25));
                assertThat(engine.kvCacheStats().cellsUsed())
                        .as("strings not freed")
                        .isZero();
            }
            System.out.println("all as expected");
        }

        private static void use(Engine engine) throws Exception {
            assertThat(engine.info().model().parameters()).isEqualTo(9_000_000_000L);
            assertThat(engine.call("/echo", BODY)).isEqualTo(BODY);
            assertThatThrownBy(() -> engine.call("/full", BODY)).isInstanceOf(QueueFullException.class);
            assertThatThrownBy(() -> engine.call("/silent", BODY))
                    .isInstanceOf(InternalEngineException.class)
                    .hasMessageContaining("status -100");
            try (Generation generation = engine.start("/wait", BODY)) {
                CompletableFuture<Throwable> end =
                        CompletableFuture.supplyAsync(() -> catchThrowable(generation::next));
                Thread.sleep(20);
                generation.cancel();
                assertThat(end.get(5, TimeUnit.SECONDS)).isInstanceOf(GenerationCancelledException.class);
                assertThat(generation.next()).isNull();
            }
            Logits logits = engine.evaluate(3, 0, 7);
            assertThat(logits.get(0, 0)).isEqualTo(3000f);
            assertThat(logits.row(2).get(31)).isEqualTo(7031f);
            assertThat(engine.hiddenStates(3, 0, 7)).isDeepEqualTo(new float[][] {{30, 31}, {0, 1}, {70, 71}});
            assertThatThrownBy(() -> engine.keysAndValues(3)).isInstanceOf(InvalidRequestException.class);
        }
    }
}
