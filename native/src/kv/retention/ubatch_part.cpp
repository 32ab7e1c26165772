#include "kv/retention/ubatch_part.h"

#include "hooks/kv-plan-prefill.h"

std::vector<kv_ubatch_part> kvfold_ubatch_parts(const llama_ubatch & ubatch) {
    std::vector<kv_ubatch_part> parts(ubatch.n_seqs_unq);
    for (uint32_t s = 0; s < ubatch.n_seqs_unq; ++s) {
        parts[s].seq_id = ubatch.seq_id_unq[s];
    }
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        for (int32_t n = 0; n < ubatch.n_seq_id[i]; ++n) {
            kv_ubatch_part & part = parts[ubatch.seq_idx[ubatch.seq_id[i][n]]];
            const bool output = ubatch.output && ubatch.output[i];
            part.rows.push_back((int32_t) i);
            part.pos.push_back(ubatch.pos[i]);
            part.n_outputs       += output;
            part.ends_with_output = output;
            part.shared          |= ubatch.n_seq_id[i] > 1;
        }
    }
    return parts;
}

// A prompt's chunk has no output but that of its very end; drafted tokens, and texts to embed, have one at each token.
kvfold::stage kvfold::stage_of(const kv_ubatch_part & part, bool in_prompt, int32_t prefill) {
    if (prefill == KVFOLD_PREFILL_OBSERVATION || part.shared || part.rows.empty()) {
        return stage::OTHER;
    }
    if (prefill == KVFOLD_PREFILL_EVALUATION || part.n_outputs == 0) {
        return stage::PROMPT;
    }
    if (part.n_outputs == 1 && part.ends_with_output && (in_prompt || part.rows.size() > 1)) {
        return stage::END_OF_PROMPT;
    }
    return part.rows.size() == part.n_outputs ? stage::GENERATED : stage::OTHER;
}
