#include "kv/memory/folded_memory.h"

#include "hooks/kv-memory.h"
#include "hooks/kv-retention.h"
#include "kv/eviction/evictor.h"
#include "kv/memory/cell_pages.h"
#include "kv/memory/decided_rows.h"
#include "kv/retention/retention.h"
#include "kv/state/plan_hash.h"

#include "llama-batch.h"
#include "llama-cparams.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-kv-cells.h"
#include "llama-model.h"

#include <algorithm>
#include <list>

namespace kvfold {

// Windows that are kept for prompts to come.
static constexpr uint32_t most_kept = 8;

// Before each batch every sequence is left with no more than it keeps, and the batch comes on top of that, whoever its tokens
// belong to. What sequences share counts once, so no more is needed if they do.
static uint32_t window_cells(const kvfold_plan & plan, uint32_t n_cells_full, uint32_t n_seqs, uint32_t n_batch) {
    return (uint32_t) std::min<uint64_t>(n_cells_full, plan.n_window_kept()*n_seqs + n_batch);
}

folded_memory::folded_memory(const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams) :
    hparams(model.hparams),
    unified(cparams.kv_unified),
    forgets(!params.swa_full),
    n_more(unified ? most_kept : 0) {
    const kvfold_plan & plan  = hparams.kv_plan;
    const uint32_t      n_all = cparams.n_ctx_seq;
    add_class(model, params, cparams, false, n_all, n_all);
    if (plan.has_window_cells()) {
        const auto n_cells = [&](uint32_t n_seqs, uint32_t n_batch) { return forgets ? window_cells(plan, n_all, n_seqs, n_batch) : n_all; };
        const uint32_t n_pool = n_cells(unified ? cparams.n_seq_max + n_more : 1, cparams.n_batch);
        add_class(model, params, cparams, true, GGML_PAD(n_pool, 256), n_cells(1, 0));
    }
    if (plan.is_automatic()) {
        lazy = std::make_unique<kvfold_retention>(plan, *by_class[0].cells, *by_class[1].cells);
    }
    if (plan.evicts()) {
        evicts = std::make_unique<kvfold::evictor>(hparams, *by_class[0].cells);
    }
}

folded_memory::~folded_memory() = default;

void folded_memory::add_class(
        const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams, bool is_window, uint32_t n_cells,
        uint32_t n_of_sequence) {
    LLAMA_LOG_INFO("%s: layers that keep %s: %u cells\n", __func__, is_window ? "sinks and window" : "every token", n_cells);
    const kvfold_plan & plan    = hparams.kv_plan;
    const auto          is_here = [&](int32_t il) { return is_window ? plan.has_window_cells(il) : !plan.in_swa[il]; };
    // without a type of window n_swa says only what a state has of a sequence
    by_class.push_back({ is_window, std::make_unique<llama_kv_cache>(
        model, hparams, params.type_k, params.type_v, !cparams.flash_attn, cparams.offload_kqv, cparams.kv_unified, n_cells,
        cparams.n_seq_max, 1, is_window ? plan.n_swa : 0, LLAMA_SWA_TYPE_NONE, nullptr, is_here, nullptr, nullptr), n_of_sequence });
}

// Of sequences that have no part in the batch, too: their last one may have been all their own.
void folded_memory::forget(llama_seq_id only) {
    const kvfold_plan & plan = hparams.kv_plan;
    for (const layer_class & each : by_class) {
        if (!each.is_window || !forgets) {
            continue;
        }
        const uint32_t n_stream = each.cells->get_n_stream();
        for (llama_seq_id seq_id = 0; seq_id < (llama_seq_id) (n_stream > 1 ? n_stream : LLAMA_MAX_SEQ); ++seq_id) {
            if (only >= 0 && seq_id != only) {
                continue;
            }
            const llama_kv_cells & cells = each.cells->get_cells(seq_id);
            const llama_pos        first = cells.seq_pos_max(seq_id) - (llama_pos) plan.n_swa;
            if (cells.seq_cells(seq_id) > plan.n_window_kept() && first > (llama_pos) plan.n_sinks) {
                each.cells->seq_rm(seq_id, (llama_pos) plan.n_sinks, first);
            }
        }
    }
}

void folded_memory::settle(llama_seq_id seq_id) {
    if (evicts && evicts->is_due()) {
        const kvfold_release_unused release(this);
        evicts->settle(seq_id);
    }
    if (lazy && lazy->is_due()) {
        const kvfold_release_unused release(this);
        for (const llama_seq_id each : lazy->unsettled(seq_id)) {
            forget(each);
        }
        lazy->settle(seq_id);
    }
}

// As llama_kv_cache_iswa does, once there is room.
llama_memory_context_ptr folded_memory::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool) {
    forget();
    settle();
    std::list<commits_stored_rows> scopes;
    for (const layer_class & each : by_class) {
        if (lazy) {
            scopes.emplace_back(*each.cells, stored_in(*lazy, each.is_window));
        }
    }
    for (const bool equal : { false, true }) {
        if (!equal && !unified) {
            continue; // streams need equally many tokens of each sequence
        }
        balloc.split_reset();
        std::vector<llama_ubatch> ubatches;
        while (true) {
            llama_ubatch ubatch = equal ? balloc.split_equal(n_ubatch, !unified, 0) : balloc.split_simple(n_ubatch);
            if (ubatch.n_tokens == 0) {
                break;
            }
            ubatches.push_back(std::move(ubatch));
        }
        if (balloc.get_n_used() < balloc.get_n_tokens()) {
            continue;
        }
        std::vector<llama_memory_context_ptr> parts;
        for (const layer_class & each : by_class) {
            auto cells = each.cells->prepare(ubatches);
            if (cells.empty()) {
                break;
            }
            parts.push_back(std::make_unique<llama_kv_cache_context>(each.cells.get(), std::move(cells), ubatches));
        }
        if (parts.size() == by_class.size()) {
            return std::make_unique<folded_context>(*this, std::move(parts), std::move(ubatches));
        }
        for (size_t c = 0; c < parts.size(); ++c) { // these had memory, and the next one had none
            by_class[c].cells->kv_memory->release_empty(*by_class[c].cells);
        }
    }
    return std::make_unique<folded_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
}

llama_memory_context_ptr folded_memory::init_full() {
    std::vector<llama_memory_context_ptr> parts;
    for (const layer_class & each : by_class) {
        parts.push_back(each.cells->init_full());
    }
    return std::make_unique<folded_context>(*this, std::move(parts));
}

llama_memory_context_ptr folded_memory::init_update(llama_context * lctx, bool optimize) {
    std::vector<llama_memory_context_ptr> parts;
    for (const layer_class & each : by_class) {
        parts.push_back(each.cells->init_update(lctx, optimize));
    }
    return std::make_unique<folded_context>(*this, std::move(parts));
}

// A sink is known by its position, a window that has forgotten has nothing to move into the place of what goes, and of what was
// evicted from no cell is one token's.
bool folded_memory::get_can_shift() const {
    const auto can = [&](const layer_class & each) {
        return each.cells->get_can_shift() && each.cells->get_size() == by_class.front().cells->get_size();
    };
    return !evicts && hparams.kv_plan.n_sinks == 0 && std::all_of(by_class.begin(), by_class.end(), can);
}

void folded_memory::clear(bool data) {
    if (lazy) {
        lazy->remove(-1, -1, -1);
    }
    if (evicts) {
        evicts->remove(-1, -1, -1);
    }
    for (const layer_class & each : by_class) {
        each.cells->clear(data);
    }
}

bool folded_memory::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (evicts && !evicts->can_remove(seq_id, p0, p1)) {
        return false;
    }
    if (lazy) {
        lazy->remove(seq_id, p0, p1);
    }
    if (evicts) {
        evicts->remove(seq_id, p0, p1);
    }
    bool done = true, left = false;
    for (const layer_class & each : by_class) {
        const llama_kv_cells & cells = each.cells->get_cells(std::max(seq_id, 0));
        const auto             n     = [&] { return seq_id < 0 ? 0 : cells.get_used() - cells.seq_cells(seq_id); }; // cells of others alone
        const uint32_t         n_before = n();
        done = each.cells->seq_rm(seq_id, p0, p1) && done;
        left = left || n() > n_before;
    }
    if (lazy && left) { // to others, with rows that they may not need
        lazy->release();
    }
    return done;
}

// What is evicted from what two sequences share takes more cells than before, so that is done first.
void folded_memory::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    settle(seq_id_src);
    if (lazy) {
        lazy->copy(seq_id_src, seq_id_dst);
    }
    if (evicts) {
        evicts->copy(seq_id_src, seq_id_dst);
    }
    for (const layer_class & each : by_class) {
        each.cells->seq_cp(seq_id_src, seq_id_dst, p0, p1);
    }
}

bool folded_memory::copy_beginning(llama_seq_id from, llama_seq_id to, llama_pos n_tokens) {
    if (!evicts) {
        const bool open = lazy && lazy->is_open(from, n_tokens);
        seq_cp(from, to, 0, n_tokens);
        if (open) {
            lazy->begin(to);
        }
        return true;
    }
    const kvfold_release_unused release(this);
    if (!evicts->copy_beginning(from, to, n_tokens)) {
        return false;
    }
    for (size_t c = 1; c < by_class.size(); ++c) {
        by_class[c].cells->seq_cp(from, to, 0, n_tokens);
    }
    return true;
}

void folded_memory::seq_keep(llama_seq_id seq_id) {
    if (lazy) {
        lazy->keep(seq_id);
    }
    if (evicts) {
        evicts->keep(seq_id);
    }
    for (const layer_class & each : by_class) {
        each.cells->seq_keep(seq_id);
    }
}

void folded_memory::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    for (const layer_class & each : by_class) {
        each.cells->seq_add(seq_id, p0, p1, shift);
    }
}

void folded_memory::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    for (const layer_class & each : by_class) {
        each.cells->seq_div(seq_id, p0, p1, d);
    }
}

const layer_class & folded_memory::narrowest(llama_seq_id seq_id) const {
    return lazy && lazy->keeps_all(seq_id) ? by_class.front() : by_class.back();
}

// From there on the sequence has no gap. Sinks below one do not count.
llama_pos folded_memory::seq_pos_min(llama_seq_id seq_id) const {
    const layer_class &    each   = narrowest(seq_id);
    const llama_kv_cells & cells  = each.cells->get_cells(seq_id);
    const llama_pos        lowest = cells.seq_pos_min(seq_id);
    const auto             sinks  = (llama_pos) hparams.kv_plan.n_sinks;
    if (!each.is_window || sinks == 0) {
        return lowest;
    }
    llama_pos behind = -1; // the sinks
    for (uint32_t i = 0; i < cells.used_max_p1(); ++i) {
        if (!cells.is_empty(i) && cells.seq_has(i, seq_id) && cells.pos_get(i) >= sinks && (behind < 0 || cells.pos_get(i) < behind)) {
            behind = cells.pos_get(i);
        }
    }
    return behind > sinks ? behind : lowest;
}

bool folded_memory::has_window(llama_seq_id seq_id, llama_pos next) const {
    const llama_pos first = std::max<llama_pos>(0, next - (llama_pos) hparams.kv_plan.n_swa + 1);
    return next == 0 || by_class.size() == 1 || (seq_pos_max(seq_id) >= next - 1 && seq_pos_min(seq_id) <= first);
}

llama_pos folded_memory::seq_pos_max(llama_seq_id seq_id) const {
    return narrowest(seq_id).cells->seq_pos_max(seq_id);
}

std::map<ggml_backend_buffer_type_t, size_t> folded_memory::memory_breakdown() const {
    std::map<ggml_backend_buffer_type_t, size_t> bytes;
    for (const layer_class & each : by_class) {
        for (const auto & [type, size] : each.cells->memory_breakdown()) {
            bytes[type] += size;
        }
    }
    return bytes;
}

// Where a layer keeps every token, that part of a sequence is there whatever was added to it since.
bool folded_memory::is_in_state(const layer_class & each, llama_state_seq_flags flags) const {
    return each.is_window || by_class.size() == 1 || (flags & LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) == 0;
}

void folded_memory::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    if (lazy) {
        kvfold_plan_hash_write(hparams.kv_plan, io);
        lazy->write(io, seq_id);
    }
    if (evicts && is_in_state(by_class.front(), flags)) {
        kvfold_plan_hash_write(hparams.kv_plan, io);
        evicts->write(io, seq_id);
    }
    for (const layer_class & each : by_class) {
        if (!is_in_state(each, flags)) {
            continue;
        }
        if (lazy && seq_id >= 0) {
            stored_rows_writer to(io, *each.cells, stored_in(*lazy, each.is_window), seq_id);
            each.cells->state_write(to, seq_id, flags);
        } else {
            each.cells->state_write(io, seq_id, flags);
        }
    }
}

void folded_memory::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    if (lazy) {
        kvfold_plan_hash_read(hparams.kv_plan, io);
        lazy->read(io, seq_id);
    }
    if (evicts && is_in_state(by_class.front(), flags)) {
        kvfold_plan_hash_read(hparams.kv_plan, io);
        evicts->read(io, seq_id);
    }
    for (const layer_class & each : by_class) {
        if (!is_in_state(each, flags)) {
            continue;
        }
        if (lazy && seq_id >= 0) {
            const commits_stored_rows scope(*each.cells, stored_in(*lazy, each.is_window));
            stored_rows_reader        from(io, *each.cells, stored_in(*lazy, each.is_window), seq_id);
            each.cells->state_read(from, seq_id, flags);
        } else {
            each.cells->state_read(io, seq_id, flags);
        }
    }
    if (lazy) {
        lazy->restored();
    }
    if (evicts && is_in_state(by_class.front(), flags)) {
        evicts->restored(seq_id);
    }
}

// ---- a batch

static llama_memory_status status_of(const std::vector<llama_memory_context_ptr> & parts) {
    llama_memory_status status = parts.front()->get_status();
    for (const llama_memory_context_ptr & each : parts) {
        status = llama_memory_status_combine(status, each->get_status());
    }
    return status;
}

folded_context::folded_context(llama_memory_status failed) : status(failed) {}

folded_context::folded_context(
        const folded_memory & memory, std::vector<llama_memory_context_ptr> parts, std::vector<llama_ubatch> ubatches) :
    memory(&memory), parts(std::move(parts)), ubatches(std::move(ubatches)), status(status_of(this->parts)) {}

bool folded_context::next() {
    for (const llama_memory_context_ptr & each : parts) {
        each->next();
    }
    return ++i_next < ubatches.size();
}

bool folded_context::apply() {
    bool done = true;
    for (const llama_memory_context_ptr & each : parts) {
        done = each->apply() && done;
    }
    return done;
}

kvfold_retention * retention_of(const llama_memory_i * memory) {
    const auto * folded = dynamic_cast<const folded_memory *>(memory);
    return folded ? folded->retention() : nullptr;
}

evictor * evictor_of(const llama_memory_i * memory) {
    const auto * folded = dynamic_cast<const folded_memory *>(memory);
    return folded ? folded->evictor() : nullptr;
}

llama_pos decisive_tokens(const llama_memory_i * memory, llama_seq_id seq_id) {
    if (const kvfold_retention * const retention = retention_of(memory)) {
        return retention->n_decisive(seq_id);
    }
    const evictor * const evicts = evictor_of(memory);
    return evicts ? evicts->of(seq_id).n_compact() : 0;
}

bool may_go_on(const llama_memory_i * memory, llama_seq_id seq_id, llama_pos n, llama_pos n_prompt, bool restored) {
    if (n == 0 || !goes_on_after(decisive_tokens(memory, seq_id), n)) {
        return n == 0;
    }
    const kvfold_retention * const retention = retention_of(memory);
    const bool at_end = retention && !restored && n == memory->seq_pos_max(seq_id) + 1;
    return !retention || (at_end && retention->has_queries(seq_id)) || retention->may_go_on(seq_id, n, n_prompt);
}

bool has_window(const llama_memory_i * memory, const llama_model & model, llama_seq_id seq_id, llama_pos next) {
    if (const auto * folded = dynamic_cast<const folded_memory *>(memory)) {
        return folded->has_window(seq_id, next);
    }
    const llama_pos behind = next - (llama_pos) llama_model_n_swa(&model);
    return llama_model_n_swa(&model) == 0 || (behind > 0 && std::max(0, memory->seq_pos_min(seq_id)) < behind);
}

bool copy_beginning(llama_memory_i * memory, llama_seq_id from, llama_seq_id to, llama_pos n_tokens) {
    if (auto * folded = dynamic_cast<folded_memory *>(memory)) {
        return folded->copy_beginning(from, to, n_tokens);
    }
    memory->seq_cp(from, to, 0, n_tokens);
    return true;
}

bool is_settled(const llama_memory_i * memory, llama_seq_id seq_id) {
    const kvfold_retention * const retention = retention_of(memory);
    return !retention || retention->is_settled(seq_id);
}

void settle_memory(llama_memory_i * memory, llama_seq_id seq_id) {
    if (auto * folded = dynamic_cast<folded_memory *>(memory)) {
        folded->settle(seq_id);
    }
}

} // namespace kvfold

llama_memory_i * kvfold_create_memory(const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams) {
    return model.hparams.kv_plan.n_swa > 0 || model.hparams.kv_plan.evicts() ? new kvfold::folded_memory(model, params, cparams) : nullptr;
}
