package io.kvfold.internal.jna;

import com.sun.jna.Native;
import com.sun.jna.NativeLibrary;
import com.sun.jna.Pointer;
import com.sun.jna.ptr.PointerByReference;
import java.nio.FloatBuffer;
import org.jspecify.annotations.Nullable;

/** The functions of a loaded libkvfold, directly mapped: a third of the cost per call of JNA's interface mapping. */
final class DirectLibrary implements Library {

    /**
     * Binds the functions, which is done once per process.
     *
     * @throws UnsatisfiedLinkError if the library lacks one
     */
    DirectLibrary(NativeLibrary library) {
        Native.register(Functions.class, library);
    }

    @Override
    public int kvfold_abi_version() {
        return Functions.kvfold_abi_version();
    }

    @Override
    public void kvfold_free(Pointer text) {
        Functions.kvfold_free(text);
    }

    @Override
    public int kvfold_build_info(PointerByReference out) {
        return Functions.kvfold_build_info(out);
    }

    @Override
    public void kvfold_log_set(@Nullable LogCallback callback, int minLevel, @Nullable Pointer user) {
        Functions.kvfold_log_set(callback, minLevel, user);
    }

    @Override
    public int kvfold_options(PointerByReference out) {
        return Functions.kvfold_options(out);
    }

    @Override
    public int kvfold_open(
            byte[] options,
            @Nullable ProgressCallback progress,
            @Nullable Pointer user,
            PointerByReference engine,
            PointerByReference out) {
        return Functions.kvfold_open(options, progress, user, engine, out);
    }

    @Override
    public int kvfold_engine_info(Pointer engine, PointerByReference out) {
        return Functions.kvfold_engine_info(engine, out);
    }

    @Override
    public int kvfold_kv_stats(Pointer engine, PointerByReference out) {
        return Functions.kvfold_kv_stats(engine, out);
    }

    @Override
    public int kvfold_token_stats(Pointer engine, PointerByReference out) {
        return Functions.kvfold_token_stats(engine, out);
    }

    @Override
    public void kvfold_close(Pointer engine) {
        Functions.kvfold_close(engine);
    }

    @Override
    public int kvfold_request_open(
            Pointer engine, byte[] route, byte[] body, PointerByReference request, PointerByReference out) {
        return Functions.kvfold_request_open(engine, route, body, request, out);
    }

    @Override
    public int kvfold_request_open_state(
            Pointer engine,
            byte[] route,
            byte[] body,
            byte[] state,
            PointerByReference request,
            PointerByReference out) {
        return Functions.kvfold_request_open_state(engine, route, body, state, request, out);
    }

    @Override
    public int kvfold_request_next(Pointer request, PointerByReference out) {
        return Functions.kvfold_request_next(request, out);
    }

    @Override
    public void kvfold_request_cancel(Pointer request) {
        Functions.kvfold_request_cancel(request);
    }

    @Override
    public void kvfold_request_close(Pointer request) {
        Functions.kvfold_request_close(request);
    }

    @Override
    public int kvfold_serve(Pointer engine, byte[] options, PointerByReference server, PointerByReference out) {
        return Functions.kvfold_serve(engine, options, server, out);
    }

    @Override
    public void kvfold_server_close(Pointer server) {
        Functions.kvfold_server_close(server);
    }

    @Override
    public int kvfold_evaluate(
            Pointer engine,
            int[] tokens,
            int tokenCount,
            int first,
            LogitsCallback onLogits,
            @Nullable Pointer user,
            PointerByReference out) {
        return Functions.kvfold_evaluate(engine, tokens, tokenCount, first, onLogits, user, out);
    }

    @Override
    public int kvfold_observe(
            Pointer engine,
            byte[] what,
            int[] tokens,
            int tokenCount,
            @Nullable FloatBuffer values,
            long valueCount,
            PointerByReference out) {
        return Functions.kvfold_observe(engine, what, tokens, tokenCount, values, valueCount, out);
    }

    @Override
    public int kvfold_schema_to_grammar(byte[] schema, PointerByReference out) {
        return Functions.kvfold_schema_to_grammar(schema, out);
    }

    @Override
    public int kvfold_quantize(byte[] pathIn, byte[] pathOut, byte[] options, PointerByReference out) {
        return Functions.kvfold_quantize(pathIn, pathOut, options, out);
    }

    @Override
    public int kvfold_rpc_serve(byte[] options, PointerByReference out) {
        return Functions.kvfold_rpc_serve(options, out);
    }

    /** Bound by {@link Native#register}. */
    private static final class Functions {

        static native int kvfold_abi_version();

        static native void kvfold_free(Pointer text);

        static native int kvfold_build_info(PointerByReference out);

        static native void kvfold_log_set(@Nullable LogCallback callback, int minLevel, @Nullable Pointer user);

        static native int kvfold_options(PointerByReference out);

        static native int kvfold_open(
                byte[] options,
                @Nullable ProgressCallback progress,
                @Nullable Pointer user,
                PointerByReference engine,
                PointerByReference out);

        static native int kvfold_engine_info(Pointer engine, PointerByReference out);

        static native int kvfold_kv_stats(Pointer engine, PointerByReference out);

        static native int kvfold_token_stats(Pointer engine, PointerByReference out);

        static native void kvfold_close(Pointer engine);

        static native int kvfold_request_open(
                Pointer engine, byte[] route, byte[] body, PointerByReference request, PointerByReference out);

        static native int kvfold_request_open_state(
                Pointer engine,
                byte[] route,
                byte[] body,
                byte[] state,
                PointerByReference request,
                PointerByReference out);

        static native int kvfold_request_next(Pointer request, PointerByReference out);

        static native void kvfold_request_cancel(Pointer request);

        static native void kvfold_request_close(Pointer request);

        static native int kvfold_serve(
                Pointer engine, byte[] options, PointerByReference server, PointerByReference out);

        static native void kvfold_server_close(Pointer server);

        static native int kvfold_evaluate(
                Pointer engine,
                int[] tokens,
                int tokenCount,
                int first,
                LogitsCallback onLogits,
                @Nullable Pointer user,
                PointerByReference out);

        static native int kvfold_observe(
                Pointer engine,
                byte[] what,
                int[] tokens,
                int tokenCount,
                @Nullable FloatBuffer values,
                long valueCount,
                PointerByReference out);

        static native int kvfold_schema_to_grammar(byte[] schema, PointerByReference out);

        static native int kvfold_quantize(byte[] pathIn, byte[] pathOut, byte[] options, PointerByReference out);

        static native int kvfold_rpc_serve(byte[] options, PointerByReference out);
    }
}
