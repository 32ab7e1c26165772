// The plan of a model: from its metadata or from the caller, checked against its weights.

#include "hooks/kv-plan-model.h"
#include "hooks/kv-plan-state.h"

#include "llama-arch.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-io.h"
#include "llama-model-loader.h"
#include "llama-model.h"

#include "kv/plan/model_plan.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <stdexcept>

static_assert(KVFOLD_MAX_LAYERS == LLAMA_MAX_LAYERS, "a plan has room for every layer");

static thread_local std::string last_error;

std::string kvfold_take_plan_error() {
    return std::exchange(last_error, {});
}

namespace {

[[noreturn]] void fail(const std::string & message) {
    throw std::invalid_argument("KV plan: " + message);
}

struct metadata {
    const gguf_context * file;
    std::string          arch;

    std::string key(const char * pattern) const {
        std::string name = pattern;
        return name.replace(name.find("%s"), 2, arch);
    }
};

// id of the key, or -1; throws if it holds another type
int64_t find_key(const metadata & meta, const char * key, gguf_type type, gguf_type array_type = GGUF_TYPE_COUNT) {
    const std::string name = meta.key(key);
    const int64_t id = gguf_find_key(meta.file, name.c_str());
    if (id < 0) {
        return id;
    }
    const gguf_type found = gguf_get_kv_type(meta.file, id);
    if (found != type) {
        fail(name + " has type " + gguf_type_name(found) + ", expected is " + gguf_type_name(type));
    }
    if (type == GGUF_TYPE_ARRAY && gguf_get_arr_type(meta.file, id) != array_type) {
        fail(name + " is an array of " + gguf_type_name(gguf_get_arr_type(meta.file, id)) + ", expected is " + gguf_type_name(array_type));
    }
    return id;
}

template <typename T>
const T * array_data(const metadata & meta, int64_t id, uint32_t n_layer) {
    const size_t n = gguf_get_arr_n(meta.file, id);
    if (n != n_layer) {
        fail(std::string(gguf_get_key(meta.file, id)) + " has " + std::to_string(n) + " elements, the model has " +
             std::to_string(n_layer) + " layers");
    }
    return (const T *) gguf_get_arr_data(meta.file, id);
}

bool has_tensor(const llama_model_loader & ml, uint32_t il, const char * name) {
    return ml.weights_map.count("blk." + std::to_string(il) + "." + name + ".weight") > 0;
}

// Architectures whose layers do not come to the plain KV cache through llama.cpp's shared build_qkv() and build_attn().
bool goes_its_own_way(llm_arch arch) {
    switch (arch) {
        case LLM_ARCH_BITNET:
        case LLM_ARCH_COGVLM:
        case LLM_ARCH_DEEPSEEK32:
        case LLM_ARCH_DEEPSEEK4:
        case LLM_ARCH_DFLASH:
        case LLM_ARCH_DOTS3NOTE:
        case LLM_ARCH_EAGLE3:
        case LLM_ARCH_GEMMA4_ASSISTANT:
        case LLM_ARCH_GLM_DSA:
        case LLM_ARCH_GRANITE_SWITCH:
        case LLM_ARCH_HRM_TEXT:
        case LLM_ARCH_HY_V4:
        case LLM_ARCH_MINICPM3:
        case LLM_ARCH_MINIMAX_M3:
        case LLM_ARCH_OPENELM:
        case LLM_ARCH_PLAMO3:
        case LLM_ARCH_PLM:
        case LLM_ARCH_T5:
        case LLM_ARCH_T5ENCODER:
            return true;
        default:
            return false;
    }
}

// upward readers need a layer loop that repeats groups of layers: patches/ adds it to these
bool has_layer_loop(llm_arch arch) {
    return arch == LLM_ARCH_LLAMA || arch == LLM_ARCH_QWEN2 || arch == LLM_ARCH_QWEN3;
}

// Architectures that build another graph once the hyperparameters name a sliding window. Their window readers see through a
// mask on the full cache.
bool has_graph_for_windows(llm_arch arch) {
    switch (arch) {
        case LLM_ARCH_EXAONE4:
        case LLM_ARCH_GEMMA3:
        case LLM_ARCH_LAGUNA:
        case LLM_ARCH_LLAMA4:
        case LLM_ARCH_MELLUM:
        case LLM_ARCH_NANBEIGE:
        case LLM_ARCH_OLMO2:
        case LLM_ARCH_PHI3:
        case LLM_ARCH_PHIMOE:
        case LLM_ARCH_SMALLTHINKER:
            return true;
        default:
            return false;
    }
}

void check_against_model(const kvfold_plan & plan, const llama_model_loader & ml, const llama_hparams & hparams) {
    const llm_arch arch = ml.get_arch();
    const std::string name = llm_arch_name(arch);

    if (llm_arch_is_recurrent(arch) || llm_arch_is_hybrid(arch)) {
        fail("architecture " + name + " is recurrent or hybrid, it has no plain KV cache");
    }
    if (goes_its_own_way(arch)) {
        fail("architecture " + name + " has attention code of its own and cannot share keys and values");
    }
    if (hparams.is_mla()) {
        fail("architecture " + name + " compresses keys and values (MLA), it has no plain KV cache");
    }
    if (hparams.swa_type != LLAMA_SWA_TYPE_NONE || hparams.n_layer_kv_from_start >= 0) {
        fail("architecture " + name + " has a layer pattern of its own for its KV cache");
    }
    if (hparams.n_layer_nextn > 0) {
        fail("models with " + std::to_string(hparams.n_layer_nextn) + " next-token prediction layers are not supported");
    }
    if (!hparams.causal_attn) {
        fail("the model does not attend causally");
    }
    if (plan.upward() && !has_layer_loop(arch)) {
        fail("upward readers are supported for llama, qwen2 and qwen3, not for " + name);
    }
    if (plan.is_automatic() && has_graph_for_windows(arch)) {
        fail("automatic retention is not supported for " + name + ", which has a graph of its own for windows");
    }
    if (plan.is_automatic() && hparams.n_pos_per_embd() > 1) {
        fail("automatic retention is not supported for " + name + ", whose tokens have " + std::to_string(hparams.n_pos_per_embd()) + " positions");
    }
    if (plan.n_swa && hparams.use_alibi) {
        fail("windows are not supported for " + name + ", which has positions in its attention mask (ALiBi)");
    }
    if (plan.upward() && hparams.n_expert > 0) {
        fail("upward readers are supported for dense models, this one has " + std::to_string(hparams.n_expert) + " experts");
    }

    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        const uint32_t kv = plan.kv[il];
        if (hparams.n_head_kv(kv) == 0 || hparams.n_head(il) % hparams.n_head_kv(kv) != 0) {
            fail("layer " + std::to_string(il) + " has " + std::to_string(hparams.n_head(il)) + " heads, no multiple of the " +
                 std::to_string(hparams.n_head_kv(kv)) + " KV heads of layer " + std::to_string(kv) + " that it reads");
        }
        if (has_tensor(ml, il, "attn_qkv")) {
            continue;
        }
        for (const char * tensor : { "attn_k", "attn_v" }) {
            // architectures with other names for these are left to their own loading code
            if (plan.producer[il] && has_tensor(ml, il, "attn_q") && !has_tensor(ml, il, tensor)) {
                fail("layer " + std::to_string(il) + " must produce keys and values, but the file has no blk." +
                     std::to_string(il) + "." + tensor + ".weight");
            }
        }
    }
}

void adopt(const kvfold_plan & plan, llm_arch arch, llama_hparams & hparams) {
    hparams.kv_plan = plan;
    if (has_graph_for_windows(arch)) {
        hparams.kv_plan.in_swa.fill(0);
    }

    bool any = false;
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        hparams.is_swa_impl[il] = hparams.kv_plan.in_swa[il] || hparams.kv_plan.in_both[il];
        any |= hparams.is_swa_impl[il];
    }
    if (any) {
        // producers for window readers only live in llama.cpp's window-sized cache
        hparams.swa_type = LLAMA_SWA_TYPE_STANDARD;
        hparams.n_swa    = plan.n_swa;
        hparams.rope_freq_base_train_swa  = hparams.rope_freq_base_train;
        hparams.rope_freq_scale_train_swa = hparams.rope_freq_scale_train;
    }
}

bool is_standard(const kvfold_plan & plan) {
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.kv[il] != (int) il || plan.window[il]) {
            return false;
        }
    }
    return !plan.strict && !plan.is_automatic();
}

bool mentions(const std::string & text, const char * word) {
    const auto same = [](char a, char b) { return std::tolower((unsigned char) a) == b; };
    return std::search(text.begin(), text.end(), word, word + strlen(word), same) != text.end();
}

// The published thresholds are those of four families of checkpoints. Llama and Mistral share an architecture, so the names
// in the metadata tell them apart, and the vocabulary the two generations of Llama.
uint32_t published_threshold(const llama_model_loader & ml, llm_arch arch) {
    const std::string arch_name = llm_arch_name(arch);
    std::string names;
    for (const char * key : { "general.name", "general.basename" }) {
        const int64_t id = gguf_find_key(ml.metadata, key);
        if (id >= 0 && gguf_get_kv_type(ml.metadata, id) == GGUF_TYPE_STRING) {
            names += std::string(gguf_get_val_str(ml.metadata, id)) + "\n";
        }
    }
    if (arch_name.rfind("qwen", 0) == 0) {
        return 850000;
    }
    if (arch_name.rfind("mistral", 0) == 0 || (arch == LLM_ARCH_LLAMA && (mentions(names, "mistral") || mentions(names, "mixtral")))) {
        return 800000;
    }
    const int64_t id_tokens = gguf_find_key(ml.metadata, "tokenizer.ggml.tokens");
    const size_t  n_tokens  = id_tokens >= 0 && gguf_get_kv_type(ml.metadata, id_tokens) == GGUF_TYPE_ARRAY ? gguf_get_arr_n(ml.metadata, id_tokens) : 0;
    if (arch == LLM_ARCH_LLAMA && n_tokens >= 128000 && n_tokens < 129000) {
        return 900000;
    }
    if (arch == LLM_ARCH_LLAMA && n_tokens >= 32000 && n_tokens < 33000) {
        return 650000;
    }
    fail("no threshold is published for this model (architecture " + arch_name + ", " + std::to_string(n_tokens) +
         " tokens in its vocabulary): give one, such as lazy=0.9");
}

void choose_threshold(kvfold_plan & plan, const llama_model_loader & ml, llm_arch arch) {
    if (plan.automatic != KVFOLD_BY_THRESHOLD || plan.threshold != KVFOLD_THRESHOLD_DEFAULT) {
        return;
    }
    plan.threshold = published_threshold(ml, arch);
    if (std::string(llm_arch_name(arch)).rfind("qwen", 0) == 0) {
        plan.excluded[plan.n_layer - 1] = 1; // as in the published code for this family
        kvfold_plan_derive(plan);
    }
}

} // namespace

kvfold_plan kvfold_plan_from_metadata(const gguf_context * file, const std::string & arch, uint32_t n_layer) {
    const metadata meta { file, arch };
    kvfold_plan plan;

    const int64_t id_map    = find_key(meta, KVFOLD_KEY_LAYER_MAP,       GGUF_TYPE_ARRAY, GGUF_TYPE_INT32);
    const int64_t id_strict = find_key(meta, KVFOLD_KEY_STRICT_DIAGONAL, GGUF_TYPE_BOOL);
    const int64_t id_passes = find_key(meta, KVFOLD_KEY_PREFILL_PASSES,  GGUF_TYPE_UINT32);
    const int64_t id_layers = find_key(meta, KVFOLD_KEY_WINDOW_LAYERS,   GGUF_TYPE_ARRAY, GGUF_TYPE_BOOL);
    const int64_t id_sinks  = find_key(meta, KVFOLD_KEY_WINDOW_SINKS,    GGUF_TYPE_UINT32);

    if (id_map < 0) {
        for (const int64_t id : { id_strict, id_passes, id_layers, id_sinks }) {
            if (id >= 0) {
                fail(std::string(gguf_get_key(file, id)) + " is there, but " + meta.key(KVFOLD_KEY_LAYER_MAP) + " is missing");
            }
        }
        return plan;
    }

    if (n_layer > KVFOLD_MAX_LAYERS) {
        fail("the model has " + std::to_string(n_layer) + " layers, a plan can have " + std::to_string(KVFOLD_MAX_LAYERS));
    }
    const int32_t * map = array_data<int32_t>(meta, id_map, n_layer);
    plan.n_layer = n_layer;
    for (uint32_t il = 0; il < n_layer; ++il) {
        if (map[il] < 0 || map[il] >= (int32_t) n_layer) {
            fail("layer " + std::to_string(il) + " reads layer " + std::to_string(map[il]) +
                 ", but the layers are 0 to " + std::to_string(n_layer - 1));
        }
        plan.kv[il] = (int16_t) map[il];
    }
    if (id_strict >= 0) {
        plan.strict = gguf_get_val_bool(file, id_strict);
    }
    if (id_passes >= 0) {
        plan.n_passes = gguf_get_val_u32(file, id_passes);
        plan.passes_given = true;
    }
    if (id_layers >= 0) {
        const int8_t * window = array_data<int8_t>(meta, id_layers, n_layer);
        bool any = false;
        for (uint32_t il = 0; il < n_layer; ++il) {
            plan.window[il] = window[il] != 0;
            any |= window[il] != 0;
        }
        const int64_t id_window = find_key(meta, KVFOLD_KEY_WINDOW, GGUF_TYPE_UINT32);
        if (any && id_window < 0) {
            fail(meta.key(KVFOLD_KEY_WINDOW_LAYERS) + " names layers, but " + meta.key(KVFOLD_KEY_WINDOW) + " is missing");
        }
        if (any) {
            plan.n_swa = gguf_get_val_u32(file, id_window);
        }
    }
    if (id_sinks >= 0) {
        plan.n_sinks = gguf_get_val_u32(file, id_sinks);
        if (plan.n_sinks > (uint32_t) INT32_MAX) {
            fail(std::string(gguf_get_key(file, id_sinks)) + " is " + std::to_string(plan.n_sinks) + ", at most " +
                 std::to_string(INT32_MAX) + " are allowed");
        }
    }
    kvfold_plan_derive(plan);
    return plan;
}

void kvfold_load_plan(const llama_model_loader & ml, llama_hparams & hparams, const char * override_text) {
    last_error.clear();
    try {
        const kvfold_plan trained = kvfold_plan_from_metadata(ml.metadata, llm_arch_name(ml.get_arch()), hparams.n_layer());
        kvfold_plan plan = trained;
        if (override_text && *override_text) {
            plan = kvfold_plan_parse(override_text, hparams.n_layer());
            choose_threshold(plan, ml, ml.get_arch());
            if (!is_standard(plan) && plan.str() != trained.str()) {
                LLAMA_LOG_WARN("%s: KV plan %s is not the one this model was trained with (%s): expect worse text\n", __func__,
                        plan.str().c_str(), trained.active() ? trained.str().c_str() : "standard");
            }
        }
        if (!plan.active()) {
            return;
        }
        check_against_model(plan, ml, hparams);
        if (!is_standard(plan)) {
            adopt(plan, ml.get_arch(), hparams);
            LLAMA_LOG_INFO("%s: KV plan: %s, %u of %u layers keep keys and values\n", __func__,
                    plan.str().c_str(), plan.n_layer_kv(), plan.n_layer);
        }
    } catch (const std::invalid_argument & e) {
        last_error = e.what();
        throw std::runtime_error(e.what());
    }
}

int kvfold_tensor_flags(const llama_hparams & hparams, const LLM_TN_IMPL & tn, int flags, int flag_not_required, int flag_skip) {
    if (!hparams.kv_plan.active() || tn.bid < 0 || hparams.kv_plan.is_producer(tn.bid)) {
        return flags;
    }
    switch (tn.tensor) {
        case LLM_TENSOR_ATTN_K:
        case LLM_TENSOR_ATTN_V:
        case LLM_TENSOR_ATTN_K_NORM:
            return flags | flag_not_required | flag_skip;
        default:
            return flags;
    }
}

void kvfold_plan_hash_write(const kvfold_plan & plan, llama_io_write_i & io) {
    const uint64_t hash = plan.hash();
    io.write(&hash, sizeof(hash));
}

void kvfold_plan_hash_read(const kvfold_plan & plan, llama_io_read_i & io) {
    uint64_t hash = 0;
    io.read(&hash, sizeof(hash));
    if (hash != plan.hash()) {
        throw std::runtime_error("the saved state belongs to another KV plan than " + plan.str());
    }
}

void kvfold_state_write(const llama_hparams & hparams, llama_io_write_i & io) {
    if (hparams.kv_plan.active()) {
        kvfold_plan_hash_write(hparams.kv_plan, io);
    }
}

void kvfold_state_read(const llama_hparams & hparams, llama_io_read_i & io) {
    if (hparams.kv_plan.active()) {
        kvfold_plan_hash_read(hparams.kv_plan, io);
    }
}
