package io.kvfold;

import static io.kvfold.ScriptedEngine.chunk;
import static io.kvfold.ScriptedEngine.hang;
import static io.kvfold.ScriptedEngine.pause;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(20)
class GenerationTest {

    private static final ObjectNode BODY = JsonNodeFactory.instance.objectNode();

    private final ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(chunk("1"), hang()));
    private final Engine engine = scripted.open();

    @AfterEach
    void close() {
        engine.close();
    }

    @Test
    void throwsAtOnceInAWaitingThreadWhenItIsCancelled() throws Exception {
        try (Generation generation = engine.chat(BODY)) {
            assertThat(generation.next()).isNotNull();
            CompletableFuture<Throwable> end = CompletableFuture.supplyAsync(() -> catchThrowable(generation::next));
            awaitWaitingThread();
            generation.cancel();
            assertThat(end.get(5, TimeUnit.SECONDS)).isInstanceOf(GenerationCancelledException.class);
            assertThat(generation.next()).isNull();
            generation.cancel();
        }
    }

    @Test
    void canBeCancelledBeforeAnyoneWaits() {
        try (Generation generation = engine.chat(BODY)) {
            generation.cancel();
            assertThatThrownBy(generation::next).isInstanceOf(GenerationCancelledException.class);
            assertThat(generation.next()).isNull();
        }
    }

    @Test
    void isReleasedOnlyWhenAWaitingThreadHasLeft() throws Exception {
        Generation generation = engine.chat(BODY);
        assertThat(generation.next()).isNotNull();
        CompletableFuture<Throwable> end = CompletableFuture.supplyAsync(() -> catchThrowable(generation::next));
        awaitWaitingThread();
        generation.close();
        assertThat(scripted.threadsWaiting()).isZero();
        assertThat(scripted.lastRequest().closes()).isEqualTo(1);
        assertThat(end.get(5, TimeUnit.SECONDS)).isInstanceOf(GenerationCancelledException.class);
    }

    @Test
    void refusesToBeUsedAfterClose() {
        Generation generation = engine.chat(BODY);
        generation.close();
        generation.close();
        generation.cancel();
        assertThat(scripted.lastRequest().closes()).isEqualTo(1);
        assertThatThrownBy(generation::next)
                .isInstanceOf(GenerationCancelledException.class)
                .hasMessageContaining("closed");
    }

    @Test
    void isCancelledWhenItsThreadIsInterrupted() throws Exception {
        try (Generation generation = engine.chat(BODY)) {
            assertThat(generation.next()).isNotNull();
            AtomicBoolean stillInterrupted = new AtomicBoolean();
            CompletableFuture<Throwable> end = new CompletableFuture<>();
            Thread thread = new Thread(() -> {
                Throwable failure = catchThrowable(generation::next);
                stillInterrupted.set(Thread.currentThread().isInterrupted());
                end.complete(failure);
            });
            thread.start();
            awaitWaitingThread();
            thread.interrupt();
            assertThat(end.get(5, TimeUnit.SECONDS))
                    .isInstanceOf(GenerationCancelledException.class)
                    .hasMessageContaining("interrupted");
            assertThat(stillInterrupted).isTrue();
            assertThat(scripted.lastRequest().isCancelled()).isTrue();
        }
    }

    @Test
    void cancelsRatherThanStartsToWaitOnAnInterruptedThread() {
        try (Generation generation = engine.chat(BODY)) {
            Thread.currentThread().interrupt();
            assertThatThrownBy(generation::next).isInstanceOf(GenerationCancelledException.class);
        } finally {
            assertThat(Thread.interrupted()).isTrue();
        }
    }

    @Test
    void letsASecondThreadWaitForItsTurn() throws Exception {
        ScriptedEngine slow =
                new ScriptedEngine((route, body) -> List.of(pause(Duration.ofMillis(50)), chunk("1"), chunk("2")));
        try (Engine engine = slow.open();
                Generation generation = engine.chat(BODY)) {
            CompletableFuture<Object> one = CompletableFuture.supplyAsync(generation::next);
            CompletableFuture<Object> two = CompletableFuture.supplyAsync(generation::next);
            assertThat(List.of(one.get().toString(), two.get().toString())).containsExactlyInAnyOrder("1", "2");
        }
    }

    @Test
    void outlivesItsEngineWithoutHarm() {
        Generation generation = engine.chat(BODY);
        engine.close();
        assertThatThrownBy(generation::next).isInstanceOf(EngineClosedException.class);
        assertThat(generation.next()).isNull();
        generation.cancel();
        generation.close();
        assertThat(scripted.lastRequest().closes()).isEqualTo(1);
    }

    private void awaitWaitingThread() throws InterruptedException {
        while (scripted.threadsWaiting() == 0) {
            Thread.sleep(1);
        }
    }
}
