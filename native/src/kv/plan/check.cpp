// Which models can run under which plans.

#include "kv/plan/check.h"
#include "kv/plan/fail.h"

#include "llama-hparams.h"
#include "llama-model-loader.h"

namespace kvfold::plans {

namespace {

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

} // namespace

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
    if (plan.is_automatic() && hparams.n_pos_per_embd() > 1) {
        fail("automatic retention is not supported for " + name + ", whose tokens have " + std::to_string(hparams.n_pos_per_embd()) + " positions");
    }
    if (plan.evicts() && (hparams.n_pos_per_embd() > 1 || hparams.ple_n_heads > 0)) {
        fail("eviction is not supported for " + name + ", whose cells must say which token they hold");
    }
    if (plan.evicts() && hparams.use_alibi) {
        fail("eviction is not supported for " + name + ", which has positions in its attention mask (ALiBi)");
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

} // namespace kvfold::plans
