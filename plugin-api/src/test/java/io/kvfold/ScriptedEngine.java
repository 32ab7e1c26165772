package io.kvfold;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.internal.NativeBridge;
import io.kvfold.internal.NativeEngine;
import io.kvfold.internal.NativeRequest;
import io.kvfold.internal.NativeServer;
import io.kvfold.internal.NativeStatus;
import io.kvfold.internal.NativeStatusException;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import org.jspecify.annotations.Nullable;
import org.slf4j.event.Level;

/**
 * An {@link Engine} without the native library: what it answers is scripted per request, what it was asked is recorded.
 *
 * <pre>{@code
 * ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(chunk("{...}"), pause(ofMillis(5)), chunk("{...}")));
 * Engine engine = scripted.open();
 * }</pre>
 */
public final class ScriptedEngine {

    /** What a request does, step by step. */
    @FunctionalInterface
    public interface Script {
        List<Step> answer(String route, JsonNode body) throws Exception;
    }

    /** One step of an answer. */
    public sealed interface Step {}

    private record Chunk(String json) implements Step {}

    private record Pause(Duration time) implements Step {}

    private record Failure(boolean atStart, NativeStatusException exception) implements Step {}

    /** The next chunk is this JSON. */
    public static Step chunk(String json) {
        return new Chunk(json);
    }

    public static Step chunk(JsonNode json) {
        return new Chunk(json.toString());
    }

    /** Nothing comes for this long; ends early when the request is cancelled or the engine closed. */
    public static Step pause(Duration time) {
        return new Pause(time);
    }

    /** Nothing comes until the request is cancelled or the engine closed. */
    public static Step hang() {
        return new Pause(Duration.ofDays(1));
    }

    /** The request fails here with a status of {@link NativeStatus}. */
    public static Step fail(int status, String message) {
        return new Failure(false, failure(status, message, null, null));
    }

    public static Step fail(int status, String message, long value, long limit) {
        return new Failure(false, failure(status, message, value, limit));
    }

    /** As first step: the request is refused when it starts, as with a full queue. */
    public static Step refuse(int status, String message, long value, long limit) {
        return new Failure(true, failure(status, message, value, limit));
    }

    /** A request that was made. */
    public static final class Request {
        private final String route;
        private final JsonNode body;
        private final AtomicInteger cancels = new AtomicInteger();
        private final AtomicInteger closes = new AtomicInteger();

        private Request(String route, JsonNode body) {
            this.route = route;
            this.body = body;
        }

        public String route() {
            return route;
        }

        public JsonNode body() {
            return body;
        }

        /** Whether it was cancelled, or closed, while part of its answer was still to come. */
        public boolean isCancelled() {
            return cancels.get() > 0;
        }

        public boolean isClosed() {
            return closes.get() > 0;
        }

        int closes() {
            return closes.get();
        }
    }

    /** Positions whose logits are handed out together. */
    static final int UBATCH = 2;

    private static final String STATS = """
            {"cells": 512, "cells_used": 12, "layers": 2, "layers_with_storage": 2, "bytes_per_token": 256,
             "bytes_allocated": 131072, "bytes_committed": 8192, "bytes_in_use": 3072, "bytes_budget": 65536,
             "ledger": {"pages": 8192, "checkpoints": 512, "swapped": 256, "states": 128},
             "bytes_promised": 4096, "slots": 4, "slots_busy": 1, "requests_waiting": 0,
             "requests_suspended": 0, "preemptions": 0, "tokens_recomputed": 0,
             "prefixes": {"prompts": 8, "hits": 6, "tokens_shared": 300, "kept": 1, "cells_shared": 40, "bytes_saved": 10240},
             "lazy_at_least": 0,
             "by_layer": [{"layer": 1, "bytes_per_token": 256, "window": 20, "may_be_lazy": false,
                           "bytes_allocated": 131072, "bytes_committed": 8192, "bytes_in_use": 3072}],
             "by_slot": [{"slot": 2, "busy": true, "tokens": 12, "bytes_in_use": 3072, "bytes_promised": 4096}],
             "lazy_layers": [],
             "evictions": {"prompts": 2, "seconds": 0.5, "bytes": 4096,
                           "by_layer": [{"layer": 1, "kept": 64, "evicted": 16}]}}""";

    private static final String TOKENS = """
            {"prompt_tokens": 30, "prompt_tokens_cached": 10, "prompt_seconds": 0.5, "generated_tokens": 8,
             "generation_seconds": 0.25}""";

    private static final String INFO = """
            {"model": {"path": "scripted.gguf", "name": "scripted", "architecture": "llama", "description": "llama 1B F32",
                       "file_type": "all F32", "parameters": 1000, "bytes": 4000, "layers": 2, "heads": 4, "heads_kv": 2,
                       "embedding_length": 64, "context_length_train": 128, "vocabulary_size": 32,
                       "vocabulary_type": "spm", "chat_template": true, "tokens": {"bos": 1, "eos": 2}},
             "context": {"size": 512, "slots": 4, "size_per_slot": 128, "batch_size": 512, "ubatch_size": 512,
                         "threads": 1, "flash_attention": true, "kv_type_k": "f16", "kv_type_v": "q8_0",
                         "kv_unified": false, "kv_plan": "0_1"},
             "offload": {"layers": 3, "layers_offloaded": 0,
                         "buffers": [{"device": "CPU", "weights": 4000, "kv": 131072, "compute": 1048576}]},
             "kv": %s}""".formatted(STATS);

    private final Script script;
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    private final List<Request> requests = new CopyOnWriteArrayList<>();
    private final List<JsonNode> opened = new CopyOnWriteArrayList<>();
    private final AtomicInteger closes = new AtomicInteger();
    private final AtomicInteger waiting = new AtomicInteger();
    private ObjectNode info = (ObjectNode) json(INFO);
    private String buildInfo = """
            {"version": "0.1.0", "llama_cpp": "v0.5.0", "patches": ["build-hook"], "compiler": "none",
             "cpu_features": {"AVX2": true}, "backends": ["CPU"],
             "devices": [{"name": "CPU", "description": "scripted", "type": "cpu", "memory_free": 1, "memory_total": 2,
                          "kv_memory": "as_it_fills"}]}""";
    private volatile @Nullable NativeStatusException openFailure;
    private volatile boolean engineClosed;

    public ScriptedEngine(Script script) {
        this.script = script;
    }

    /** Every request gets the same chunks. */
    public static ScriptedEngine answering(String... chunks) {
        List<Step> steps = new ArrayList<>();
        for (String chunk : chunks) {
            steps.add(chunk(chunk));
        }
        return new ScriptedEngine((route, body) -> steps);
    }

    /** Opens an engine over the script; closing it ends the requests as the native library does. */
    public Engine open() {
        return builder().model(java.nio.file.Path.of("scripted.gguf")).open();
    }

    /** A builder whose engine is scripted. */
    public Engine.Builder builder() {
        return Engine.builder().bridge(new Bridge());
    }

    /** What {@code kvfold_engine_info} answers; edit it before {@link #open()}. */
    public ObjectNode info() {
        return info;
    }

    /** Opening an engine fails. */
    public ScriptedEngine failingToOpen(int status, String message) {
        openFailure = failure(status, message, null, null);
        return this;
    }

    /** Requests in the order they were made. */
    public List<Request> requests() {
        return requests;
    }

    /** The request made last. */
    public Request lastRequest() {
        return requests.get(requests.size() - 1);
    }

    /** The options of every engine opened, as handed to the native library. */
    public List<JsonNode> openedWith() {
        return opened;
    }

    /** How often the native engine was closed. */
    public int closes() {
        return closes.get();
    }

    /** How many threads are inside {@code kvfold_request_next}. */
    public int threadsWaiting() {
        return waiting.get();
    }

    private static NativeStatusException failure(
            int status, String message, @Nullable Long value, @Nullable Long limit) {
        ObjectNode error = Json.MAPPER.createObjectNode().put("status", status).put("message", message);
        if (value != null && limit != null) {
            error.put("value", value).put("limit", limit);
        }
        return new NativeStatusException(status, Json.write(error));
    }

    private static JsonNode json(String text) {
        try {
            return Json.MAPPER.readTree(text);
        } catch (JsonProcessingException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private final class Bridge implements NativeBridge {
        @Override
        public byte[] buildInfo() {
            return utf8(buildInfo);
        }

        @Override
        public byte[] options() {
            return utf8("[]");
        }

        @Override
        public NativeEngine open(byte[] options, LoadProgressListener progress) throws NativeStatusException {
            opened.add(Json.read(options));
            for (float fraction : new float[] {0, 0.5f, 1}) {
                if (!progress.onProgress(fraction)) {
                    throw failure(NativeStatus.ERROR_CANCELLED, "the load was abandoned", null, null);
                }
            }
            NativeStatusException failure = openFailure;
            if (failure != null) {
                throw failure;
            }
            return new EngineHandle();
        }

        @Override
        public byte[] schemaToGrammar(byte[] schema) {
            throw new UnsupportedOperationException();
        }

        @Override
        public void logTo(@Nullable LogListener listener, Level minLevel) {
            throw new UnsupportedOperationException();
        }

        @Override
        public void quantize(String source, String target, byte[] options) {
            throw new UnsupportedOperationException();
        }

        @Override
        public void serveRpc(byte[] options) {
            throw new UnsupportedOperationException();
        }
    }

    private final class EngineHandle implements NativeEngine {
        @Override
        public byte[] info() {
            return utf8(info.toString());
        }

        @Override
        public byte[] kvStats() {
            return utf8(STATS);
        }

        @Override
        public byte[] tokenStats() {
            return utf8(TOKENS);
        }

        @Override
        public NativeRequest open(String route, byte[] body, byte @Nullable [] state) throws NativeStatusException {
            Request request = new Request(route, Json.read(body));
            requests.add(request);
            Deque<Step> steps;
            try {
                steps = new ArrayDeque<>(script.answer(route, request.body));
            } catch (Exception e) {
                throw new IllegalStateException("the script failed", e);
            }
            if (steps.peek() instanceof Failure failure && failure.atStart()) {
                throw failure.exception();
            }
            return new RequestHandle(request, steps);
        }

        @Override
        public NativeServer serve(byte[] options) {
            throw new UnsupportedOperationException();
        }

        /** Logit of token i after position p: 100 p + i. */
        @Override
        public void evaluate(int[] tokens, int first, int vocabularySize, LogitsReceiver receiver)
                throws NativeStatusException {
            for (int position = first; position < tokens.length; position += UBATCH) {
                int count = Math.min(UBATCH, tokens.length - position);
                FloatBuffer logits = FloatBuffer.allocate(count * vocabularySize);
                for (int i = 0; i < logits.capacity(); i++) {
                    logits.put(i, (float) (100 * (position + i / vocabularySize) + i % vocabularySize));
                }
                if (!receiver.receive(position, count, logits)) {
                    throw failure(NativeStatus.ERROR_CANCELLED, "abandoned", null, null);
                }
            }
        }

        @Override
        public byte[] observe(byte[] what, int[] tokens, @Nullable FloatBuffer values) {
            throw new UnsupportedOperationException();
        }

        @Override
        public void close() {
            closes.incrementAndGet();
            lock.lock();
            try {
                engineClosed = true;
                changed.signalAll();
            } finally {
                lock.unlock();
            }
        }
    }

    private final class RequestHandle implements NativeRequest {
        private final Request request;
        private final Deque<Step> steps;
        private boolean inside;
        private boolean done;

        RequestHandle(Request request, Deque<Step> steps) {
            this.request = request;
            this.steps = steps;
        }

        @Override
        public byte @Nullable [] next() throws NativeStatusException {
            waiting.incrementAndGet();
            lock.lock();
            inside = true;
            try {
                return step();
            } catch (NativeStatusException e) {
                done = true;
                throw e;
            } finally {
                inside = false;
                lock.unlock();
                waiting.decrementAndGet();
            }
        }

        private byte @Nullable [] step() throws NativeStatusException {
            while (!done) {
                Step step = steps.poll();
                if (step == null) {
                    done = true;
                    break;
                }
                if (step instanceof Pause pause) {
                    sleep(pause.time().toNanos());
                }
                if (request.isCancelled()) {
                    throw failure(NativeStatus.ERROR_CANCELLED, "the request was cancelled", null, null);
                }
                if (engineClosed) {
                    throw failure(NativeStatus.ERROR_CLOSED, "the engine was closed", null, null);
                }
                if (step instanceof Failure failure) {
                    throw failure.exception();
                }
                if (step instanceof Chunk chunk) {
                    return utf8(chunk.json());
                }
            }
            return null;
        }

        private void sleep(long nanos) {
            long left = nanos;
            boolean interrupted = false;
            while (left > 0 && !request.isCancelled() && !engineClosed) {
                long deadline = System.nanoTime() + left;
                try {
                    changed.await(left, TimeUnit.NANOSECONDS);
                } catch (InterruptedException e) {
                    interrupted = true; // a thread inside libkvfold cannot be interrupted
                }
                left = deadline - System.nanoTime();
            }
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }

        @Override
        public void cancel() {
            lock.lock();
            try {
                if (request.closes.get() > 0) {
                    throw new IllegalStateException("cancel after close");
                }
                if (!done && (inside || !steps.isEmpty())) {
                    request.cancels.incrementAndGet();
                }
                changed.signalAll();
            } finally {
                lock.unlock();
            }
        }

        @Override
        public void close() {
            request.closes.incrementAndGet();
        }
    }
}
