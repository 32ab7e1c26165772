#include "serving/slot_exchange.h"

#include "hooks/kv-budget.h"
#include "hooks/kv-scheduler.h"
#include "hooks/slot-hooks.h"
#include "kv/eviction/evictor.h"
#include "kv/memory/compaction.h"
#include "kv/memory/folded_memory.h"
#include "kv/memory/page_ledger.h"
#include "serving/slot_schedule.h"
#include "process/kvfold_log.h"

#include "llama-kv-cache.h"
#include "server-task.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace kvfold {

// A reader that is a little slow must not stop a slot; one that has stopped must not cost memory.
static constexpr size_t pause_at  = 64;
static constexpr size_t resume_at = 32;

static constexpr int64_t reader_patience_us = 10'000'000;

static thread_local slot_exchanges * of_worker = nullptr;

worker_scope::worker_scope(slot_exchanges & exchanges) {
    of_worker = &exchanges;
}

worker_scope::~worker_scope() {
    of_worker = nullptr;
}

void slot_exchanges::add(const std::unordered_set<int> & task_ids, const std::shared_ptr<slot_exchange> & exchange) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (const int id : task_ids) {
        by_task[id] = exchange;
    }
}

void slot_exchanges::remove(const std::unordered_set<int> & task_ids) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (const int id : task_ids) {
        by_task.erase(id);
    }
}

std::shared_ptr<slot_exchange> slot_exchanges::find(int task_id) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto                        found = by_task.find(task_id);
    return found == by_task.end() ? nullptr : found->second;
}

void slot_exchanges::read_state(const std::shared_ptr<slot_exchange> & exchange) {
    exchange->reading = true; // nobody knows it yet
    {
        const std::lock_guard<std::mutex> lock(mutex);
        with_state.remove_if([](const std::weak_ptr<slot_exchange> & each) { return each.expired(); });
        with_state.push_front(exchange);
    }
    try {
        auto                              state = exchange->read();
        const std::lock_guard<std::mutex> own(exchange->mutex);
        exchange->load    = std::move(state);
        exchange->reading = false;
    } catch (...) {
        const std::lock_guard<std::mutex> own(exchange->mutex);
        exchange->forget_state();
        exchange->reading = false;
        throw;
    }
}

bool slot_exchanges::any_with_state(const slot_exchange * except, const std::function<bool(slot_exchange &)> & what) {
    const std::lock_guard<std::mutex> lock(mutex);
    return std::any_of(with_state.begin(), with_state.end(), [&](const std::weak_ptr<slot_exchange> & each) {
        const auto exchange = each.lock();
        if (!exchange || exchange.get() == except) {
            return false;
        }
        const std::lock_guard<std::mutex> own(exchange->mutex);
        return what(*exchange);
    });
}

bool slot_exchanges::reads_state() {
    return any_with_state(nullptr, [](const slot_exchange & each) { return each.reading; });
}

bool slot_exchanges::drop_state(const slot_exchange * except) {
    return any_with_state(except, [](slot_exchange & each) {
        const bool drops = each.load.has_value();
        each.load.reset();
        return drops;
    });
}

void slot_exchanges::add_copy(const std::shared_ptr<slot_exchange> & exchange) {
    const std::lock_guard<std::mutex> lock(mutex);
    with_copy.remove_if([](const std::weak_ptr<slot_exchange> & each) { return each.expired(); });
    with_copy.push_back(exchange);
}

bool slot_exchanges::write_copy(const slot_exchange * except) {
    std::vector<std::shared_ptr<slot_exchange>> found;
    {
        const std::lock_guard<std::mutex> lock(mutex);
        for (const std::weak_ptr<slot_exchange> & each : with_copy) {
            if (auto exchange = each.lock(); exchange && exchange.get() != except) {
                found.push_back(std::move(exchange));
            }
        }
    }
    for (const auto & each : found) {
        std::unique_lock<std::mutex> own(each->mutex);
        if (each->writing) {
            each->changed.wait(own, [&] { return !each->writing; });
            return true;
        }
    }
    for (const auto & each : found) {
        const std::lock_guard<std::mutex> own(each->mutex);
        if (each->saved) {
            try {
                each->written.emplace(each->write(*each->saved));
            } catch (const std::exception & e) {
                each->save_failure = error(KVFOLD_ERROR_STATE, e.what());
            }
            each->saved.reset();
            return true;
        }
    }
    return false;
}

bool saved_state_gives_way() {
    return of_worker && of_worker->write_copy();
}

std::optional<written_state> written_copy(slot_exchange & exchange) {
    std::unique_lock<std::mutex> lock(exchange.mutex);
    if (!exchange.save) {
        return std::nullopt;
    }
    if (exchange.written) {
        return std::move(exchange.written);
    }
    if (!exchange.saved) {
        throw exchange.save_failure.value();
    }
    auto state = std::exchange(exchange.saved, std::nullopt);
    exchange.writing = true;
    const auto end = [&] {
        state.reset();
        lock.lock();
        exchange.writing = false;
        exchange.changed.notify_all();
    };
    lock.unlock();
    try {
        auto written = exchange.write(*state);
        end();
        return written;
    } catch (...) {
        end();
        throw;
    }
}

bool waiting_state_gives_way() {
    return of_worker && (of_worker->drop_state() || of_worker->reads_state());
}

// At the request's turn, if it was not before, or dropped. False if there is no memory for it; throws if there is no way without.
static bool read_state_now(slot_exchange & exchange) {
    try {
        while (!exchange.load && exchange.read) {
            exchange.load = exchange.read();
            const auto make_room = [&] {
                return of_worker->drop_state(&exchange) ||
                       (exchange.strict && (schedule_of_worker()->drop_idle() || of_worker->write_copy(&exchange)));
            };
            if (!exchange.load && !make_room()) {
                return false;
            }
        }
    } catch (const error & e) {
        if (exchange.strict) {
            throw;
        }
        exchange.read = nullptr;
        log_emit(KVFOLD_LOG_WARN, "a conversation goes on without its saved KV state: " + e.message);
    }
    return true;
}

static std::shared_ptr<slot_exchange> exchange_of(const server_task & task) {
    return of_worker ? of_worker->find(task.id) : nullptr;
}

std::optional<std::string> cache_salt_of(const server_task & task) {
    const auto exchange = exchange_of(task);
    return exchange ? std::optional(exchange->salt) : std::nullopt;
}

std::optional<size_t> state_of(const server_task & task, bool alone) {
    const auto exchange = exchange_of(task);
    if (!exchange) {
        return 0;
    }
    const std::lock_guard<std::mutex> lock(exchange->mutex);
    if (!read_state_now(*exchange) && exchange->strict && !alone) {
        return std::nullopt;
    }
    return exchange->load ? exchange->load->tokens.size() : 0;
}

bool reader_stalls(int task_id) {
    const auto exchange = of_worker ? of_worker->find(task_id) : nullptr;
    if (!exchange) {
        return false;
    }
    const std::lock_guard<std::mutex> lock(exchange->mutex);
    return exchange->paused && ggml_time_us() - exchange->read_at >= reader_patience_us;
}

bool note_waiting(slot_exchange & exchange) {
    const std::lock_guard<std::mutex> lock(exchange.mutex);
    exchange.awaited = true;
    const bool wake  = exchange.paused;
    exchange.paused  = false;
    return wake;
}

bool note_read(slot_exchange & exchange, bool part) {
    const std::lock_guard<std::mutex> lock(exchange.mutex);
    exchange.awaited = false;
    if (part && exchange.unread > 0) {
        exchange.unread--;
        exchange.read_at = ggml_time_us();
    }
    const bool wake = exchange.paused && exchange.unread <= resume_at;
    exchange.paused = exchange.paused && !wake;
    return wake;
}

// Of its prompt, the last token of which is computed in any case.
static size_t usable_tokens(const kv_state & state, const server_task & task) {
    size_t n = 0;
    while (n < state.tokens.size() && n + 1 < task.tokens.size() && state.tokens[n] == task.tokens[n]) {
        n++;
    }
    return n;
}

} // namespace kvfold

using namespace kvfold;

// Whether the slot may hold n_first tokens at first; as admission::begins(), when prefixes that no slot holds are out of the way.
static std::optional<bool> memory_for(int id_slot, const server_task & task, uint64_t n_first) {
    admission * const admits = admission_of_worker();
    if (!admits) {
        return true;
    }
    auto may_begin = admits->begins(id_slot, task.id, n_first);
    while (may_begin == false && schedule_of_worker()->prefixes.drop_oldest()) {
        may_begin = admits->begins(id_slot, task.id, n_first);
    }
    return may_begin;
}

// A file that has gone bad is told of when it is known that the request does not begin.
static bool can_read_state(slot_exchange & exchange) {
    try {
        return read_state_now(exchange);
    } catch (const error & e) {
        log_emit(KVFOLD_LOG_WARN, e.message);
        return false;
    }
}

// Of its prompt, in what the slot holds of requests that are alike.
static size_t usable_tokens(int id_slot, const server_prompt & prompt, const server_task & task) {
    const prefix_cache &  prefixes = schedule_of_worker()->prefixes;
    std::vector<uint32_t> checkpoints;
    for (const auto & each : prompt.checkpoints) {
        checkpoints.push_back((uint32_t) each.n_tokens);
    }
    return std::min(prefixes.begins_with(id_slot, prompt.tokens, task.tokens, checkpoints), prefixes.n_unmoved(id_slot));
}

bool kvfold_slot_begins(llama_context * context, int id_slot, server_prompt & prompt, const server_task & task) {
    schedule_of_worker()->begins(id_slot, prompt, task.id);
    const auto exchange = exchange_of(task);
    if (!exchange) {
        return memory_for(id_slot, task, 0).value_or(true);
    }
    const std::lock_guard<std::mutex> lock(exchange->mutex);
    prefix_cache & prefixes = schedule_of_worker()->prefixes;
    const bool     shifts   = task.params.n_cache_reuse > 0;
    const bool     alike    = prefixes.is_of(id_slot, exchange->salt, shifts);
    const auto     n_held   = [&] { return alike ? usable_tokens(id_slot, prompt, task) : 0; };
    if (task.params.cache_prompt && !can_read_state(*exchange)) {
        return false;
    }
    if (!exchange->load || !task.params.cache_prompt || usable_tokens(*exchange->load, task) <= n_held()) {
        exchange->forget_state();
        return memory_for(id_slot, task, 0).value_or(true);
    }
    const auto has_memory = memory_for(id_slot, task, exchange->load->tokens.size());
    if (!has_memory) {
        log_emit(KVFOLD_LOG_WARN, "\"kv-budget\" has no room for the " + std::to_string(exchange->load->tokens.size()) +
                                      " tokens of a saved state, so the prompt is computed");
        exchange->forget_state();
        return memory_for(id_slot, task, 0).value_or(true);
    }
    if (!*has_memory) {
        return false;
    }
    bool placed = put_state(context, id_slot, prompt, *exchange->load);
    while (!placed && (prefixes.drop_oldest() || of_worker->drop_state(exchange.get()) || of_worker->write_copy(exchange.get()))) {
        placed = put_state(context, id_slot, prompt, *exchange->load);
    }
    if (placed) {
        exchange->forget_state();
        prefixes.restored(id_slot, exchange->salt, shifts);
    } else {
        log_emit(KVFOLD_LOG_WARN, "the KV cache has no room for the " + std::to_string(exchange->load->tokens.size()) +
                                      " tokens of a saved state besides those of other slots");
    }
    return placed;
}

void kvfold_slot_begins_anew(const server_task & task) {
    const auto exchange = exchange_of(task);
    if (!exchange) {
        return;
    }
    const std::lock_guard<std::mutex> lock(exchange->mutex);
    if (exchange->read) {
        exchange->forget_state();
        log_emit(KVFOLD_LOG_WARN, "there is no memory for the saved KV state of a conversation (kv-budget), so the prompt is computed");
    }
}

static bool awaits_copy(int id_slot) {
    const auto & awaited = of_worker->awaited;
    return std::any_of(awaited.begin(), awaited.end(), [&](const awaited_copy & each) { return each.id_slot == id_slot; });
}

static uint64_t grantable() {
    const auto ledger = current_ledger();
    return ledger ? ledger->grantable() : 0;
}

static error no_room_for_copy(int id_slot, uint64_t bytes) {
    const uint64_t    left = schedule_of_worker()->bytes_beside(id_slot);
    const std::string what = "the KV state of the conversation cannot be kept: its copy takes " + std::to_string(bytes) + " bytes, but ";
    if (bytes > left) {
        return error(KVFOLD_ERROR_STATE, what + "beside the conversation itself \"kv-budget\" leaves " + std::to_string(left))
            .compares((int64_t) bytes, (int64_t) left)
            .about_option("kv-budget");
    }
    const uint64_t now = grantable();
    return error(KVFOLD_ERROR_STATE, what + std::to_string(now) + " are left beside the pages that it lies on and what cannot give way (kv-budget)")
        .compares((int64_t) bytes, (int64_t) now)
        .about_option("kv-budget");
}

// Whether it is settled, which includes that it fails. False if others have to make room for it, which they do not the last time.
static bool make_copy(llama_context * context, const awaited_copy & what, bool last_time) {
    slot_exchange &                   exchange = *what.exchange;
    slot_schedule &                   schedule = *schedule_of_worker();
    const std::lock_guard<std::mutex> lock(exchange.mutex);
    if (exchange.save) {
        uint64_t   n_bytes   = 0;
        bool       again     = true; // what somebody else has given back by now, other requests' threads among them
        tries_of_compaction compaction;
        const auto make_room = [&](uint64_t bytes) {
            n_bytes = bytes;
            return compaction.helps(llama_get_memory(context)) || schedule.drop_idle(what.id_slot) || of_worker->drop_state(&exchange) ||
                   of_worker->write_copy(&exchange) || (grantable() >= bytes && std::exchange(again, false));
        };
        try {
            if (what.prompt->tokens.size() != what.n_tokens) {
                throw error(KVFOLD_ERROR_STATE, "the KV state of the conversation cannot be kept: its slot was cleared");
            }
            if (schedule.prefixes.n_unmoved(what.id_slot) < what.n_tokens) {
                throw error(KVFOLD_ERROR_STATE, "the KV state of the conversation cannot be kept: what is left was computed after tokens that it lost")
                    .about_option("context-shift");
            }
            exchange.saved = take_state(context, what.id_slot, *what.prompt, make_room);
            if (exchange.saved) {
                of_worker->add_copy(what.exchange);
            } else if (!last_time && exchange.save_strict && n_bytes <= schedule.bytes_beside(what.id_slot)) {
                return false;
            } else {
                exchange.save_failure = no_room_for_copy(what.id_slot, n_bytes);
            }
        } catch (const error & e) {
            exchange.save_failure = e;
        } catch (const std::exception & e) {
            exchange.save_failure = error(KVFOLD_ERROR_STATE, e.what());
        }
    }
    exchange.slot_ended = true;
    exchange.changed.notify_all();
    return true;
}

// One of them. False if others have to make room for each.
static bool make_awaited_copy(llama_context * context, bool last_time) {
    auto & awaited = of_worker->awaited;
    for (auto each = awaited.begin(); each != awaited.end(); ++each) {
        if (make_copy(context, *each, last_time)) {
            const awaited_copy made = *each;
            awaited.erase(each);
            if (!made.stays) {
                schedule_of_worker()->clear(made.id_slot);
            }
            return true;
        }
    }
    return false;
}

// Nobody is left to wait for.
static void make_awaited_copies(llama_context * context) {
    while (!of_worker->awaited.empty()) {
        if (!make_awaited_copy(context, false)) {
            make_awaited_copy(context, true);
        }
    }
}

void kvfold_slot_ends(llama_context * context, int id_slot, const server_prompt & prompt, const server_task & task) {
    settle_memory(llama_get_memory(context), id_slot); // what others have drafted may not be accepted yet
    schedule_of_worker()->ends(id_slot, task);
    const bool others_run = schedule_of_worker()->others_run(id_slot);
    if (const auto exchange = exchange_of(task)) {
        const awaited_copy copy = { id_slot, &prompt, prompt.tokens.size(), task.params.cache_prompt, exchange };
        if (!make_copy(context, copy, !others_run && of_worker->awaited.empty())) {
            of_worker->awaited.push_back(copy);
        }
    }
    schedule_of_worker()->runs_no_more(task.id); // what the slot holds gives way to another's copy
    if (of_worker && !others_run) {
        make_awaited_copies(context);
    }
    kvfold_task_gone(task.id); // now those who wait may have what the slot holds
    if (!others_run) { // and no step comes that would
        compact(llama_get_memory(context));
    }
}

bool kvfold_slot_awaits_copy(int id_slot) {
    return of_worker && awaits_copy(id_slot);
}

bool kvfold_copies_wait() {
    return of_worker && !of_worker->awaited.empty();
}

std::vector<kvfold_slot_action> kvfold_make_copy(llama_context * context, const std::vector<kvfold_slot_view> & slots) {
    settle_memory(llama_get_memory(context)); // before somebody gives cells up
    if (make_awaited_copy(context, false)) {
        return {};
    }
    const int other = schedule_of_worker()->youngest_with_cells(context, slots);
    if (other >= 0) {
        return { { kvfold_slot_action::SUSPEND, other } };
    }
    make_awaited_copy(context, true);
    return {};
}

void kvfold_keep_prefix(llama_context * context, int id_slot, server_prompt & prompt, int n_tokens, int & n_past, int32_t & pos_next) {
    const auto      memory = llama_get_memory(context);
    const evictor * evicts = evictor_of(memory);
    // of a checkpoint the last token is computed again
    prompt.checkpoints.remove_if([&](const common_prompt_checkpoint & each) { return !may_go_on(memory, id_slot, each.n_tokens - 1, n_tokens, true); });
    const int most    = n_tokens - 1; // the last one makes the answer's first
    int       n_first = may_go_on(memory, id_slot, std::min(n_past, most), n_tokens, false) ? n_past : 0;
    if (evicts) {
        n_first = (int) evicts->n_beginning((llama_seq_id) id_slot, (uint32_t) n_past, (uint32_t) prompt.n_tokens(), (uint32_t) n_tokens);
    }
    n_first = prompt.tokens.has_mtmd ? n_first : std::min(n_first, most);
    if (n_first < n_past) {
        n_past   = prompt.tokens.has_mtmd ? 0 : n_first; // an image is not cut
        pos_next = n_past;
    }
}

bool kvfold_window_is_gone(llama_context * context, int id_slot, int32_t pos_next) {
    const auto * const folded = dynamic_cast<const folded_memory *>(llama_get_memory(context));
    return !folded || !folded->has_window(id_slot, pos_next);
}

void kvfold_slot_sends(const server_task & task) {
    if (const auto exchange = exchange_of(task)) {
        const std::lock_guard<std::mutex> lock(exchange->mutex);
        exchange->unread++;
    }
}

bool kvfold_slot_pauses(const server_task & task) {
    const auto exchange = exchange_of(task);
    if (!exchange || !of_worker->awaited.empty()) { // there is a step to be planned, in which somebody gives way
        return false;
    }
    std::unique_lock<std::mutex> lock(exchange->mutex);
    const bool                   paused = exchange->paused;
    exchange->paused = !exchange->awaited && (paused || exchange->unread >= pause_at);
    if (paused || !exchange->paused) {
        return exchange->paused;
    }
    exchange->read_at = ggml_time_us();
    lock.unlock();
    schedule_of_worker()->pauses(task.id);
    admission_of_worker()->admit_waiting(); // perhaps nothing else runs, and no step is planned
    return true;
}
