package io.kvfold.internal.jna;

import com.sun.jna.Callback;
import com.sun.jna.Pointer;
import com.sun.jna.ptr.PointerByReference;
import java.nio.FloatBuffer;
import org.jspecify.annotations.Nullable;

/**
 * The functions of {@code kvfold.h} under their C names. Text is passed as UTF-8 bytes that end with NUL: JNA would
 * encode a {@code String} in the platform's charset. {@code size_t} is a {@code long}: only 64-bit platforms are built.
 */
interface Library {

    /** {@code KVFOLD_ABI_VERSION} that these signatures belong to. */
    int ABI_VERSION = 2;

    int kvfold_abi_version();

    void kvfold_free(Pointer text);

    int kvfold_build_info(PointerByReference out);

    void kvfold_log_set(@Nullable LogCallback callback, int minLevel, @Nullable Pointer user);

    int kvfold_options(PointerByReference out);

    int kvfold_open(
            byte[] options,
            @Nullable ProgressCallback progress,
            @Nullable Pointer user,
            PointerByReference engine,
            PointerByReference out);

    int kvfold_engine_info(Pointer engine, PointerByReference out);

    int kvfold_kv_stats(Pointer engine, PointerByReference out);

    int kvfold_token_stats(Pointer engine, PointerByReference out);

    void kvfold_close(Pointer engine);

    int kvfold_request_open(
            Pointer engine, byte[] route, byte[] body, PointerByReference request, PointerByReference out);

    int kvfold_request_open_state(
            Pointer engine,
            byte[] route,
            byte[] body,
            byte[] state,
            PointerByReference request,
            PointerByReference out);

    int kvfold_request_next(Pointer request, PointerByReference out);

    void kvfold_request_cancel(Pointer request);

    void kvfold_request_close(Pointer request);

    int kvfold_serve(Pointer engine, byte[] options, PointerByReference server, PointerByReference out);

    void kvfold_server_close(Pointer server);

    int kvfold_evaluate(
            Pointer engine,
            int[] tokens,
            int tokenCount,
            int first,
            LogitsCallback onLogits,
            @Nullable Pointer user,
            PointerByReference out);

    int kvfold_observe(
            Pointer engine,
            byte[] what,
            int[] tokens,
            int tokenCount,
            @Nullable FloatBuffer values,
            long valueCount,
            PointerByReference out);

    int kvfold_schema_to_grammar(byte[] schema, PointerByReference out);

    int kvfold_quantize(byte[] pathIn, byte[] pathOut, byte[] options, PointerByReference out);

    int kvfold_rpc_serve(byte[] options, PointerByReference out);

    /** {@code kvfold_log_callback}. */
    interface LogCallback extends Callback {
        void invoke(int level, Pointer line, @Nullable Pointer user);
    }

    /** {@code kvfold_progress_callback}. */
    interface ProgressCallback extends Callback {
        int invoke(float fraction, @Nullable Pointer user);
    }

    /** {@code kvfold_logits_callback}. */
    interface LogitsCallback extends Callback {
        int invoke(int position, int count, Pointer logits, @Nullable Pointer user);
    }
}
