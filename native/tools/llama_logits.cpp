// The logits of a prompt and of some decode steps as numbers to compare to the last bit: upstream's API alone, so that it
// also compiles against an unpatched llama.cpp (native/test/unpatched.sh).
//
//   llama_logits MODEL.gguf [fused|upstream]
//
// Prints for several KV types, with one and with two sequences, a hash of the logits of a prompt of 200 tokens, cut into
// ubatches of 64, and of 8 steps after it. Two sequences have cells of their own: among those that they have in common a sequence
// begins where a page does, so that sums in f16 are rounded otherwise than upstream rounds them. An unpatched llama.cpp has one kernel, and takes no second argument.

#include "llama-cpp.h"
#include "llama.h"

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#ifndef KVFOLD_UNPATCHED
#    include "hooks/cpu-attention.h"
#endif

// FNV-1a, https://www.rfc-editor.org/rfc/rfc9923
static uint64_t hash(uint64_t so_far, const void * data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        so_far = (so_far ^ ((const uint8_t *) data)[i])*1099511628211u;
    }
    return so_far;
}

static void decode(llama_context * context, int n_sequences, int pos, int n, int n_vocab, uint64_t & sum) {
    llama_batch batch = llama_batch_init(n_sequences*n, 0, 1);
    for (int seq = 0; seq < n_sequences; seq++) {
        for (int i = 0; i < n; i++) {
            const int t        = batch.n_tokens++;
            batch.token[t]     = (int) ((seq*7919LL + (pos + i)*104729LL)%n_vocab);
            batch.pos[t]       = pos + i;
            batch.n_seq_id[t]  = 1;
            batch.seq_id[t][0] = seq;
            batch.logits[t]    = i == n - 1;
        }
    }
    const int status = llama_decode(context, batch);
    for (int t = 0; t < batch.n_tokens; t++) {
        if (status == 0 && batch.logits[t]) {
            sum = hash(sum, llama_get_logits_ith(context, t), n_vocab*sizeof(float));
        }
    }
    llama_batch_free(batch);
    if (status != 0) {
        throw std::runtime_error("llama_decode failed");
    }
}

int main(int argc, char ** argv) {
    try {
        if (argc < 2) {
            throw std::runtime_error("usage: llama_logits MODEL.gguf [fused|upstream]");
        }
        llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        llama_backend_init();
        llama_model_ptr model(llama_model_load_from_file(argv[1], llama_model_default_params()));
        if (!model) {
            throw std::runtime_error(std::string("cannot load ") + argv[1]);
        }
        const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
        for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
            for (const int n_sequences : { 1, 2 }) {
                llama_context_params params = llama_context_default_params();
                params.n_ctx           = 1024;
                params.n_batch         = 512;
                params.n_ubatch        = 64;
                params.n_seq_max       = n_sequences;
                params.kv_unified      = n_sequences == 1;
                params.n_threads       = 2;
                params.n_threads_batch = 2;
                params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
                params.type_k = params.type_v = type;
#ifndef KVFOLD_UNPATCHED
                params.cpu_attention =
                        argc > 2 && strcmp(argv[2], "upstream") == 0 ? KVFOLD_CPU_ATTENTION_UPSTREAM : KVFOLD_CPU_ATTENTION_FUSED;
#endif
                llama_context_ptr context(llama_init_from_model(model.get(), params));
                if (!context) {
                    throw std::runtime_error("no context");
                }
                uint64_t sum = 14695981039346656037u;
                decode(context.get(), n_sequences, 0, 200, n_vocab, sum);
                for (int i = 0; i < 8; i++) {
                    decode(context.get(), n_sequences, 200 + i, 1, n_vocab, sum);
                }
                printf("%s, %d sequences: %016llx\n", ggml_type_name(type), n_sequences, (unsigned long long) sum);
            }
        }
        return 0;
    } catch (const std::exception & e) {
        fprintf(stderr, "llama_logits: %s\n", e.what());
        return 1;
    }
}
