// What a state depends on, and which contexts have states.

#include "kv/state/fit.h"

#include "kv/memory/caches.h"
#include "kv/state/state.h"

#include "hash/hash.h"
#include "llama-context.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

namespace kvfold {

namespace fs = std::filesystem;

error bad_state(const std::string & path, const std::string & why) {
    return error(KVFOLD_ERROR_STATE, "'" + path + "': " + why).about_path(path);
}

std::vector<const llama_kv_cache *> caches_of(const llama_context * context) {
    const bool hybrid = llama_model_is_hybrid(llama_get_model(context)); // its caches are a part of the state
    return hybrid ? std::vector<const llama_kv_cache *>() : kv_caches_of(llama_get_memory(context));
}

const char * no_state_because(const llama_context * context) {
    const llama_hparams & hparams = llama_get_model(context)->hparams;
    if (caches_of(context).empty()) {
        return "its memory is no plain KV cache";
    }
    if (hparams.n_pos_per_embd() > 1 || hparams.ple_n_heads > 0 || hparams.is_mla()) {
        return "its cells hold more than keys and values";
    }
    return nullptr;
}

// Reading tens of gigabytes would take longer than the prefill that is to be saved. Another set of weights differs everywhere.
static void add_sample(std::string & sample, const std::string & path) {
    static constexpr uint64_t piece_bytes = 4096;
    static constexpr uint64_t n_pieces    = 256;

    std::unique_ptr<FILE, int (*)(FILE *)> file(ggml_fopen(path.c_str(), "rb"), fclose);
    std::error_code                        code;
    const uint64_t                         size = fs::file_size(fs::u8path(path), code);
    if (!file || code) {
        throw bad_state(path, "the model's file cannot be read again");
    }
    sample += std::to_string(size) + "\n";
    std::vector<char> piece(piece_bytes);
    const uint64_t    step = std::max(piece_bytes, size / n_pieces);
    for (uint64_t at = 0; at < size; at += step) {
#if defined(_WIN32)
        _fseeki64(file.get(), (int64_t) at, SEEK_SET);
#else
        fseeko(file.get(), (off_t) at, SEEK_SET);
#endif
        sample.append(piece.data(), fread(piece.data(), 1, piece.size(), file.get()));
    }
}

state_fit describe_fit(const llama_context * context, const std::vector<std::string> & model_files) {
    const llama_model *   model   = llama_get_model(context);
    const llama_cparams & cparams = context->get_cparams();
    const kvfold_plan &   plan    = model->hparams.kv_plan;
    const auto            caches  = caches_of(context);

    std::string sample;
    for (const std::string & path : model_files) {
        add_sample(sample, path);
    }
    state_fit fit;
    auto      add = [&](const char * name, const std::string & value) { fit.text += std::string(name) + "=" + value + "\n"; };
    add("model", hash_sha256_hex(sample.data(), sample.size()));
    add("kv-plan", plan.active() ? plan.str() : "standard");
    const int32_t prefill = cparams.kv_prefill == KVFOLD_PREFILL_SINGLE ? KVFOLD_PREFILL_EXACT : cparams.kv_prefill; // same rows
    add("kv-prefill", std::to_string(plan.upward() ? prefill : 0));
    for (const llama_kv_cache * cache : caches) {
        const auto layers = cache->get_layer_ids(); // none where the other cache has them all
        if (!layers.empty()) {
            add("cache-type-k", ggml_type_name(cache->get_k_storage(layers.front())->type));
            add("cache-type-v", ggml_type_name(cache->get_v_storage(layers.front())->type));
        }
    }
    add("flash-attn", cparams.flash_attn ? "on" : "off"); // values are stored transposed without it
    add("streams", std::to_string(caches.front()->get_n_stream()));
    add("rope-freq-base", std::to_string(cparams.rope_freq_base));
    add("rope-freq-scale", std::to_string(cparams.rope_freq_scale));
    add("yarn", std::to_string(cparams.n_ctx_orig_yarn) + " " + std::to_string(cparams.yarn_ext_factor) + " " +
                    std::to_string(cparams.yarn_attn_factor) + " " + std::to_string(cparams.yarn_beta_fast) + " " +
                    std::to_string(cparams.yarn_beta_slow));
    return fit;
}

std::string difference(const std::string & saved, const std::string & own) {
    auto line_at = [](const std::string & text, size_t at) { return text.substr(at, text.find('\n', at) - at); };
    size_t at = 0;
    while (at < own.size() && at < saved.size()) {
        const std::string mine = line_at(own, at), theirs = line_at(saved, at);
        if (mine != theirs) {
            const size_t equals = mine.find('=');
            if (theirs.compare(0, equals + 1, mine, 0, equals + 1) != 0) {
                break;
            }
            return "it was saved with " + mine.substr(0, equals) + " '" + theirs.substr(equals + 1) + "', this engine has '" +
                   mine.substr(equals + 1) + "'";
        }
        at += mine.size() + 1;
    }
    return "it was saved by another version of this library";
}

} // namespace kvfold
