package io.kvfold;

import static io.kvfold.ScriptedEngine.chunk;
import static io.kvfold.ScriptedEngine.hang;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowable;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.EnabledForJreRange;
import org.junit.jupiter.api.condition.JRE;

@Timeout(30)
@EnabledForJreRange(min = JRE.JAVA_21, disabledReason = "virtual threads come with Java 21")
class VirtualThreadTest {

    private static final ObjectNode BODY = JsonNodeFactory.instance.objectNode();

    @Test
    void leavesTheCarriersToOthersWhileManyGenerationsWait() throws Exception {
        int waiters = 4 * Runtime.getRuntime().availableProcessors();
        ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(hang()));
        Engine engine = scripted.open();
        ExecutorService threads = virtualThreads();
        List<Future<Throwable>> ends = new ArrayList<>();
        for (int i = 0; i < waiters; i++) {
            ends.add(threads.submit(() -> catchThrowable(() -> engine.call("/completion", BODY))));
        }
        while (scripted.threadsWaiting() < waiters) {
            Thread.sleep(1);
        }
        assertThat(threads.submit(() -> "ran").get(5, TimeUnit.SECONDS)).isEqualTo("ran");
        engine.close();
        for (Future<Throwable> end : ends) {
            assertThat(end.get(5, TimeUnit.SECONDS)).isInstanceOf(EngineClosedException.class);
        }
    }

    @Test
    void cancelsWhenAVirtualThreadIsInterrupted() throws Exception {
        ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(chunk("1"), hang()));
        try (Engine engine = scripted.open();
                Generation generation = engine.chat(BODY)) {
            assertThat(generation.next()).isNotNull();
            CountDownLatch started = new CountDownLatch(1);
            CompletableFuture<Throwable> end = new CompletableFuture<>();
            Future<?> waiter = virtualThreads().submit(() -> {
                started.countDown();
                end.complete(catchThrowable(generation::next));
            });
            started.await();
            while (scripted.threadsWaiting() == 0) {
                Thread.sleep(1);
            }
            waiter.cancel(true);
            assertThat(end.get(5, TimeUnit.SECONDS)).isInstanceOf(GenerationCancelledException.class);
        }
    }

    /** The method is not there on the Java 17 that this compiles for. */
    private static ExecutorService virtualThreads() throws ReflectiveOperationException {
        return (ExecutorService)
                Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
    }
}
