#include "kv/state/account.h"

#include "hooks/kv-checkpoints.h"
#include "kv/memory/folded_memory.h"
#include "process/kvfold_log.h"

#include "server-task.h"

#include "llama.h"

#include <algorithm>

namespace kvfold {

namespace {

thread_local const server_prompt * restored = nullptr; // whose checkpoints are read

struct checkpoint_charge {
    const ledger_charge                taken;
    const page_ledger::droppable_scope dropped; // first, while it is still taken
};

} // namespace

std::shared_ptr<void> charge_checkpoint(uint64_t bytes, server_prompt & prompt) {
    const auto ledger = current_ledger();
    if (!ledger) {
        return std::make_shared<int>(); // nobody counts
    }
    auto taken = ledger_charge::take(ledger, charge::checkpoints, bytes);
    if (!taken) {
        log_emit(KVFOLD_LOG_DEBUG, "no memory for a context checkpoint of " + std::to_string(bytes) + " bytes");
        return nullptr;
    }
    const auto drop = [&prompt] {
        if (&prompt != restored) {
            prompt.checkpoints.clear();
        }
    };
    return std::shared_ptr<void>(new checkpoint_charge{ std::move(*taken), { ledger, drop } },
                                 [](void * gone) { delete static_cast<checkpoint_charge *>(gone); });
}

std::optional<ledger_charge> charge_state(uint64_t bytes) {
    const auto ledger = current_ledger();
    auto       taken  = ledger_charge::take(ledger, charge::states, bytes);
    return taken || !ledger->drop() ? std::move(taken) : ledger_charge::take(ledger, charge::states, bytes);
}

} // namespace kvfold

using namespace kvfold;

std::array<int32_t, 3> kvfold_checkpoint_offsets(int32_t n_ubatch) {
    constexpr int32_t n_end = 4, n_question = 32; // the other places are llama.cpp's
    return { n_end + n_ubatch, n_end + std::min(n_question, n_ubatch/4), n_end };
}

std::shared_ptr<void> kvfold_charge_checkpoint(llama_context * ctx, llama_context * ctx_draft, int32_t seq_id, server_prompt & prompt) {
    const auto * const folded = dynamic_cast<const folded_memory *>(llama_get_memory(ctx));
    if (folded && !folded->has_window(seq_id, folded->seq_pos_max(seq_id))) {
        return nullptr; // from which its last token could not be computed again: it has just begun with one itself
    }
    if (settle_memory(llama_get_memory(ctx), seq_id); !is_settled(llama_get_memory(ctx), seq_id)) {
        return nullptr;
    }
    uint64_t bytes = 0;
    for (llama_context * each : { ctx, ctx_draft }) {
        bytes += each ? llama_state_seq_get_size_ext(each, seq_id, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) : 0;
    }
    return charge_checkpoint(bytes, prompt);
}

bool kvfold_restore_checkpoint(
        llama_context * ctx, llama_context * ctx_draft, int32_t seq_id, const server_prompt & prompt, const common_prompt_checkpoint & checkpoint) {
    const auto put = [&](llama_context * into, const std::vector<uint8_t> & data) {
        return !into || data.empty() ||
               llama_state_seq_set_data_ext(into, data.data(), data.size(), seq_id, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) == data.size();
    };
    restored         = &prompt;
    const bool whole = put(ctx, checkpoint.data_tgt) && put(ctx_draft, checkpoint.data_dft);
    restored         = nullptr;
    if (!whole) {
        log_emit(KVFOLD_LOG_DEBUG, "no memory to go on from a context checkpoint: slot " + std::to_string(seq_id) + " computes its prompt anew");
    }
    return whole;
}
