#include "serving/slot_schedule.h"

#include "hooks/kv-budget.h"
#include "hooks/kv-plan-prefill.h"
#include "kv/eviction/evictor.h"
#include "kv/eviction/method.h"
#include "kv/graph/passes.h"
#include "kv/memory/caches.h"
#include "kv/memory/folded_memory.h"
#include "kv/memory/page_ledger.h"
#include "kv/memory/placement.h"
#include "kv/memory/refusal.h"
#include "kv/retention/cuts.h"
#include "kv/retention/retention.h"
#include "process/kvfold_log.h"
#include "serving/slot_exchange.h"

#include "llama-context.h"
#include "llama-kv-cache.h"
#include "llama-model.h"
#include "llama.h"
#include "server-common.h"
#include "speculative.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>
#include <utility>

namespace kvfold {

// Steps after one for which there was no memory until somebody may come back while others run.
static constexpr uint64_t steps_of_caution = 32;

// Where those who run wait for a reader.
static constexpr std::chrono::milliseconds look_again_after{ 2 };

static thread_local admission *     admission_here = nullptr;
static thread_local slot_schedule * schedule_here  = nullptr;

schedule_scope::schedule_scope(admission & admits, slot_schedule & schedule) {
    admission_here = &admits;
    schedule_here  = &schedule;
}

schedule_scope::~schedule_scope() {
    schedule_here->prefixes.end();
    admission_here = nullptr;
    schedule_here  = nullptr;
}

admission * admission_of_worker() {
    return admission_here;
}

slot_schedule * schedule_of_worker() {
    return schedule_here;
}

// The cells that all sequences share, or null where each has its own, or none.
static const llama_kv_cells * unified_cells(const llama_context * ctx) {
    const auto caches = ctx ? kv_caches_of(llama_get_memory(ctx)) : std::vector<const llama_kv_cache *>();
    return caches.empty() || caches.front()->get_n_stream() > 1 ? nullptr : &caches.front()->get_cells(0);
}

static uint32_t n_gone_of(const llama_context * ctx, int seq_id) {
    const evictor * const evicts = evictor_of(llama_get_memory(ctx));
    return evicts ? evicts->n_gone(seq_id) : 0;
}

static uint32_t cells_of(const llama_kv_cells * cells, int seq_id, uint32_t n_listed) {
    return cells ? cells->seq_cells(seq_id) : n_listed;
}

static void look(cell_room & room, const llama_kv_cells * cells) {
    if (cells) {
        room.n_cells = std::min<uint64_t>(room.n_cells, cells->size());
        room.n_free  = std::min<uint64_t>(room.n_free, cells->size() - cells->get_used());
    }
}

std::vector<slot_view> slot_schedule::view(const std::vector<kvfold_slot_view> & slots, llama_context * ctx) {
    const llama_kv_cells * const cells = unified_cells(ctx);
    std::vector<slot_view>       views;
    for (const kvfold_slot_view & each : slots) {
        entry & own = entries[each.slot];
        if (own.task != each.task) {
            own      = {};
            own.task = each.task;
        }
        if (own.n_prompt != each.n_prompt) {
            own.n_prompt       = each.n_prompt;
            own.n_prompt_cells = (uint32_t) layout.cells_for_prompt(each.n_prompt);
        }
        own.paused    = each.paused;
        own.swappable = each.swappable;
        own.shifts    = each.shifts;
        if (const evictor * const evicts = evictor_of(llama_get_memory(ctx)); evicts && !own.suspended) {
            own.gone = evicts->of(each.slot);
        }
        slot_view view;
        static_cast<kvfold_slot_view &>(view) = each;
        view.suspended = own.suspended;
        view.resuming  = own.resuming;
        view.swapped   = own.swapped.has_value();
        view.swappable = each.swappable && !own.suspended && swaps.takes(ctx, each.slot);
        view.stalled   = each.paused && reader_stalls(each.task);
        view.n_cells   = cells_of(cells, each.slot, own.suspended ? own.n_replayed : each.n_tokens);
        view.n_gone    = n_gone_of(ctx, each.slot);
        view.n_peak    = own.n_prompt_cells;
        if (each.n_tokens > each.n_prompt) {
            view.n_peak = std::max(view.n_peak, (uint32_t) layout.cells_for_answer(each.n_prompt, each.n_tokens - each.n_prompt));
        }
        view.n_step    = !each.drafts ? 1 : std::clamp<int64_t>((int64_t) rules.n_slot - each.n_tokens - 1, 1, rules.tokens_at_once);
        view.last_run  = own.last_run;
        views.push_back(view);
    }
    count_suspended();
    return views;
}

std::vector<prefix_view> slot_schedule::view(const std::vector<kvfold_prefix_view> & idle, llama_context * ctx) const {
    const llama_kv_cells * const cells = unified_cells(ctx);
    std::vector<prefix_view>     views;
    const auto                   add   = [&](const kvfold_prefix_view & each, int64_t last_used) {
        views.push_back({ each.slot, last_used, cells_of(cells, each.slot, each.n_tokens) });
    };
    for (const kvfold_prefix_view & each : idle) {
        add(each, std::max(each.last_used, prefixes.last_used(each.slot)));
    }
    for (const kvfold_prefix_view & each : prefixes.kept()) {
        add(each, each.last_used);
    }
    return views;
}

// Cells that would be there once more if these sequences shared none.
static uint64_t n_saved_by(const std::vector<shared_cells> & shared, const std::set<llama_seq_id> & seq_ids) {
    uint64_t n = 0;
    for (const shared_cells & each : shared) {
        const auto holders = std::count_if(each.holders.begin(), each.holders.end(), [&](int id) { return seq_ids.count(id) > 0; });
        n += each.n_cells*std::max<uint64_t>(holders, 1) - each.n_cells;
    }
    return n;
}

// A prompt that gave its cells up has none until it is its turn, and nobody waits for it.
std::vector<kvfold_slot_action> slot_schedule::share(std::vector<kvfold_prompt_view> slots) {
    for (kvfold_prompt_view & each : slots) {
        const bool is_away = entries[each.slot].suspended;
        each.begins        = each.begins && !is_away;
        each.prompts       = each.prompts && !is_away;
    }
    return prefixes.share(slots);
}

std::vector<kvfold_slot_action> slot_schedule::plan(
        llama_context * ctx, llama_context * ctx_dft, const std::vector<kvfold_slot_view> & slots, const std::vector<kvfold_prefix_view> & idle) {
    ++step;
    contexts = { ctx, ctx_dft };
    settle_memory(llama_get_memory(ctx)); // before somebody gives cells up
    compact(llama_get_memory(ctx));
    if (step - refused_at >= steps_of_caution && n_suspended == 0) { // who comes back would fail there again and again
        spare_pages(llama_get_memory(ctx), false);
    }
    cell_room room;
    room.n_cells = room.n_free = UINT32_MAX;
    room.n_batch = rules.n_batch;
    look(room, unified_cells(ctx));
    look(room, unified_cells(ctx_dft));
    if (const llama_kv_cells * const cells = unified_cells(ctx)) {
        room.shared = cells_in_common(*cells);
    }
    n_shared = 0;
    for (const shared_cells & each : room.shared) {
        n_shared += each.n_cells*(each.holders.size() - 1);
    }
    room.n_whole = room.n_cells/std::max(rules.n_slot, 1u);
    if (const auto ledger = current_ledger(); ledger && ledger->cap() != page_ledger::no_cap && bytes_of_slot > 0) {
        room.n_whole = std::min(room.n_whole, ledger->cap()/bytes_of_slot);
    }
    if (const uint64_t bytes = grantable(); bytes < UINT64_MAX) {
        room.n_affordable = layout.tokens_for(bytes, 0, layout.n_batch);
    }
    replayed_slot = -1;
    for (const kvfold_prefix_view & each : idle) {
        keepers[each.slot].runs = false; // also where its task could not be launched
    }
    std::vector<kvfold_slot_action> actions;
    bool                            all_hold = true;
    for (const slot_action & each : plan_step(view(slots, ctx), view(idle, ctx), room)) {
        all_hold &= each.what == slot_action::HOLD;
        if (each.what == slot_action::EVICT) {
            evict(each.slot, actions);
            continue;
        }
        entry & own = entries[each.slot];
        switch (each.what) {
            case slot_action::EVICT:
                break;
            case slot_action::SUSPEND:
                actions.push_back({ kvfold_slot_action::SUSPEND, each.slot });
                break;
            case slot_action::FAIL:
                actions.push_back({ kvfold_slot_action::FAIL, each.slot });
                break;
            case slot_action::RUN:
                own.moved    = own.moved || own.shifts;
                own.rests    = false;
                own.last_run = step;
                own.n_most   = (int32_t) std::min<uint32_t>(each.n_tokens, own.n_at_once);
                break;
            case slot_action::RESUME:
                own.n_most = (int32_t) std::min<uint32_t>(each.n_tokens, own.n_at_once);
                if (own.n_listed == 0) { // a prompt, which the server core computes again
                    own.rests = own.suspended = false;
                    if (const uint32_t n = prefixes.begin_again(each.slot); n > 0) {
                        actions.push_back({ kvfold_slot_action::BEGIN, each.slot, n });
                    }
                } else {
                    own.rests = own.resuming = true;
                    replayed_slot = each.slot;
                }
                break;
            case slot_action::HOLD:
                own.rests = true;
                break;
        }
    }
    count_suspended();
    if (all_hold) {
        std::this_thread::sleep_for(look_again_after); // the server core plans as long as one slot has not paused
    }
    return actions;
}

std::vector<kvfold_slot_action> slot_schedule::give_way(
        llama_context * ctx, const std::vector<kvfold_slot_view> & slots, const std::vector<kvfold_prefix_view> & idle) {
    refused_at = step;
    std::vector<kvfold_slot_action> actions;
    const auto                      views = view(slots, ctx);
    for (const slot_action & each : kvfold::give_way(views, view(idle, ctx))) {
        if (each.what == slot_action::EVICT) {
            evict(each.slot, actions);
            continue;
        }
        // after what is idle, in whose place admission would have it read again
        if (refusal_of(llama_get_memory(ctx)) && waiting_state_gives_way()) {
            continue;
        }
        const llama_memory_t memory = llama_get_memory(ctx);
        if (each.what == slot_action::FAIL && (draft_gives_way() || compacts(views) || (refusal_of(memory) && spare_pages(memory, true)))) {
            continue;
        }
        if (each.what == slot_action::FAIL && (kvfold_copies_wait() || (refusal_of(llama_get_memory(ctx)) && saved_state_gives_way()))) {
            continue;
        }
        // who has stalled would be waited for in vain
        const bool may_wait = std::none_of(views.begin(), views.end(), [&](const slot_view & view) { return view.slot == each.slot && view.stalled; });
        if (each.what == slot_action::FAIL && may_wait && shortens(views)) {
            continue;
        }
        if (const int id_other = each.what == slot_action::FAIL && may_wait ? one_that_can_wait(views, each.slot) : -1; id_other >= 0) {
            actions.push_back({ kvfold_slot_action::SUSPEND, id_other });
            continue;
        }
        const bool fails = each.what == slot_action::FAIL && !gathers(views, each.slot);
        actions.push_back({ fails ? kvfold_slot_action::FAIL : kvfold_slot_action::SUSPEND, each.slot });
    }
    return actions;
}

void slot_schedule::begins(int id_slot, server_prompt & prompt, int id_task) {
    keepers[id_slot] = { &prompt, true, id_task, 0 };
}

void slot_schedule::ends(int id_slot, const server_task & task) {
    if (!entries[id_slot].moved) {
        return;
    }
    const int32_t n_keep  = task.params.n_keep < 0 ? task.n_tokens() : task.params.n_keep;
    const bool    add_bos = llama_vocab_get_add_bos(llama_model_get_vocab(llama_get_model(contexts[TARGET])));
    prefixes.moves(id_slot, std::min<size_t>((size_t) n_keep + add_bos, rules.n_slot - 4)); // as the server core does it
}

int32_t slot_schedule::limit_of_several(const server_task & task, int32_t limit) const {
    const int32_t n_held = (int32_t) rules.n_slot - task.n_tokens();
    return limit < 0 ? n_held : std::min(limit, n_held);
}

bool slot_schedule::others_run(int id_slot) const {
    for (size_t i = 0; i < keepers.size(); ++i) {
        if ((int) i != id_slot && keepers[i].runs) {
            return true;
        }
    }
    return false;
}

void slot_schedule::pauses(int id_task) {
    for (entry & each : entries) {
        each.paused = each.paused || each.task == id_task;
    }
}

bool slot_schedule::all_pause() const {
    const auto runs  = [](const entry & each) { return each.task >= 0; };
    const auto reads = [&](const entry & each) { return runs(each) && !each.paused; };
    return std::any_of(entries.begin(), entries.end(), runs) && std::none_of(entries.begin(), entries.end(), reads);
}

void slot_schedule::runs_no_more(int id_task) {
    for (keeper & each : keepers) {
        each.runs = each.runs && each.task != id_task;
    }
}

int slot_schedule::youngest_with_cells(llama_context * ctx, const std::vector<kvfold_slot_view> & slots) {
    const auto        views    = view(slots, ctx);
    const slot_view * youngest = nullptr;
    for (const slot_view & each : views) {
        if (each.n_cells > 0 && each.gives_way() && (!youngest || came_before(*youngest, each))) {
            youngest = &each;
        }
    }
    return youngest ? youngest->slot : -1;
}

// In the midst of a step, so without the server core.
bool slot_schedule::drop_idle(int id_slot) {
    int     oldest    = -1;
    int64_t last_used = INT64_MAX;
    for (size_t i = 0; i < keepers.size(); ++i) {
        const keeper & each = keepers[i];
        const int64_t  used = std::max(each.last_used, prefixes.last_used((int) i));
        const bool     stays = (int) i == id_slot || kvfold_slot_awaits_copy((int) i);
        if (each.prompt && !each.runs && !stays && !each.prompt->tokens.empty() && used < last_used) {
            oldest    = (int) i;
            last_used = used;
        }
    }
    for (const kvfold_prefix_view & each : prefixes.kept()) {
        if (each.last_used < last_used) {
            return prefixes.drop_oldest();
        }
    }
    if (oldest >= 0) {
        clear(oldest);
    }
    return oldest >= 0;
}

void slot_schedule::clear(int id_slot) {
    for (llama_context * const ctx : contexts) {
        if (ctx) {
            llama_memory_seq_rm(llama_get_memory(ctx), id_slot, -1, -1);
        }
    }
    keepers[id_slot].prompt->clear();
}

uint64_t slot_schedule::bytes_beside(int id_slot) const {
    const auto     ledger = current_ledger();
    const uint64_t cap    = ledger ? ledger->cap() : page_ledger::no_cap;
    return cap == page_ledger::no_cap ? cap : cap - std::min(cap, layout.bytes_held(id_slot));
}

// Of the first the server core knows, of the others it does not.
void slot_schedule::evict(int seq_id, std::vector<kvfold_slot_action> & actions) {
    if ((size_t) seq_id < rules.slots) {
        actions.push_back({ kvfold_slot_action::EVICT, seq_id });
    } else {
        prefixes.drop(seq_id);
    }
}

// All that a draft model has, which others can do without. False if it has nothing.
bool slot_schedule::draft_gives_way() {
    if (!contexts[DRAFT]) {
        return false;
    }
    const llama_memory_t memory = llama_get_memory(contexts[DRAFT]);
    bool                 any    = false;
    for (llama_seq_id id = 0; id < (llama_seq_id) rules.slots; ++id) {
        if (llama_memory_seq_pos_max(memory, id) >= 0) {
            llama_memory_seq_rm(memory, id, -1, -1);
            any = true;
        }
    }
    return any;
}

// Whether compaction helps who was refused. It counts anew when a sequence has become longer, so that it ends where none does.
bool slot_schedule::compacts(const std::vector<slot_view> & slots) {
    const llama_memory_t                    memory = llama_get_memory(contexts[TARGET]);
    std::vector<std::pair<int, llama_pos>> reached;
    for (const slot_view & each : slots) {
        reached.emplace_back(each.task, llama_memory_seq_pos_max(memory, each.slot));
    }
    if (reached != compacted_at) {
        compacted_at = std::move(reached);
        compaction   = {};
    }
    return compaction.helps(memory);
}

// Where nobody can give way, what computes several tokens at a time tries it with half as many. False if nothing does.
bool slot_schedule::shortens(const std::vector<slot_view> & slots) {
    bool any = false;
    for (const slot_view & each : slots) {
        entry &       own     = entries[each.slot];
        const bool    replays = each.slot == replayed_slot;
        const bool    prompts = each.stage == slot_view::PROMPT && !each.whole && !own.rests;
        const int64_t left    = replays ? own.n_listed : (int64_t) each.n_prompt - each.n_tokens;
        const auto    n       = (int32_t) std::min<int64_t>(own.n_most, left);
        if ((replays || prompts) && n > 1) {
            own.n_at_once = n/2;
            any           = true;
        }
    }
    return any;
}

// Several prompts can begin at once and find no memory for the first token of each, where each has pages of its own: the youngest waits,
// and the others need not be computed token by token. -1: nobody else runs.
int slot_schedule::one_that_can_wait(const std::vector<slot_view> & slots, int id_slot) {
    const slot_view * youngest = nullptr;
    for (const slot_view & each : slots) {
        const bool runs = each.stage == slot_view::PROMPT && !each.suspended && !entries[each.slot].rests;
        if (runs && each.slot != id_slot && (!youngest || came_before(*youngest, each))) {
            youngest = &each;
        }
    }
    if (!youngest) {
        return -1;
    }
    for (const slot_view & each : slots) {
        entries[each.slot].n_at_once = INT32_MAX;
    }
    return youngest->slot;
}

// A lone request may have its cells on pages with cells that others have left. Computed again it has them one after the other. A
// window may also lie on more pages than it fills, after a batch: fewer tokens at a time leave it on fewer. If nothing brings the
// request further, it fails.
bool slot_schedule::gathers(const std::vector<slot_view> & slots, int id_slot) {
    const auto at  = std::find_if(slots.begin(), slots.end(), [&](const slot_view & each) { return each.slot == id_slot; });
    entry &    own = entries[id_slot];
    if (at == slots.end() || !at->gives_way()) {
        return false;
    }
    if (at->n_tokens > own.n_gathered) {
        own.n_gathered = at->n_tokens;
        return true;
    }
    const int32_t n_at_once = std::min<int32_t>({ own.n_at_once, (int32_t) rules.n_batch, (int32_t) at->n_tokens });
    own.n_at_once           = std::max(1, n_at_once/2);
    return layout.window > 0 && n_at_once > 1;
}

bool slot_schedule::has_room(llama_context * ctx, uint64_t n_prompt, const std::map<int, uint32_t> & granted) const {
    const llama_kv_cells * const cells = unified_cells(ctx);
    if (granted.empty() || !cells) {
        return true;
    }
    cell_room room;
    room.n_batch = rules.n_batch;
    const auto coming = [&](uint64_t n_cells, uint64_t bytes_held) {
        const uint64_t bytes = layout.bytes_for(n_cells + 1, layout.n_batch);
        return bytes - std::min(bytes, bytes_held);
    };
    std::map<int, uint32_t> unseen = granted;
    std::vector<runner>     others;
    std::set<llama_seq_id>  running;
    for (size_t i = 0; i < entries.size(); ++i) {
        const entry & each = entries[i];
        if (each.task >= 0) {
            const auto     seq_id  = (llama_seq_id) i;
            const uint32_t n_cells = cells->seq_cells(seq_id);
            const auto     before  = unseen.find(each.task);
            // who has none yet may have those of others when it begins
            const uint32_t n_listed = n_cells == 0 && before != unseen.end() ? before->second : each.n_prompt;
            const uint32_t n_held   = std::min(n_listed - std::min(n_listed, n_gone_of(ctx, seq_id)), each.n_prompt_cells);
            others.push_back({ n_held, n_cells, coming(n_held, layout.bytes_held(seq_id)), each.suspended, each.paused });
            running.insert(seq_id);
            unseen.erase(each.task);
        }
    }
    const auto new_one = [&](uint64_t n_tokens) {
        return runner { (uint32_t) layout.cells_for_prompt(n_tokens), 0, layout.peak_for(n_tokens, n_tokens + 1, layout.n_batch) };
    };
    for (const auto & [task, n_tokens] : unseen) {
        others.push_back(new_one(n_tokens)); // it has no slot yet
    }
    const uint64_t idle  = layout.bytes_held_without(running);
    const uint64_t bytes = grantable();
    room.n_cells = cells->size() + n_saved_by(cells_in_common(*cells), running); // each of `others` counts what it shares
    return may_begin(new_one(n_prompt), others, room, bytes + std::min(idle, UINT64_MAX - bytes));
}

// Bytes of keys and values that there is memory for, by estimate.
uint64_t slot_schedule::grantable() const {
    if (refused_at > 0 && step - refused_at < steps_of_caution) {
        return 0;
    }
    const auto ledger = current_ledger();
    return ledger && layout.bytes_paged > 0 ? ledger->grantable() : UINT64_MAX;
}

bool slot_schedule::suspended(llama_context * ctx, int id_slot, uint32_t n_tokens, bool replayable) {
    entry & own = entries[id_slot];
    if (n_tokens > 0 && !own.suspended && own.swappable && swaps.takes(ctx, id_slot)) {
        try {
            own.swapped = swaps.write(ctx, id_slot);
        } catch (const swap_error & e) {
            log_emit(KVFOLD_LOG_WARN, e.what());
            swap_failure = e.what();
        }
    }
    if (n_tokens > 0 && !replayable && !own.swapped) {
        return false;
    }
    swap_failure.clear();
    if (!own.suspended) {
        own.since = ggml_time_us();
        n_preemptions++;
    }
    own.suspended  = own.rests = true;
    own.resuming   = false;
    own.n_listed   = n_tokens;
    own.n_replayed = 0;
    count_suspended();
    log_emit(KVFOLD_LOG_DEBUG, "slot " + std::to_string(id_slot) + " gives up the cells of " +
                                   (n_tokens > 0 ? std::to_string(n_tokens) + " tokens" : "its prompt") + ", which will be " +
                                   (own.swapped ? "read from a file again" : "computed again"));
    return true;
}

// Whether tokens of an answer are told from those of a prompt by their outputs, and computed differently.
static bool needs_outputs(const llama_context * ctx, int id_slot) {
    const auto & plan = llama_get_model(ctx)->hparams.kv_plan;
    if (plan.is_automatic()) {
        return !retention_of(llama_get_memory(ctx))->is_final(id_slot);
    }
    return plan.upward() && !is_exact(plan, ctx->get_cparams().kv_prefill);
}

int slot_schedule::replay(
        llama_context * ctx, common_speculative * spec, int id_slot, const server_tokens & tokens, uint32_t n_prompt, bool replayable) {
    entry & own = entries[id_slot];
    if (own.swapped) {
        try {
            if (!own.swapped->read(ctx, id_slot)) {
                return 1;
            }
            own.n_replayed = own.n_listed;
            own.swapped.reset();
            return 0;
        } catch (const swap_error & e) {
            log_emit(KVFOLD_LOG_WARN, e.what());
            own.swapped.reset();
            if (!replayable) {
                swap_failure = e.what();
                return -1;
            }
        }
    }
    evictor * const evicts = evictor_of(llama_get_memory(ctx));
    if (evicts && own.n_replayed == 0) {
        evicts->replays(id_slot, own.gone, (llama_pos) n_prompt);
    }
    if (own.n_replayed == 0) {
        own.n_replayed = prefixes.adopt(id_slot, tokens, std::min(n_prompt, own.n_listed) - 1); // the last one of a prompt may decide on layers
    }
    const uint32_t at        = own.n_replayed;
    const bool     in_prompt = at < n_prompt;
    const auto &   plan      = llama_get_model(ctx)->hparams.kv_plan;
    uint32_t       n         = std::min({ own.n_listed - at, rules.n_batch, (uint32_t) own.n_most });
    bool           each_out  = false;
    const auto     after     = [&](const std::vector<llama_pos> & points) {
        const auto next = std::upper_bound(points.begin(), points.end(), (llama_pos) at);
        return next == points.end() ? UINT32_MAX : (uint32_t) *next;
    };
    const uint32_t n_evicted = after(own.gone.points); // then tokens go as they went before
    n = std::min(n, n_evicted - at);
    if (in_prompt) {
        n = std::min({ n, n_prompt - at, tokens_to_cut(ctx, at), after(own.gone.begins) - at });
    } else if (needs_outputs(ctx, id_slot)) {
        // as they were computed: one after the other, the first of them perhaps deciding which layers are lazy
        each_out = true;
        n        = std::min(n, at == n_prompt ? 1 : std::min(ctx->get_cparams().n_outputs_max, ctx->get_cparams().n_outputs_max_per_seq));
    }
    struct owned_batch {
        llama_batch batch;
        explicit owned_batch(int32_t n) : batch(llama_batch_init(n, 0, 1)) {}
        ~owned_batch() { llama_batch_free(batch); }
    } owned((int32_t) n);
    for (uint32_t i = 0; i < n; ++i) {
        common_batch_add(owned.batch, tokens[at + i], (llama_pos) (at + i), { id_slot }, each_out);
    }
    const bool ends_chunk = plan.evict_chunk > 0 && (at + n) % plan.evict_chunk == 0; // where a prompt goes on
    if (in_prompt && ((at + n == n_prompt && (plan.is_automatic() || plan.evicts())) || (at + n == n_evicted && !ends_chunk))) {
        owned.batch.logits[n - 1] = true; // what tells the end of a prompt
    }
    llama_set_embeddings(ctx, false);
    const int ret = llama_decode(ctx, owned.batch);
    if (ret != 0) {
        return ret;
    }
    if (spec && !common_speculative_process(spec, owned.batch) && !kvfold_draft_forgets(contexts[DRAFT], owned.batch)) {
        return -1;
    }
    own.n_replayed += n;
    n_recomputed   += n;
    if (evicts && own.n_replayed == own.n_listed) {
        evicts->replayed(id_slot);
    }
    return 0;
}

int64_t slot_schedule::resumed(int id_slot) {
    entry & own = entries[id_slot];
    if (!own.resuming || own.n_replayed < own.n_listed) {
        return 0;
    }
    own.suspended = own.resuming = false;
    own.n_listed  = own.n_replayed = 0;
    count_suspended();
    return std::max<int64_t>(1, ggml_time_us() - own.since);
}

bool slot_schedule::forgets(int id_slot) {
    const bool gone = entries[id_slot].suspended;
    keepers[id_slot].runs      = false;
    keepers[id_slot].last_used = ggml_time_us();
    entries[id_slot] = {};
    count_suspended();
    return gone;
}

void slot_schedule::count_suspended() {
    n_suspended = std::count_if(entries.begin(), entries.end(), [](const entry & each) { return each.suspended; });
    uint64_t bytes = 0;
    for (const entry & each : entries) {
        bytes += each.swapped ? each.swapped->bytes() : 0;
    }
    bytes_swapped = bytes;
}

error slot_schedule::why_it_failed(llama_context * ctx, int id_task, int ret) {
    if (!swap_failure.empty()) {
        return error(KVFOLD_ERROR_STATE, std::exchange(swap_failure, {})).about_option("swap-dir");
    }
    if (ret != 1) {
        return error(KVFOLD_ERROR_INTERNAL, "llama_decode() returned " + std::to_string(ret));
    }
    if (reader_stalls(id_task)) {
        return error(KVFOLD_ERROR_CONTEXT_EXCEEDED, "the answer has not been read for too long: others need its cells, which cannot be computed again");
    }
    if (const auto refusal = refusal_of(llama_get_memory(ctx))) {
        return out_of_memory(*refusal);
    }
    const llama_kv_cells * const cells = unified_cells(ctx);
    const int64_t                size  = cells ? cells->size() : 0;
    const auto     own   = std::find_if(entries.begin(), entries.end(), [&](const entry & each) { return each.task == id_task; });
    const uint32_t n_own = cells && own != entries.end() ? cells->seq_cells((llama_seq_id) (own - entries.begin())) : 0;
    if (const int64_t n_others = cells ? (int64_t) cells->get_used() - n_own : 0; n_others > 0) {
        return error(KVFOLD_ERROR_CONTEXT_EXCEEDED, "the KV cache has " + std::to_string(size) + " cells, too few for this request beside " +
                                                        std::to_string(n_others) + " of others that cannot be computed again")
            .compares(n_own + 1, size - n_others)
            .about_option("ctx-size");
    }
    return error(KVFOLD_ERROR_CONTEXT_EXCEEDED, "the KV cache has " + std::to_string(size) + " cells, too few for this request alone")
        .compares(size + 1, size)
        .about_option("ctx-size");
}

} // namespace kvfold

using namespace kvfold;

std::vector<kvfold_slot_action> kvfold_plan_slots(
        llama_context * ctx, llama_context * ctx_dft, const std::vector<kvfold_slot_view> & slots, const std::vector<kvfold_prefix_view> & idle) {
    if (!schedule_here) {
        return {};
    }
    auto actions = schedule_here->plan(ctx, ctx_dft, slots, idle);
    admission_here->admit_waiting();
    return actions;
}

std::vector<kvfold_slot_action> kvfold_give_way(
        llama_context * ctx, const std::vector<kvfold_slot_view> & slots, const std::vector<kvfold_prefix_view> & idle) {
    return schedule_here->give_way(ctx, slots, idle);
}

std::vector<kvfold_slot_action> kvfold_share_prefixes(std::vector<kvfold_prompt_view> slots) {
    return schedule_here ? schedule_here->share(std::move(slots)) : std::vector<kvfold_slot_action>();
}

bool kvfold_slot_follows(int id_slot) {
    return schedule_here && schedule_here->prefixes.waits(id_slot);
}

bool kvfold_slot_rests(int id_slot) {
    return schedule_here && schedule_here->rests(id_slot);
}

int32_t kvfold_prompt_tokens(llama_context * ctx, int id_slot, int32_t n_tokens, int32_t share) {
    int64_t most = share;
    if (schedule_here) {
        const int64_t stop = schedule_here->prefixes.stops_at(id_slot);
        most = std::min<int64_t>({ most, schedule_here->most(id_slot), stop > n_tokens ? stop - n_tokens : INT32_MAX });
    }
    return (int32_t) std::min<int64_t>(most, tokens_to_cut(ctx, n_tokens));
}

int kvfold_drafted_tokens(llama_context * ctx, int n_tokens, int n_most) {
    const bool sums = evicts_by_sums(llama_get_model(ctx)->hparams.kv_plan); // of which nothing can be taken back
    return sums ? 0 : (int) std::min<int64_t>(n_most, (int64_t) tokens_to_answer_cut(ctx, (uint32_t) n_tokens) - 1);
}

bool kvfold_draft_forgets(llama_context * ctx_dft, const llama_batch & batch) {
    if (!ctx_dft) {
        return false;
    }
    log_emit(KVFOLD_LOG_DEBUG, "the draft model had no memory for " + std::to_string(batch.n_tokens) + " tokens and forgets their sequences");
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        llama_memory_seq_rm(llama_get_memory(ctx_dft), batch.seq_id[i][0], -1, -1);
    }
    return true;
}

bool kvfold_slot_suspended(llama_context * ctx, int id_slot, uint32_t n_tokens, bool replayable) {
    return schedule_here->suspended(ctx, id_slot, n_tokens, replayable);
}

int kvfold_slot_to_replay() {
    return schedule_here ? schedule_here->to_replay() : -1;
}

int kvfold_replay(
        llama_context * ctx, common_speculative * spec, int id_slot, const server_tokens & tokens, uint32_t n_prompt, bool replayable) {
    return schedule_here->replay(ctx, spec, id_slot, tokens, n_prompt, replayable);
}

// A map of n-grams holds places in the answer, and stops where that is shorter than it was.
void kvfold_history_shrinks(common_speculative * spec, int id_slot) {
    common_speculative_begin(spec, id_slot, {});
}

int64_t kvfold_slot_resumed(int id_slot) {
    return schedule_here->resumed(id_slot);
}

bool kvfold_slot_forgets(int id_slot) {
    if (!schedule_here) {
        return false;
    }
    const bool forgets = schedule_here->forgets(id_slot);
    admission_here->admit_waiting(); // its cells are nobody's now
    return forgets;
}

void kvfold_slot_fails(llama_context * ctx, int id_task, int ret) {
    admission_here->refuse(id_task, schedule_here->why_it_failed(ctx, id_task, ret));
}

bool kvfold_task_waits(llama_context *, server_task & task) {
    return admission_here && admission_here->waits(task);
}

void kvfold_task_gone(int id_task) {
    if (admission_here) {
        schedule_here->prefixes.drop_as_asked();
        schedule_here->runs_no_more(id_task);
        admission_here->gone(id_task);
    }
}

int32_t kvfold_answer_limit(
        llama_context *, const server_task & task, int32_t limit, int64_t n_generated, const std::function<bool()> & make_room) {
    const auto make_any = [&] { return schedule_here->prefixes.drop_oldest() || (make_room && make_room()); };
    const int32_t most = admission_here ? admission_here->answer_limit(task, limit, n_generated, make_any) : limit;
    return schedule_here && (task.is_parent() || task.is_child()) ? schedule_here->limit_of_several(task, most) : most;
}
