// Layers that keep sinks and a window forget on purpose: never what a later token sees, whoever shares it, and always enough
// for the next batch. The yardstick is the same model with windows that forget nothing.

#include "filled_pages.h"
#include "kv_test_context.h"

#include "kv/memory/folded_memory.h"

#include <cmath>

static constexpr uint32_t n_swa   = 55;
static constexpr uint32_t n_sinks = 4;

// Cells of a sequence between two batches: the next token sees 54 of the 56 that are no sinks.
static constexpr uint32_t n_kept = n_sinks + n_swa + 1;

static const char * const plans[] = {
    "0s_1s_2s_3s;window=55;sinks=4",                 // no layer keeps every token
    "0_1s_2_3s;window=55;sinks=4",
    "0_0s_2s_2s;window=55;sinks=4",
    "standard;window=55;sinks=4;full=2;queries=8",   // lazy layers
};

// Some tokens of a sequence. What they are follows from who says them and where.
struct run {
    llama_seq_id seq;
    llama_pos    first;
    uint32_t     n;
    uint32_t     speaker;
};

// The logits of the last token of each run; none if it fails.
static std::vector<std::vector<float>> decode(const tested & t, const std::vector<run> & runs) {
    llama_batch          batch = llama_batch_init(512, 0, 1);
    std::vector<int32_t> last;
    for (const run & each : runs) {
        for (uint32_t i = 0; i < each.n; ++i) {
            const llama_pos pos     = each.first + (llama_pos) i;
            const int32_t   at      = batch.n_tokens++;
            batch.token[at]     = (llama_token) (std::mt19937(1000*each.speaker + (uint32_t) pos)() % t.n_vocab);
            batch.pos[at]       = pos;
            batch.n_seq_id[at]  = 1;
            batch.seq_id[at][0] = each.seq;
            batch.logits[at]    = i + 1 == each.n;
        }
        last.push_back(batch.n_tokens - 1);
    }
    std::vector<std::vector<float>> logits;
    if (llama_decode(t.context.get(), batch) == 0) {
        for (const int32_t at : last) {
            const float * l = llama_get_logits_ith(t.context.get(), at);
            logits.emplace_back(l, l + t.n_vocab);
        }
    }
    llama_batch_free(batch);
    return logits;
}

static bool alike(const std::vector<std::vector<float>> & a, const std::vector<std::vector<float>> & b) {
    if (a.size() != b.size() || a.empty()) {
        return false;
    }
    for (size_t i = 0; i < a.size(); ++i) {
        for (size_t v = 0; v < a[i].size(); ++v) {
            if (!(std::fabs(a[i][v] - b[i][v]) <= 1e-3f)) {
                return false;
            }
        }
    }
    return true;
}

static const llama_kv_cache & window_of(const tested & t) {
    return *kv_caches_of(t.memory()).back();
}

// Two contexts that are told the same; the second one forgets nothing.
struct pair {
    const std::string name;
    tested            forgetful, complete;

    pair(const char * plan, context_options o) :
        name(std::string(plan) + (o.unified ? "" : ", streams")), forgetful(wide_model(), with(o, plan, false)), complete(wide_model(), with(o, plan, true)) {}

    static context_options with(context_options o, const char * plan, bool swa_full) {
        o.kv_plan    = plan;
        o.flash_attn = false;
        o.swa_full   = swa_full;
        return o;
    }

    void decode(const std::vector<run> & runs) const {
        const auto logits = ::decode(forgetful, runs);
        check(!logits.empty(), name + ": a batch from position " + std::to_string(runs[0].first) + " finds cells");
        check(alike(logits, ::decode(complete, runs)), name + ": from position " + std::to_string(runs[0].first) + " as without forgetting");
        for (const run & each : runs) {
            const auto next = llama_memory_seq_pos_max(forgetful.memory(), each.seq) + 1;
            // what llama.cpp's server asks for before it goes on with a sequence
            check(llama_memory_seq_pos_min(forgetful.memory(), each.seq) <= std::max(0, next - (llama_pos) n_swa - 1), name + ": can go on");
        }
    }

    void copy(llama_seq_id from, llama_seq_id to) const {
        for (const tested * each : { &forgetful, &complete }) {
            llama_memory_seq_cp(each->memory(), from, to, -1, -1);
        }
    }
};

// 4 sequences, and 8 that are only kept, need all of their 768 cells: 12*60 that they keep, and a batch of 48.
static void there_is_room_for_every_batch(const char * plan) {
    const pair both(plan, { 4, true, true, nullptr, GGML_TYPE_F32, KVFOLD_CPU_ATTENTION_FUSED, 48, 16 });
    check(window_of(both.forgetful).get_size() == 12*n_kept + 48, both.name + ": has the cells it needs and no more");
    llama_pos pos = 0;
    for (llama_seq_id kept = 4; kept < 12; ++kept) {
        for (const llama_pos end = pos + 96; pos < end; pos += 48) {
            both.decode({ { 0, pos, 48, 0 } });
        }
        both.copy(0, kept);
    }
    for (const llama_seq_id seq : { 1, 2, 3 }) {
        both.copy(0, seq);
    }
    // whoever goes on first leaves the others what they share
    llama_pos at[4] = { pos, pos, pos, pos };
    for (const llama_seq_id seq : { 0, 0, 1, 2, 3, 1, 2, 3 }) {
        both.decode({ { seq, at[seq], 48, (uint32_t) seq } });
        at[seq] += 48;
    }
    for (int step = 0; step < 20; ++step) {
        std::vector<run> runs;
        for (const llama_seq_id seq : { 0, 1, 2, 3 }) {
            runs.push_back({ seq, at[seq], 4, (uint32_t) seq });
            at[seq] += 4;
        }
        both.decode(runs);
    }
    // nobody holds more than it needs, the batch aside
    both.decode({ { 3, at[3], 1, 3 } });
    uint64_t held = 0;
    for (const llama_seq_id seq : { 0, 1, 2, 3 }) {
        held += cells_in_use(window_of(both.forgetful), seq);
    }
    check(held <= 4*n_kept + 1, both.name + ": holds " + std::to_string(held) + " cells");
}

static void batches_of_several_ubatches_have_room(const char * plan, bool unified) {
    const pair both(plan, { 2, unified, true, nullptr, GGML_TYPE_F32, KVFOLD_CPU_ATTENTION_FUSED, 128, 16 });
    for (llama_pos pos = 0; pos < 128*6; pos += 128) {
        both.decode({ { 0, pos, 128, 0 } });
        both.decode({ { 1, pos, 128, 1 } });
    }
}

static std::vector<uint8_t> state_of(const tested & t, llama_state_seq_flags flags) {
    std::vector<uint8_t> state(llama_state_seq_get_size_ext(t.context.get(), 0, flags));
    check(llama_state_seq_get_data_ext(t.context.get(), state.data(), state.size(), 0, flags) == state.size(), "a state is as large as it says");
    return state;
}

// Of a window a state has what the next token sees, however much of it is there.
static void states_hold_a_window(const char * plan) {
    const context_options o = { 1, true, true, nullptr, GGML_TYPE_F32, KVFOLD_CPU_ATTENTION_FUSED, 64, 64 };
    const pair            both(plan, o);
    for (llama_pos pos = 0; pos < 64*3; pos += 64) {
        both.decode({ { 0, pos, 64, 0 } });
    }
    const auto part = state_of(both.forgetful, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    check(part.size() == state_of(both.complete, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY).size(), both.name + ": a checkpoint of its size");
    const auto whole = state_of(both.forgetful, 0);
    check(whole.size() == state_of(both.complete, 0).size(), both.name + ": a state of its size");

    const pair  restored(plan, o);
    const auto  put = [&](const tested & t, const std::vector<uint8_t> & state, llama_state_seq_flags flags) {
        check(llama_state_seq_set_data_ext(t.context.get(), state.data(), state.size(), 0, flags) == state.size(), both.name + ": takes a state");
    };
    put(restored.forgetful, whole, 0);
    check(cells_in_use(window_of(both.forgetful), 0) > n_sinks + n_swa && window_of(restored.forgetful).get_cells(0).seq_cells(0) == n_sinks + n_swa,
          both.name + ": has a window after it was restored");
    const auto next = decode(both.complete, { { 0, 192, 1, 0 } });
    check(alike(decode(restored.forgetful, { { 0, 192, 1, 0 } }), next), both.name + ": goes on where it was restored");

    // back to the checkpoint, whose window is long gone
    check(alike(decode(both.forgetful, { { 0, 192, 1, 0 } }), next), both.name + ": goes on with more than a window");
    for (llama_pos pos = 193; pos < 193 + 64*2; pos += 64) {
        decode(both.forgetful, { { 0, pos, 64, 0 } });
    }
    put(both.forgetful, part, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    llama_memory_seq_rm(both.forgetful.memory(), 0, 192, -1);
    check(alike(decode(both.forgetful, { { 0, 192, 1, 0 } }), next), both.name + ": goes on from a checkpoint");
}

int main() {
    llama_backend_init();
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            fputs(text, stderr);
        }
    }, nullptr);
    filled_pages pages;
    set_page_driver(&pages);
    for (const char * plan : plans) {
        there_is_room_for_every_batch(plan);
        batches_of_several_ubatches_have_room(plan, true);
        batches_of_several_ubatches_have_room(plan, false);
        states_hold_a_window(plan);
    }
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed > 0;
}
