// The plan that a model is loaded with: the caller's, or else that of its metadata.

#include "hooks/kv-plan-model.h"

#include "kv/plan/check.h"
#include "kv/plan/fail.h"
#include "kv/plan/model_plan.h"

#include "llama-arch.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-model-loader.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <stdexcept>
#include <utility>

using namespace kvfold::plans;

static_assert(KVFOLD_MAX_LAYERS == LLAMA_MAX_LAYERS, "a plan has room for every layer");

static thread_local std::string last_error;

std::string kvfold_take_plan_error() {
    return std::exchange(last_error, {});
}

namespace {

void adopt(const kvfold_plan & plan, llama_hparams & hparams) {
    hparams.kv_plan = plan;
    if (plan.has_window_cells()) {
        hparams.n_swa = plan.n_swa; // llama.cpp's server asks how far back a sequence can go
    }
}

bool is_standard(const kvfold_plan & plan) {
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.kv[il] != (int) il || plan.window[il]) {
            return false;
        }
    }
    return !plan.strict && !plan.is_automatic() && !plan.evicts();
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
            adopt(plan, hparams);
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
