package io.kvfold.internal.jna;

import com.sun.jna.Pointer;
import com.sun.jna.ptr.PointerByReference;
import io.kvfold.LoadProgressListener;
import io.kvfold.LogListener;
import io.kvfold.internal.NativeBridge;
import io.kvfold.internal.NativeEngine;
import io.kvfold.internal.NativeRequest;
import io.kvfold.internal.NativeServer;
import io.kvfold.internal.NativeStatus;
import io.kvfold.internal.NativeStatusException;
import java.lang.ref.Reference;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;
import org.slf4j.event.Level;

/** libkvfold, loaded. */
public final class JnaBridge implements NativeBridge {

    private final Library library;
    private final NativeLog log;

    JnaBridge(Library library) {
        this.library = library;
        this.log = new NativeLog(library);
    }

    /**
     * Loads libkvfold, from the system property {@code kvfold.library.path} if it is set, else from the class path.
     *
     * @throws io.kvfold.NativeLibraryException if it cannot be loaded or belongs to another version
     */
    public static NativeBridge load() {
        return new JnaBridge(LibraryLoader.load());
    }

    @Override
    public byte[] buildInfo() throws NativeStatusException {
        return answer(library::kvfold_build_info);
    }

    @Override
    public byte[] options() throws NativeStatusException {
        return answer(library::kvfold_options);
    }

    @Override
    public NativeEngine open(byte[] options, LoadProgressListener progress) throws NativeStatusException {
        log.connect();
        Library.ProgressCallback callback = (fraction, user) -> progress.onProgress(fraction) ? 1 : 0;
        PointerByReference engine = new PointerByReference();
        try {
            answer(out -> library.kvfold_open(terminated(options), callback, null, engine, out));
        } finally {
            Reference.reachabilityFence(callback); // JNA holds it weakly
        }
        return new Engine(engine.getValue());
    }

    @Override
    public byte[] schemaToGrammar(byte[] schema) throws NativeStatusException {
        return answer(out -> library.kvfold_schema_to_grammar(terminated(schema), out));
    }

    @Override
    public void logTo(@Nullable LogListener listener, Level minLevel) {
        log.listen(listener, minLevel);
    }

    @Override
    public void quantize(String source, String target, byte[] options) throws NativeStatusException {
        answer(out -> library.kvfold_quantize(
                terminated(source.getBytes(StandardCharsets.UTF_8)),
                terminated(target.getBytes(StandardCharsets.UTF_8)),
                terminated(options),
                out));
    }

    @Override
    public void serveRpc(byte[] options) throws NativeStatusException {
        log.connect();
        answer(out -> library.kvfold_rpc_serve(terminated(options), out));
    }

    private interface Call {
        int into(PointerByReference out);
    }

    /** What a call handed out, or nothing; a failed status throws. */
    private byte[] answer(Call call) throws NativeStatusException {
        PointerByReference out = new PointerByReference();
        int status = call.into(out);
        byte[] text = take(out);
        if (status < 0) {
            throw new NativeStatusException(status, text);
        }
        return text;
    }

    private byte[] take(PointerByReference out) {
        Pointer text = out.getValue();
        if (text == null) {
            return new byte[0];
        }
        try {
            return bytes(text);
        } finally {
            library.kvfold_free(text);
        }
    }

    /** The bytes before the NUL. */
    static byte[] bytes(Pointer text) {
        return text.getByteArray(0, (int) text.indexOf(0, (byte) 0));
    }

    private static byte[] terminated(byte[] text) {
        return Arrays.copyOf(text, text.length + 1);
    }

    private final class Engine implements NativeEngine {
        private final Pointer handle;

        Engine(Pointer handle) {
            this.handle = handle;
        }

        @Override
        public byte[] info() throws NativeStatusException {
            return answer(out -> library.kvfold_engine_info(handle, out));
        }

        @Override
        public byte[] kvStats() throws NativeStatusException {
            return answer(out -> library.kvfold_kv_stats(handle, out));
        }

        @Override
        public byte[] tokenStats() throws NativeStatusException {
            return answer(out -> library.kvfold_token_stats(handle, out));
        }

        @Override
        public NativeRequest open(String route, byte[] body, byte @Nullable [] state) throws NativeStatusException {
            PointerByReference request = new PointerByReference();
            byte[] path = terminated(route.getBytes(StandardCharsets.UTF_8));
            byte[] json = terminated(body);
            answer(out -> state == null
                    ? library.kvfold_request_open(handle, path, json, request, out)
                    : library.kvfold_request_open_state(handle, path, json, terminated(state), request, out));
            return new Request(request.getValue());
        }

        @Override
        public NativeServer serve(byte[] options) throws NativeStatusException {
            PointerByReference server = new PointerByReference();
            byte[] info = answer(out -> library.kvfold_serve(handle, terminated(options), server, out));
            return new Server(server.getValue(), info);
        }

        @Override
        public void evaluate(int[] tokens, int first, int vocabularySize, LogitsReceiver receiver)
                throws NativeStatusException {
            long rowBytes = (long) vocabularySize * Float.BYTES;
            int most = (int) Math.max(1, Integer.MAX_VALUE / rowBytes); // rows that a buffer can be of
            Library.LogitsCallback callback = (position, count, logits, user) -> {
                boolean goesOn = true;
                for (int row = 0; row < count && goesOn; row += most) {
                    int rows = Math.min(most, count - row);
                    FloatBuffer values = logits.getByteBuffer(row * rowBytes, rows * rowBytes)
                            .order(ByteOrder.nativeOrder())
                            .asFloatBuffer();
                    goesOn = receiver.receive(position + row, rows, values);
                }
                return goesOn ? 1 : 0;
            };
            try {
                answer(out -> library.kvfold_evaluate(handle, tokens, tokens.length, first, callback, null, out));
            } finally {
                Reference.reachabilityFence(callback); // JNA holds it weakly
            }
        }

        @Override
        public byte[] observe(byte[] what, int[] tokens, @Nullable FloatBuffer values) throws NativeStatusException {
            long room = values == null ? 0 : values.remaining();
            return answer(
                    out -> library.kvfold_observe(handle, terminated(what), tokens, tokens.length, values, room, out));
        }

        @Override
        public void close() {
            library.kvfold_close(handle);
        }
    }

    private final class Server implements NativeServer {
        private final Pointer handle;
        private final byte[] info;

        Server(Pointer handle, byte[] info) {
            this.handle = handle;
            this.info = info;
        }

        @Override
        public byte[] info() {
            return info;
        }

        @Override
        public void close() {
            library.kvfold_server_close(handle);
        }
    }

    private final class Request implements NativeRequest {
        private final Pointer handle;
        private final PointerByReference out = new PointerByReference();

        Request(Pointer handle) {
            this.handle = handle;
        }

        @Override
        public byte @Nullable [] next() throws NativeStatusException {
            out.setValue(null);
            int status = library.kvfold_request_next(handle, out);
            byte[] chunk = take(out);
            if (status < 0) {
                throw new NativeStatusException(status, chunk);
            }
            return status == NativeStatus.DONE ? null : chunk;
        }

        @Override
        public void cancel() {
            library.kvfold_request_cancel(handle);
        }

        @Override
        public void close() {
            library.kvfold_request_close(handle);
        }
    }
}
