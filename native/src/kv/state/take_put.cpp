// A state out of a slot, and into one.

#include "kv/state/account.h"
#include "kv/state/check.h"
#include "kv/state/fit.h"
#include "kv/state/state.h"

#include "kv/eviction/evictor.h"
#include "kv/memory/caches.h"
#include "kv/memory/folded_memory.h"

#include "server-task.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <stdexcept>

namespace kvfold {

// What a sequence has in the cache of windows, in all of its layers.
static uint64_t window_bytes(const llama_context * context, llama_seq_id seq_id) {
    const llama_kv_cache & cache = *caches_of(context).back();
    uint64_t               bytes = 0;
    for (const kv_tensors & layer : kv_tensors_of(cache)) {
        bytes += ggml_row_size(layer.k->type, layer.k->ne[0]) + (layer.v ? ggml_row_size(layer.v->type, layer.v->ne[0]) : 0);
    }
    return bytes*cache.get_cells(seq_id).seq_cells(seq_id);
}

std::optional<kv_state> take_state(
        llama_context * context, int id_slot, const server_prompt & prompt, const std::function<bool(uint64_t bytes)> & make_room) {
    kv_state state;
    state.tokens = prompt.tokens.get_tokens();

    while (settle_memory(llama_get_memory(context), id_slot), !is_settled(llama_get_memory(context), id_slot)) {
        if (!make_room(window_bytes(context, id_slot))) {
            return std::nullopt;
        }
    }
    const llama_pos n_decisive = decisive_tokens(llama_get_memory(context), id_slot);

    const uint64_t n_cells = llama_state_seq_get_size_ext(context, id_slot, LLAMA_STATE_SEQ_FLAGS_NONE);
    // a prompt that departs earlier than the newest of them begins with one before
    uint64_t n_checkpoints = 0;
    for (const auto & each : prompt.checkpoints) {
        if (each.pos_max + 1 == each.n_tokens && goes_on_after(n_decisive, (llama_pos) each.n_tokens - 1)) {
            state.checkpoints.push_back({ (int32_t) each.n_tokens, each.pos_min, each.data_tgt });
            n_checkpoints += each.data_tgt.size();
        }
    }
    state.charged = ledger_charge::take(current_ledger(), charge::states, n_cells + n_checkpoints);
    if (!state.charged) {
        state.checkpoints.clear();
        while (!(state.charged = charge_state(n_cells))) {
            if (!make_room(n_cells)) {
                return std::nullopt;
            }
        }
    }
    state.cells.resize(n_cells);
    const size_t written =
        llama_state_seq_get_data_ext(context, state.cells.data(), state.cells.size(), id_slot, LLAMA_STATE_SEQ_FLAGS_NONE);
    try {
        if (written != state.cells.size()) {
            throw std::runtime_error("llama.cpp could not copy it");
        }
        check_state(state, context);
    } catch (const std::runtime_error & e) {
        throw error(KVFOLD_ERROR_STATE, std::string("the KV state of the conversation cannot be kept: ") + e.what());
    }
    return state;
}

bool put_state(llama_context * context, int id_slot, server_prompt & prompt, const kv_state & state) {
    llama_memory_t memory = llama_get_memory(context);
    prompt.clear();
    llama_memory_seq_rm(memory, id_slot, -1, -1);
    const size_t read =
        llama_state_seq_set_data_ext(context, state.cells.data(), state.cells.size(), id_slot, LLAMA_STATE_SEQ_FLAGS_NONE);
    if (read != state.cells.size() || llama_memory_seq_pos_max(memory, id_slot) != (llama_pos) state.tokens.size() - 1) {
        llama_memory_seq_rm(memory, id_slot, -1, -1);
        return false;
    }
    prompt.tokens = server_tokens(state.tokens, prompt.tokens.has_mtmd);
    for (const auto & each : state.checkpoints) {
        auto charge = charge_checkpoint(each.cells.size(), prompt);
        if (!charge) {
            break;
        }
        auto & restored = prompt.checkpoints.emplace_back();
        restored.charge = std::move(charge);
        restored.update_pos(each.n_tokens, each.pos_min, each.n_tokens - 1);
        restored.data_tgt = each.cells;
    }
    return true;
}

} // namespace kvfold
