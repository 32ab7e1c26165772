#include "serving/slot_exchange.h"

#include "hooks/kv-budget.h"
#include "hooks/kv-lazy-layers.h"
#include "hooks/slot-hooks.h"
#include "kv/eviction/evictor.h"
#include "kv/memory/folded_memory.h"
#include "serving/slot_schedule.h"
#include "process/kvfold_log.h"

#include "llama-kv-cache.h"
#include "server-task.h"

namespace kvfold {

// A reader that is a little slow must not stop a slot; one that has stopped must not cost memory.
static constexpr size_t pause_at  = 64;
static constexpr size_t resume_at = 32;

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

static std::shared_ptr<slot_exchange> exchange_of(const server_task & task) {
    return of_worker ? of_worker->find(task.id) : nullptr;
}

std::optional<std::string> cache_salt_of(const server_task & task) {
    const auto exchange = exchange_of(task);
    return exchange ? std::optional(exchange->salt) : std::nullopt;
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
    }
    const bool wake = exchange.paused && exchange.unread <= resume_at;
    exchange.paused = exchange.paused && !wake;
    return wake;
}

static size_t common_prefix(const std::vector<llama_token> & saved, const server_tokens & prompt) {
    size_t n = 0;
    while (n < saved.size() && n < prompt.size() && saved[n] == prompt[n]) {
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

bool kvfold_slot_begins(llama_context * context, int id_slot, server_prompt & prompt, const server_task & task) {
    const auto exchange = exchange_of(task);
    if (!exchange) {
        return memory_for(id_slot, task, 0).value_or(true);
    }
    const std::lock_guard<std::mutex> lock(exchange->mutex);
    prefix_cache & prefixes = schedule_of_worker()->prefixes;
    const bool     shifts   = task.params.n_cache_reuse > 0;
    const size_t   n_held   = prefixes.is_of(id_slot, exchange->salt, shifts) ? prompt.tokens.get_common_prefix(task.tokens) : 0;
    if (!exchange->load || !task.params.cache_prompt || common_prefix(exchange->load->tokens, task.tokens) <= n_held) {
        exchange->load.reset();
        return memory_for(id_slot, task, 0).value_or(true);
    }
    const auto has_memory = memory_for(id_slot, task, exchange->load->tokens.size());
    if (!has_memory) {
        log_emit(KVFOLD_LOG_WARN, "\"kv-budget\" has no room for the " + std::to_string(exchange->load->tokens.size()) +
                                      " tokens of a saved state, so the prompt is computed");
        exchange->load.reset();
        return memory_for(id_slot, task, 0).value_or(true);
    }
    if (!*has_memory) {
        return false;
    }
    bool placed = put_state(context, id_slot, prompt, *exchange->load);
    while (!placed && prefixes.drop_oldest()) {
        placed = put_state(context, id_slot, prompt, *exchange->load);
    }
    if (placed) {
        exchange->load.reset();
        prefixes.restored(id_slot, exchange->salt, shifts);
    } else {
        log_emit(KVFOLD_LOG_WARN, "the KV cache has no room for the " + std::to_string(exchange->load->tokens.size()) +
                                      " tokens of a saved state besides those of other slots");
    }
    return placed;
}

void kvfold_slot_ends(llama_context * context, int id_slot, const server_prompt & prompt, const server_task & task) {
    kvfold_task_gone(task.id);
    settle_evictions(llama_get_memory(context));
    const auto exchange = exchange_of(task);
    if (!exchange) {
        return;
    }
    const std::lock_guard<std::mutex> lock(exchange->mutex);
    while (exchange->save && !exchange->saved) {
        try {
            exchange->saved = take_state(context, id_slot, prompt);
        } catch (const std::exception & e) {
            if (!schedule_of_worker()->prefixes.drop_oldest()) {
                exchange->save_failure = e.what();
                break;
            }
        }
    }
    exchange->slot_ended = true;
    exchange->changed.notify_all();
}

void kvfold_keep_prefix(llama_context * context, int id_slot, server_prompt & prompt, int n_tokens, int & n_past, int32_t & pos_next) {
    const auto      memory     = llama_get_memory(context);
    const evictor * evicts     = evictor_of(memory);
    const llama_pos n_decisive = decisive_tokens(memory, id_slot);
    prompt.checkpoints.remove_if([&](const common_prompt_checkpoint & each) { return each.n_tokens < n_decisive; });
    int n_first = n_past < n_decisive ? 0 : n_past;
    if (evicts) {
        n_first = (int) evicts->n_beginning((llama_seq_id) id_slot, (uint32_t) n_past, (uint32_t) prompt.n_tokens(), (uint32_t) n_tokens);
    }
    if (n_first < n_past) {
        n_past   = prompt.tokens.has_mtmd ? 0 : n_first; // an image is not cut
        pos_next = n_past;
    }
}

void kvfold_slot_sends(const server_task & task) {
    if (const auto exchange = exchange_of(task)) {
        const std::lock_guard<std::mutex> lock(exchange->mutex);
        exchange->unread++;
    }
}

bool kvfold_slot_pauses(const server_task & task) {
    const auto exchange = exchange_of(task);
    if (!exchange) {
        return false;
    }
    const std::lock_guard<std::mutex> lock(exchange->mutex);
    exchange->paused = !exchange->awaited && (exchange->paused || exchange->unread >= pause_at);
    return exchange->paused;
}
