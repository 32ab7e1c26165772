package io.kvfold.langchain4j;

import dev.langchain4j.exception.InternalServerException;
import dev.langchain4j.exception.TimeoutException;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.PartialThinking;
import dev.langchain4j.model.chat.response.StreamingHandle;
import io.kvfold.Generation;
import io.kvfold.GenerationCancelledException;
import io.kvfold.KvfoldException;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Queue;
import java.util.concurrent.CancellationException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/**
 * One request on its way: pulls chunks out of the engine and hands out the events they hold. {@link #nextEvent()} is
 * called by one thread at a time; {@link #cancel()} by any, during prefill as well as decode.
 */
final class ChatCall implements StreamingHandle, AutoCloseable {

    private final Supplier<Generation> start;
    private final @Nullable Function<String, Generation> otherwise;
    private final Supplier<Answer> answers;
    private final @Nullable Duration timeout;
    private final Consumer<ChatResponse> onAnswer;
    private final Queue<Object> events = new ArrayDeque<>();
    private Answer answer;
    private boolean callsExpected;
    private volatile @Nullable Generation generation;
    private volatile boolean cancelled;
    private volatile boolean expired;
    private @Nullable Future<?> deadline;
    private boolean complete;

    /**
     * @param start starts the request
     * @param otherwise starts what takes its place once its answer turns out not to begin with a tool call, from what the model
     *     has thought before; null: nothing does
     */
    ChatCall(
            Supplier<Generation> start,
            @Nullable Function<String, Generation> otherwise,
            Supplier<Answer> answers,
            @Nullable Duration timeout,
            Consumer<ChatResponse> onAnswer) {
        this.start = start;
        this.otherwise = otherwise;
        this.callsExpected = otherwise != null;
        this.answers = answers;
        this.answer = answers.get();
        this.timeout = timeout;
        this.onAnswer = onAnswer;
    }

    /**
     * Waits for the next event: a {@code PartialResponse}, {@code PartialThinking}, {@code PartialToolCall} or
     * {@code CompleteToolCall}, and at last the {@link ChatResponse}; null after that one. They have no type in common
     * in LangChain4j before 1.20, with which everything works but publishers.
     *
     * @throws CancellationException after {@link #cancel()}, or if the thread is interrupted
     * @throws RuntimeException as LangChain4j names the engine's errors
     */
    @Nullable
    Object nextEvent() {
        try {
            while (true) {
                if (cancelled) {
                    throw new CancellationException("the request was cancelled");
                }
                Object event = callsExpected ? null : events.poll();
                if (event != null || complete) {
                    return event;
                }
                byte[] chunk = started().nextJson();
                if (chunk != null) {
                    answer.accept(chunk, events::add);
                }
                if (callsExpected && answer.hasToolCalls()) {
                    callsExpected = false;
                } else if (callsExpected && (chunk == null || answer.hasText())) {
                    startOtherwise();
                } else if (chunk == null) {
                    complete();
                }
            }
        } catch (GenerationCancelledException e) {
            if (expired) {
                throw new TimeoutException("no complete answer within the timeout of " + timeout, e);
            }
            throw Errors.translate(e);
        } catch (KvfoldException e) {
            throw Errors.translate(e);
        } catch (IllegalStateException e) {
            if (e instanceof CancellationException) {
                throw e;
            }
            throw new InternalServerException(e.getMessage(), e);
        }
    }

    /** Waits for the whole answer. */
    ChatResponse await() {
        while (true) {
            if (nextEvent() instanceof ChatResponse response) {
                return response;
            }
        }
    }

    /** Forgets what was answered, which is not what was asked for, but for the thinking that led to it. */
    private void startOtherwise() {
        Generation running = generation;
        if (running != null) {
            running.close();
        }
        generation = null;
        callsExpected = false;
        events.removeIf(event -> !(event instanceof PartialThinking));
        answer = answers.get().after(answer);
    }

    private Generation started() {
        Generation running = generation;
        if (running == null) {
            running = otherwise == null || callsExpected ? start.get() : otherwise.apply(answer.thinking());
            generation = running;
            if (timeout != null && deadline == null) {
                deadline = Threads.DEADLINES.schedule(this::expire, timeout.toNanos(), TimeUnit.NANOSECONDS);
            }
            if (cancelled || expired) { // by a thread that did not see the generation yet
                running.cancel();
            }
        }
        return running;
    }

    private void complete() {
        ChatResponse response = answer.toResponse();
        complete = true;
        close();
        onAnswer.accept(response);
        events.add(response);
    }

    private void expire() {
        expired = true;
        cancelGeneration();
    }

    @Override
    public void cancel() {
        cancelled = true;
        cancelGeneration();
    }

    @Override
    public boolean isCancelled() {
        return cancelled;
    }

    private void cancelGeneration() {
        Generation running = generation;
        if (running != null) {
            running.cancel();
        }
    }

    /** Frees the slot. Called by the thread that calls {@link #nextEvent()}, or when there is none. */
    @Override
    public void close() {
        if (deadline != null) {
            deadline.cancel(false);
        }
        Generation running = generation;
        if (running != null) {
            running.close();
        }
    }
}
