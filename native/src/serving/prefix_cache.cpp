#include "serving/prefix_cache.h"

#include "kv/eviction/evictor.h"
#include "kv/eviction/method.h"
#include "kv/memory/caches.h"
#include "kv/memory/cell_pages.h"
#include "kv/memory/folded_memory.h"
#include "kv/retention/retention.h"
#include "process/kvfold_log.h"
#include "serving/slot_exchange.h"

#include "llama-kv-cache.h"
#include "llama-model.h"
#include "llama.h"
#include "server-task.h"

#include <algorithm>
#include <unordered_map>

namespace kvfold {

// Fewer tokens are neither waited for nor kept.
static constexpr size_t least_tokens = 32;

// What has been kept so many tokens before is good enough.
static constexpr size_t tokens_apart = 8;

static constexpr size_t most_prefixes = 64;

std::vector<shared_cells> cells_in_common(const llama_kv_cells & cells) {
    uint32_t n_held = 0;
    for (llama_seq_id seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
        n_held += cells.seq_cells(seq_id);
    }
    if (n_held == cells.get_used()) {
        return {}; // the usual case, in each step
    }
    std::unordered_map<llama_kv_cells::seq_set_t, uint32_t> counts;
    uint32_t *                                              count = nullptr; // of the holders of the cell before
    llama_kv_cells::seq_set_t                               holders;
    for (uint32_t i = 0; i < cells.used_max_p1(); ++i) {
        if (cells.is_empty(i) || cells.seq_count(i) == 1) {
            continue;
        }
        if (!count || holders != cells.seq_get_all(i)) {
            holders = cells.seq_get_all(i);
            count   = &counts[holders];
        }
        ++*count;
    }
    std::vector<shared_cells> shared;
    for (const auto & [holders, n_cells] : counts) {
        shared.push_back({ {}, n_cells });
        for (size_t seq_id = 0; seq_id < holders.size(); ++seq_id) {
            if (holders[seq_id]) {
                shared.back().holders.push_back((int) seq_id);
            }
        }
    }
    return shared;
}

prefix_cache::prefix_cache(llama_context * ctx, const limits & limits) : ctx(ctx), rules(limits), seats(limits.slots) {
    const auto caches = kv_caches_of(llama_get_memory(ctx));
    on      = limits.on && !caches.empty() && caches.front()->get_n_stream() == 1 && !llama_model_is_hybrid(llama_get_model(ctx)) &&
         !evicts_by_all_queries(llama_get_model(ctx)->hparams.kv_plan);
    windows = caches.size() > 1;
    evicts  = on ? evictor_of(llama_get_memory(ctx)) : nullptr;
    retention = on ? retention_of(llama_get_memory(ctx)) : nullptr;
    n_keepable = std::min<size_t>(most_prefixes, LLAMA_MAX_SEQ - rules.slots);
    if (windows) { // llama.cpp's own leave no room for those of more sequences
        const auto * folded = dynamic_cast<const folded_memory *>(llama_get_memory(ctx));
        n_keepable = folded ? std::min<size_t>(n_keepable, folded->n_kept()) : 0;
    }
    if (evicts) {
        n_keepable = 0; // they would be copies
    }
}

// A prompt with the same salt and adapters makes the same cells of the same tokens, unless it moves them.
static std::string likeness_of(const std::string & adapters, const std::string & salt, bool shifts) {
    return adapters + (shifts ? "\n>" : "\n=") + salt;
}

// What nobody knows the salt of any more, because its caller has left, is like nothing else.
static std::string likeness_of(const kvfold_prompt_view & slot) {
    const auto salt = cache_salt_of(*slot.task);
    return salt ? likeness_of(slot.adapters, *salt, slot.task->params.n_cache_reuse > 0) : "\n?" + std::to_string(slot.task->id);
}

static bool is_shareable(const server_task & task) {
    return task.need_sampling() && task.params.cache_prompt && task.params.n_cache_reuse == 0 && !task.tokens.has_mtmd;
}

static bool is_shareable(const kvfold_prompt_view & slot) {
    return slot.plain && is_shareable(*slot.task);
}

std::string prefix_cache::likeness_of_task(const server_task & task) const {
    const auto salt = cache_salt_of(task);
    return on && !evicts && salt && task.params.lora.empty() && is_shareable(task) ? likeness_of("", *salt, false) : "";
}

// One with a higher number may have begun before it.
static bool is_older(const kvfold_prompt_view * a, const kvfold_prompt_view * b) {
    return a->begins != b->begins ? b->begins : a->task->id < b->task->id;
}

std::vector<kvfold_slot_action> prefix_cache::share(const std::vector<kvfold_prompt_view> & slots) {
    settle_memory(llama_get_memory(ctx)); // what a sequence has is what is left of it
    std::vector<kvfold_slot_action> actions;
    std::vector<const kvfold_prompt_view *> prompts; // the oldest first
    for (const kvfold_prompt_view & each : slots) {
        seat & own   = seats[each.slot];
        own.waited   = own.waits;
        own.waits    = false;
        own.wanted   = each.task ? &each.task->tokens : nullptr;
        if (each.task && each.prompts && is_shareable(each)) {
            prompts.push_back(&each);
        }
    }
    for (const kvfold_prompt_view & each : slots) {
        settle(each, actions);
        seat & own = seats[each.slot];
        for (; !own.keeps_at.empty() && *own.keeps_at.begin() <= each.held->size(); own.keeps_at.erase(own.keeps_at.begin())) {
            if (*own.keeps_at.begin() == each.held->size()) {
                keep(each, ggml_time_us());
            }
        }
        own.stops_at = own.keeps_at.empty() ? UINT32_MAX : *own.keeps_at.begin();
    }
    if (!on) {
        return actions;
    }
    list_sources(slots);
    std::sort(prompts.begin(), prompts.end(), is_older);
    for (size_t i = 0; i < prompts.size(); ++i) {
        const kvfold_prompt_view & each = *prompts[i];
        if (each.begins && begin(each, { prompts.begin(), prompts.begin() + (ptrdiff_t) i }, actions)) {
            n_prompts += !seats[each.slot].begun;
            seats[each.slot].begun = true;
        }
    }
    return actions;
}

// What the slot held for an earlier task is kept as far as the new one is different, and goes if it is of another likeness or the new
// one gets all of its cells from its parent: waiting for them, it holds none.
void prefix_cache::settle(const kvfold_prompt_view & slot, std::vector<kvfold_slot_action> & actions) {
    seat & own = seats[slot.slot];
    if (!slot.task || own.task == slot.task->id) {
        return;
    }
    const std::string likeness = likeness_of(slot);
    const bool        alike    = own.likeness == likeness;
    const bool        shares   = is_shareable(slot);
    if (slot.begins || slot.follows_parent) {
        const size_t n_reused = alike && shares && slot.begins ? slot.held->get_common_prefix(slot.task->tokens) : 0;
        const bool goes_on = windows && n_reused == slot.held->size(); // it may be asked otherwise once its window has gone on
        if (on && own.shareable && (goes_on || slot.held->size() >= n_reused + least_tokens)) {
            keep(slot, slot.last_used);
        }
        const bool forgets    = !alike || slot.follows_parent;
        const bool takes_them = !forgets && slot.task->params.n_cache_reuse > 0; // it asks for cells that were computed after other tokens
        const bool has_moved  = own.n_unmoved < slot.held->size();
        if (!slot.held->empty() && (forgets || (has_moved && !takes_them))) {
            size_t n_first = forgets ? 0 : std::min(own.n_unmoved, slot.held->get_common_prefix(slot.task->tokens));
            n_first        = has_window(slot.slot, n_first) ? n_first : 0;
            llama_memory_seq_rm(llama_get_memory(ctx), slot.slot, n_first > 0 ? (llama_pos) n_first : -1, -1);
            actions.push_back({ kvfold_slot_action::BEGIN, slot.slot, (uint32_t) n_first });
        }
        own.n_unmoved = takes_them ? own.n_unmoved : SIZE_MAX;
    }
    own.task      = slot.task->id;
    own.likeness  = likeness;
    own.shareable = shares;
    own.begun     = !slot.begins;
    own.keeps_at.clear();
}

void prefix_cache::keep(const kvfold_prompt_view & slot, int64_t last_used) {
    const std::string & likeness = seats[slot.slot].likeness;
    const size_t        n        = slot.held->size();
    const auto          memory   = llama_get_memory(ctx);
    const auto          is_there = [&](const prefix & each) {
        const size_t n_common = each.tokens.get_common_prefix(*slot.held);
        if (each.likeness != likeness || decisive_tokens(memory, each.seq_id) != decisive_tokens(memory, slot.slot)) {
            return false;
        }
        return windows ? n_common == each.tokens.size() && n_common + tokens_apart > n : n_common == n;
    };
    if (retention && retention->is_in_prompt(slot.slot) && !retention->has_queries(slot.slot) && !retention->is_open(slot.slot, (llama_pos) n)) {
        return; // it has gone on from a checkpoint a few tokens before, and nobody could from here
    }
    if (n_keepable == 0 || n == 0 || computed(slot.slot) < n || !has_window(slot.slot, n) ||
        std::any_of(prefixes.begin(), prefixes.end(), is_there)) {
        return;
    }
    if (prefixes.size() >= n_keepable) {
        drop_oldest();
    }
    int        seq_id   = rules.slots;
    const auto is_taken = [&](const prefix & each) { return each.seq_id == seq_id; };
    while (std::any_of(prefixes.begin(), prefixes.end(), is_taken)) {
        ++seq_id;
    }
    llama_memory_seq_cp(memory, slot.slot, seq_id, 0, (llama_pos) n);
    prefixes.push_back({ seq_id, slot.held->clone(), likeness, last_used });
    n_kept = prefixes.size();
    recount();
}

void prefix_cache::list_sources(const std::vector<kvfold_prompt_view> & slots) {
    sources.clear();
    for (const kvfold_prompt_view & each : slots) {
        if (seats[each.slot].shareable && !each.held->has_mtmd) {
            sources.push_back({ each.slot, each.held, &seats[each.slot].likeness });
        }
    }
    for (const prefix & each : prefixes) {
        sources.push_back({ each.seq_id, &each.tokens, &each.likeness });
    }
}

// Tokens of a sequence that the cache has, from the first one on.
size_t prefix_cache::computed(int seq_id) const {
    return (size_t) (llama_memory_seq_pos_max(llama_get_memory(ctx), seq_id) + 1);
}

// A prompt that departs after n tokens may go on there.
bool prefix_cache::has_window(int seq_id, size_t n) const {
    return !windows || kvfold::has_window(llama_get_memory(ctx), *llama_get_model(ctx), seq_id, (llama_pos) n);
}

bool prefix_cache::lends(int id_task, size_t n_tokens) const {
    const auto own = std::find_if(seats.begin(), seats.end(), [&](const seat & each) { return each.task == id_task; });
    const auto id  = (int) (own - seats.begin());
    return !windows || own == seats.end() || !own->begun || computed(id) <= n_tokens || has_window(id, n_tokens);
}

size_t prefix_cache::begins_with(
        int id_slot, const server_tokens & held, const server_tokens & wanted, const std::vector<uint32_t> & checkpoints) const {
    const llama_memory_t  memory = llama_get_memory(ctx);
    const evictor * const loses  = evictor_of(memory); // whether or not anything is shared
    size_t                n      = std::min(held.get_common_prefix(wanted), computed(id_slot));
    if (loses) {
        n = loses->n_beginning(id_slot, (uint32_t) n, (uint32_t) held.size(), (uint32_t) wanted.size());
    }
    n = std::min(n, wanted.size() - 1);
    const auto goes_on = [&](size_t at, bool restored) {
        return may_go_on(memory, id_slot, (llama_pos) at, (llama_pos) wanted.size(), restored);
    };
    if (!loses && !goes_on(n, false)) {
        return 0;
    }
    if (has_window(id_slot, n)) {
        return n;
    }
    size_t n_from = 0;
    for (const size_t each : checkpoints) {
        n_from = each <= n && goes_on(each - 1, true) ? std::max(n_from, each - 1) : n_from; // its last token is computed again
    }
    return n_from;
}

// What it will have computed up to there is kept, and what it has a little before if others may depart there.
void prefix_cache::keep_at(int id_slot, size_t n_computed, size_t n, bool others) {
    seat &       own      = seats[id_slot];
    const size_t n_before = others ? n/least_tokens*least_tokens : 0;
    for (const size_t each : { n_before, n }) {
        if (each > n_computed && n_keepable > 0) {
            own.keeps_at.insert((uint32_t) each);
            own.stops_at = std::min(own.stops_at, (uint32_t) each);
        }
    }
}

// answered: also of a sequence whose layers were decided on with a prompt, if its answer is part of `wanted`.
size_t prefix_cache::in_common(const source & from, const server_tokens & wanted, size_t most, bool answered) const {
    const size_t there = std::min(from.tokens->size(), computed(from.seq_id));
    const size_t n     = std::min({ from.tokens->get_common_prefix(wanted), there, most });
    if (evicts) {
        if (n > 0 && n == (size_t) evicts->of(from.seq_id).n_compact() && !evicts->is_in_prompt(from.seq_id)) {
            return 0; // its prompt has ended there, and what is left of it is not what this one would have
        }
        const size_t n_own = evicts->n_beginning(from.seq_id, (uint32_t) n, (uint32_t) from.tokens->size(), (uint32_t) wanted.size());
        return has_window(from.seq_id, n_own) ? n_own : 0;
    }
    if (!has_window(from.seq_id, n)) {
        return 0;
    }
    if (!retention) {
        return n;
    }
    const bool begun   = retention->has_queries(from.seq_id) && n == there; // what is scored later is of its last tokens
    const bool goes_on = answered && from.seq_id >= rules.slots && !retention->is_in_prompt(from.seq_id) &&
                         may_go_on(llama_get_memory(ctx), from.seq_id, (llama_pos) n, (llama_pos) wanted.size(), false);
    return begun || goes_on || retention->is_open(from.seq_id, (llama_pos) n) ? n : 0;
}

// As far as anybody has begun alike, whether or not all of that is there. others: somebody else than the slot.
size_t prefix_cache::in_common_once(int id_slot, const server_tokens & wanted, size_t most, bool & others) const {
    size_t n = 0;
    for (const source & each : sources) {
        if (*each.likeness != seats[id_slot].likeness || computed(each.seq_id) == 0) {
            continue;
        }
        if (const size_t n_each = std::min(each.tokens->get_common_prefix(wanted), most); n_each > n) {
            n      = n_each;
            others = each.seq_id != id_slot;
        }
    }
    return n;
}

// Whether the first n tokens, or nearly as many, are kept before any of them decides on something.
bool prefix_cache::is_kept(const std::string & likeness, const server_tokens & wanted, size_t n) const {
    return std::any_of(prefixes.begin(), prefixes.end(), [&](const prefix & each) {
        const size_t n_each = each.tokens.size();
        return each.likeness == likeness && n_each <= n && n_each + tokens_apart > n && each.tokens.get_common_prefix(wanted) == n_each &&
               decisive_tokens(llama_get_memory(ctx), each.seq_id) == 0;
    });
}

const prefix_cache::source * prefix_cache::longest(int id_slot, const server_tokens & wanted, size_t most, bool answered, size_t & n) const {
    const source * found = nullptr;
    for (const source & each : sources) {
        if (each.seq_id == id_slot || *each.likeness != seats[id_slot].likeness) {
            continue;
        }
        if (const size_t n_each = in_common(each, wanted, most, answered); n_each > n) {
            found = &each;
            n     = n_each;
        }
    }
    return found;
}

// Tokens of its prompt that a slot has.
size_t prefix_cache::computed_of(const kvfold_prompt_view & slot) const {
    const auto own = std::find_if(sources.begin(), sources.end(), [&](const source & each) { return each.seq_id == slot.slot; });
    return own == sources.end() ? 0 : std::min(own->tokens->get_common_prefix(slot.task->tokens), computed(slot.slot));
}

// False if it waits for one of those that are older.
bool prefix_cache::begin(
        const kvfold_prompt_view & slot, const std::vector<const kvfold_prompt_view *> & older, std::vector<kvfold_slot_action> & actions) {
    seat &                own    = seats[slot.slot];
    const server_tokens & wanted = slot.task->tokens;
    if (wanted.empty()) {
        return true;
    }
    const size_t   most  = wanted.size() - 1; // the last one makes the answer's first
    const size_t   there = computed(slot.slot);
    const size_t   held  = begins_with(slot.slot, *slot.held, slot.task->tokens, slot.checkpoints);
    size_t         n     = held;
    const source * from  = longest(slot.slot, wanted, most, true, n);

    const kvfold_prompt_view * leader   = nullptr;
    size_t                     n_leader = n + (own.waited ? 0 : n < least_tokens ? least_tokens : tokens_apart); // who has waited, waits for all of it
    for (const kvfold_prompt_view * each : older) {
        const server_tokens & first   = each->task->tokens;
        const size_t          n_each  = std::min({ first.get_common_prefix(wanted), most, first.size() - (retention || evicts ? 1 : 0) });
        if (seats[each->slot].likeness == own.likeness && n_each > n_leader && n_each > computed_of(*each)) {
            leader   = each;
            n_leader = n_each;
        }
    }
    if (leader) {
        uint32_t & stop = seats[leader->slot].stops_at;
        if (windows) {
            keep_at(leader->slot, computed_of(*leader), n_leader, true);
        }
        stop            = std::min(stop, (uint32_t) n_leader);
        own.waits       = true;
        if (there > 0) { // who waits, holds nothing
            llama_memory_seq_rm(llama_get_memory(ctx), slot.slot, -1, -1);
            actions.push_back({ kvfold_slot_action::BEGIN, slot.slot, 0 });
        }
        return false;
    }
    if (windows) {
        bool         others = false;
        const size_t n_once = in_common_once(slot.slot, wanted, most, others);
        if (n_once >= least_tokens && !is_kept(own.likeness, wanted, n_once)) {
            keep_at(slot.slot, n, n_once, others);
        }
    }
    if (from && !copy(*from, slot.slot, n)) {
        actions.push_back({ kvfold_slot_action::BEGIN, slot.slot, 0 });
    } else if (from) {
        n_hits    += !own.begun;
        n_adopted += n - held;
        actions.push_back({ kvfold_slot_action::BEGIN, slot.slot, (uint32_t) n });
        for (source & each : sources) {
            if (each.seq_id == slot.slot) {
                each.tokens = &wanted;
            }
        }
    }
    return true;
}

bool prefix_cache::copy(const source & from, int id_slot, size_t n) {
    log_emit(KVFOLD_LOG_DEBUG, "slot " + std::to_string(id_slot) + " has the first " + std::to_string(n) + " tokens of sequence " +
                                   std::to_string(from.seq_id));
    const auto memory = llama_get_memory(ctx);
    llama_memory_seq_rm(memory, id_slot, -1, -1);
    const bool done = copy_beginning(memory, from.seq_id, id_slot, (llama_pos) n);
    recount();
    if (from.seq_id < rules.slots) {
        seats[from.seq_id].last_used = ggml_time_us();
    }
    for (prefix & each : prefixes) { // also what it begins with, which the next one may need when this source has gone on
        const size_t n_each = each.tokens.size();
        if (each.seq_id == from.seq_id || (n_each <= n && each.likeness == *from.likeness && each.tokens.get_common_prefix(*from.tokens) == n_each)) {
            each.last_used = ggml_time_us();
        }
    }
    return done;
}

uint32_t prefix_cache::begin_again(int id_slot) {
    const server_tokens * const wanted = seats[id_slot].wanted;
    return wanted && !wanted->empty() ? adopt(id_slot, *wanted, wanted->size() - 1) : 0;
}

uint32_t prefix_cache::adopt(int id_slot, const server_tokens & tokens, size_t most) {
    size_t               n    = 0;
    const source * const from = on && !evicts && seats[id_slot].shareable ? longest(id_slot, tokens, most, false, n) : nullptr;
    return from && copy(*from, id_slot, n) ? (uint32_t) n : 0;
}

// Engines with adapters have no saved states.
bool prefix_cache::is_of(int id_slot, const std::string & salt, bool shifts) const {
    return seats[id_slot].likeness == likeness_of("", salt, shifts);
}

void prefix_cache::restored(int id_slot, const std::string & salt, bool shifts) {
    seats[id_slot].likeness  = likeness_of("", salt, shifts);
    seats[id_slot].shareable = !shifts;
    seats[id_slot].n_unmoved = SIZE_MAX;
}

std::vector<kvfold_prefix_view> prefix_cache::kept() const {
    std::vector<kvfold_prefix_view> views;
    for (const prefix & each : prefixes) {
        views.push_back({ each.seq_id, each.last_used, (uint32_t) each.tokens.size() });
    }
    return views;
}

void prefix_cache::drop(int seq_id) {
    sources.erase(std::remove_if(sources.begin(), sources.end(), [&](const source & each) { return each.seq_id == seq_id; }), sources.end());
    prefixes.remove_if([&](const prefix & each) { return each.seq_id == seq_id; });
    n_kept = prefixes.size();
    llama_memory_seq_rm(llama_get_memory(ctx), seq_id, -1, -1);
}

bool prefix_cache::drop_oldest() {
    const auto oldest = std::min_element(prefixes.begin(), prefixes.end(), [](const prefix & a, const prefix & b) { return a.last_used < b.last_used; });
    if (oldest == prefixes.end()) {
        return false;
    }
    drop(oldest->seq_id);
    return true;
}

bool prefix_cache::ask_to_drop(const std::function<void()> & wake) {
    std::unique_lock<std::mutex> lock(mutex);
    if (n_kept == 0 || ended) {
        return false;
    }
    const uint64_t own = ++n_asked;
    lock.unlock();
    wake();
    lock.lock();
    changed.wait(lock, [&] { return n_answered >= own || ended; });
    return true;
}

void prefix_cache::drop_as_asked() {
    const std::lock_guard<std::mutex> lock(mutex);
    for (; n_answered < n_asked; ++n_answered) {
        drop_oldest();
    }
    changed.notify_all();
}

void prefix_cache::end() {
    const std::lock_guard<std::mutex> lock(mutex);
    ended = true;
    changed.notify_all();
}

// llama.cpp's copy of a sequence tells nobody.
void prefix_cache::recount() const {
    for (const llama_kv_cache * cache : kv_caches_of(llama_get_memory(ctx))) {
        cache->kv_memory->count(*cache);
    }
}

} // namespace kvfold
