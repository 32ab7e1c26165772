#include "serving/admission.h"

#include <algorithm>
#include <set>

namespace kvfold {

admission::admission(const limits & limits, const kv_layout & layout, actions actions)
    : rules(limits), layout(layout), server(std::move(actions)), bytes_limit(limits.bytes), promised_to_slot(limits.slots) {
    if (bytes_limit == 0) {
        return;
    }
    if (layout.caches.empty()) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "this model keeps no keys and values of tokens that a budget could be set for")
            .about_option("kv-budget");
    }
    if (layout.bytes_whole > 0) {
        // what is there as a whole is there whoever runs, so a smaller budget would be a lie, and a larger one is met
        if (layout.bytes_whole > bytes_limit) {
            throw error(KVFOLD_ERROR_UNSUPPORTED, "\"kv-budget\" is " + std::to_string(bytes_limit) + " bytes, but the KV cache takes " +
                                                      std::to_string(layout.bytes_whole) +
                                                      " bytes from the beginning on this device; lower \"ctx-size\"")
                .compares((int64_t) bytes_limit, (int64_t) layout.bytes_whole)
                .about_option("kv-budget");
        }
        bytes_limit -= layout.bytes_whole;
        if (layout.bytes_whole == layout.bytes_allocated) {
            bytes_limit = 0;
            return;
        }
    }
    bytes_limit = std::min(bytes_limit, layout.bytes_paged); // more is no room
    if (layout.bytes_for(1, 1) > bytes_limit) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"kv-budget\" is " + std::to_string(limits.bytes) + " bytes, but one token takes " +
                                                       std::to_string(layout.bytes_for(1, 1)) + " bytes in whole pages")
            .compares((int64_t) bytes_limit, (int64_t) layout.bytes_for(1, 1))
            .about_option("kv-budget");
    }
    share = (int32_t) std::clamp<uint64_t>(layout.tokens_for(bytes_limit/limits.slots, 0, layout.n_batch), 1, limits.n_slot);
}

// The fewest tokens that can be computed together. A text to embed may have to be computed as a whole.
uint64_t admission::at_once(const server_task & task) const {
    return task.need_sampling() ? layout.tokens_at_once : layout.n_batch;
}

admission::promise admission::promise_for(const server_task & task, size_t n_answers) const {
    const int64_t n_prompt = task.n_tokens();
    int64_t       n_answer = 0;
    promise       what;
    if (task.need_sampling()) {
        what.n_prompt = n_prompt; // texts to embed decide nothing
        const int32_t asked = task.params.n_predict != -1 ? task.params.n_predict : rules.n_predict;
        what.grows = asked < 0;
        // one that could be computed must have room for one token at least; a longer answer is cut to what there is
        const int64_t most = !what.grows ? asked : bytes_limit == 0 ? rules.n_slot
                                                    : (int64_t) layout.tokens_for(bytes_limit, what.n_prompt, at_once(task)) - n_prompt;
        n_answer = !what.grows ? asked : rules.reserve ? std::clamp<int64_t>(most, 1, share) : std::max<int64_t>(most, 1);
    }
    what.tokens = (int32_t) std::min<int64_t>(n_prompt + n_answer, rules.n_slot);
    if (bytes_limit > 0) {
        what.bytes = layout.peak_for(what.n_prompt, what.tokens, at_once(task));
        if (rules.reserve) { // what whole batches take, if that can be
            const uint64_t most = layout.peak_for(what.n_prompt, what.tokens, layout.n_batch);
            what.bytes = std::min(most, std::max(what.bytes, bytes_limit/n_answers));
            what.bytes = std::min(what.bytes, layout.bytes_paged/n_answers); // all of them are no more than there are pages
        }
    }
    return what;
}

void admission::grant(int id_task, promise && what) {
    if (reserves()) {
        promised       += what.bytes;
        cells_promised += what.tokens;
    }
    promises[id_task] = std::move(what);
}

void admission::grant(const server_task & task) {
    for (const server_task & child : task.child_tasks) {
        grant(child.id, promise_for(child, 1 + task.child_tasks.size())); // its prompt is its parent's
    }
    promise own  = promise_for(task, 1 + task.child_tasks.size());
    own.likeness = server.likeness_of(task);
    own.n_own    = (uint32_t) (task.tokens.size() - n_shared(task, own.likeness));
    if (!own.likeness.empty()) {
        own.prompt = task.tokens.clone();
    }
    grant(task.id, std::move(own));
}

// Tokens of its prompt that it begins with since one that was let in before has them, or waits for.
size_t admission::n_shared(const server_task & task, const std::string & likeness) const {
    size_t most = 0;
    for (const auto & [id, each] : promises) {
        if (likeness.empty() || each.likeness != likeness) {
            continue;
        }
        const size_t n = std::min(each.prompt.get_common_prefix(task.tokens), task.tokens.size() - 1);
        if (n > most && server.lends(id, n)) {
            most = n;
        }
    }
    return most;
}

bool admission::can_begin(const server_task & task) const {
    const size_t n_tasks = 1 + task.child_tasks.size();
    if (reserves()) {
        // layers that forget make a request's bytes fewer, not its cells
        const promise own = promise_for(task, n_tasks);
        return is_free(own.bytes*n_tasks) && cells_promised + own.tokens*n_tasks <= std::max<uint64_t>(layout.cells, own.tokens*n_tasks) &&
               server.state_of(task, promises.empty());
    }
    // one that takes more slots than there are is told so by the server core
    if (promises.size() + std::min(n_tasks, rules.slots) > rules.slots) {
        return false;
    }
    std::map<int, uint32_t> granted;
    for (const auto & [id, each] : promises) {
        granted[id] = each.n_own;
    }
    const size_t n_own    = task.tokens.size() - n_shared(task, server.likeness_of(task));
    const auto   has_room = [&](size_t n_state) { return server.has_room(std::max(n_own, n_state), granted); };
    if (!has_room(0)) {
        return false;
    }
    const auto n_state = server.state_of(task, promises.empty());
    return n_state && has_room(*n_state);
}

// What is set aside for several answers is set aside at once; otherwise each of them may run while the others are suspended.
bool admission::refuse_impossible(const server_task & task) {
    if (bytes_limit == 0) {
        return false;
    }
    const promise  own     = promise_for(task, 1 + task.child_tasks.size());
    const bool     several = rules.reserve && task.is_parent();
    const uint64_t n_times = several ? 1 + task.child_tasks.size() : 1;
    if (own.bytes*n_times <= bytes_limit) {
        return false;
    }
    // a larger budget comes with a larger pool
    const uint64_t bytes = n_times*std::max(own.bytes, layout.without_bounds().peak_for(own.n_prompt, own.tokens, at_once(task)));
    const std::string answers = several ? std::to_string(1 + task.child_tasks.size()) + " answers of which " : "";
    server.refuse(task.id, error(KVFOLD_ERROR_BUDGET_EXCEEDED,
                                 "the request may need " + std::to_string(bytes) + " bytes of keys and values (" + answers +
                                     std::to_string(task.n_tokens()) + " tokens of prompt, " +
                                     std::to_string(own.tokens - std::min(own.tokens, task.n_tokens())) +
                                     " of answer), but \"kv-budget\" leaves " + std::to_string(bytes_limit))
                               .compares((int64_t) bytes, (int64_t) bytes_limit)
                               .about_option("kv-budget"));
    return true;
}

bool admission::waits(server_task & task) {
    if (promises.count(task.id)) {
        return false;
    }
    if (refuse_impossible(task)) {
        return true;
    }
    try {
        if (waiting.empty() && can_begin(task)) {
            grant(task);
            return false;
        }
    } catch (const error & why) {
        server.refuse(task.id, why);
        return true;
    }
    const void * const request = server.request_of(task.id);
    const auto         is_same = [&](int id_task) { return request && server.request_of(id_task) == request; };
    const bool counted = std::any_of(waiting.begin(), waiting.end(), [&](const server_task & other) { return is_same(other.id); }) ||
                         std::any_of(promises.begin(), promises.end(), [&](const auto & other) { return is_same(other.first); });
    if (!counted && n_waiting() >= rules.max_queue) {
        server.refuse(task.id, error(KVFOLD_ERROR_QUEUE_FULL, std::to_string(n_waiting()) + " requests wait for room in the KV cache, \"max-queue\" is " +
                                                                  std::to_string(rules.max_queue))
                                   .compares((int64_t) n_waiting(), (int64_t) rules.max_queue)
                                   .about_option("max-queue"));
        return true;
    }
    waiting.push_back(std::move(task));
    count_waiting();
    return true;
}

void admission::gone(int id_task) {
    if (const auto found = promises.find(id_task); found != promises.end()) {
        if (reserves()) {
            promised       -= found->second.bytes;
            cells_promised -= found->second.tokens;
        }
        if (found->second.id_slot >= 0) {
            promised_to_slot[found->second.id_slot] = 0;
        }
        promises.erase(found);
    }
    const auto end = std::remove_if(waiting.begin(), waiting.end(), [&](const server_task & task) { return task.id == id_task; });
    waiting.erase(end, waiting.end());
    admit_waiting();
}

void admission::admit_waiting() {
    std::vector<server_task> ready;
    while (!waiting.empty()) {
        server_task & next = waiting.front();
        try {
            if (!can_begin(next)) {
                break;
            }
            grant(next);
            ready.push_back(std::move(next));
        } catch (const error & why) {
            server.refuse(next.id, why);
        }
        waiting.pop_front();
    }
    count_waiting();
    if (!ready.empty()) {
        server.post(std::move(ready));
    }
}

void admission::count_waiting() {
    std::set<const void *> requests;
    for (const server_task & task : waiting) {
        const void * const request = server.request_of(task.id);
        requests.insert(request ? request : &task);
    }
    waiting_requests = requests.size();
}

// Of tasks that have a slot: the others hold nothing yet. A slot can hold more than its task was promised, of earlier
// ones, until the task's prompt is compared with that.
uint64_t admission::bytes_running(int except_task) const {
    uint64_t bytes = 0;
    for (const auto & [id, each] : promises) {
        if (each.id_slot >= 0 && id != except_task) {
            bytes += std::max(each.bytes, layout.bytes_held(each.id_slot));
        }
    }
    return bytes;
}

uint64_t admission::bytes_held_by_idle(int id_slot) const {
    std::set<llama_seq_id> busy = { id_slot };
    for (const auto & [_, each] : promises) {
        if (each.id_slot >= 0) {
            busy.insert(each.id_slot);
        }
    }
    return layout.bytes_held_without(busy);
}

std::optional<bool> admission::begins(int id_slot, int id_task, uint64_t n_first) {
    const auto found = promises.find(id_task);
    if (found == promises.end() || !reserves()) {
        return true;
    }
    promise &      own    = found->second;
    const uint64_t needed = std::max(own.bytes, layout.bytes_for(n_first, layout.tokens_at_once));
    if (promised - own.bytes + needed > bytes_limit) {
        return std::nullopt;
    }
    if (bytes_held_by_idle(id_slot) + bytes_running(id_task) + std::max(needed, layout.bytes_held(id_slot)) > bytes_limit) {
        return false;
    }
    promised += needed - own.bytes;
    own.bytes                 = needed;
    own.id_slot               = id_slot;
    promised_to_slot[id_slot] = own.bytes;
    return true;
}

int32_t admission::answer_limit(const server_task & task, int32_t limit, int64_t n_generated, const std::function<bool()> & make_room) {
    const auto found = promises.find(task.id);
    if (found == promises.end() || !found->second.grows) {
        return limit;
    }
    promise &     own     = found->second;
    const int32_t allowed = own.tokens - task.n_tokens();
    if (own.tokens >= rules.n_slot) {
        return -1; // what a slot holds is the limit
    }
    if (n_generated < allowed || !reserves()) {
        return allowed;
    }
    const int64_t can_be = layout.tokens_for(bytes_limit - (promised - own.bytes), own.n_prompt, at_once(task));
    const int64_t n_cells = (int64_t) layout.cells - (int64_t) (cells_promised - own.tokens);
    const int64_t tokens = std::min<int64_t>({ (int64_t) own.tokens + share, can_be, n_cells, rules.n_slot });
    if (tokens <= own.tokens) {
        return allowed; // all of the budget is promised: the answer ends here, for its length
    }
    const uint64_t bytes = std::max(own.bytes, layout.peak_for(own.n_prompt, tokens, at_once(task)));
    while (bytes_held_by_idle(own.id_slot) + bytes_running(task.id) + bytes > bytes_limit && make_room()) {}
    promised += bytes - own.bytes;
    own.bytes  = bytes;
    cells_promised += tokens - own.tokens;
    own.tokens = (int32_t) tokens;
    if (own.id_slot >= 0) {
        promised_to_slot[own.id_slot] = bytes;
    }
    return own.tokens - task.n_tokens();
}

} // namespace kvfold
