#include "serving/answer_usage.h"

#include "server-task.h"

namespace kvfold {

void answer_usage::expect(const std::vector<server_task> & tasks) {
    for (const server_task & task : tasks) {
        n_expected += 1 + task.child_tasks.size();
        for (const server_task & child : task.child_tasks) {
            children.insert(child.id);
        }
    }
}

void answer_usage::add(const server_task_result & result) {
    const auto * const answer = dynamic_cast<const server_task_result_cmpl_final *>(&result);
    if (!answer) {
        return;
    }
    n_ended++;
    n_completion += answer->n_decoded;
    if (children.count(answer->id) == 0) {
        n_prompt += answer->n_prompt_tokens;
        n_cached += answer->n_prompt_tokens_cache;
    }
}

bool answer_usage::put(json & object) const {
    if (!object.is_object() || !object.contains("usage") || !object.at("usage").is_object() || !object.at("usage").contains("completion_tokens")) {
        return true;
    }
    if (n_ended < n_expected) {
        object.erase("usage");
        return !object.contains("choices") || !object.at("choices").empty();
    }
    json & usage = object["usage"];
    usage["completion_tokens"]     = n_completion;
    usage["prompt_tokens"]         = n_prompt;
    usage["total_tokens"]          = n_prompt + n_completion;
    usage["prompt_tokens_details"] = json({ { "cached_tokens", n_cached } });
    return true;
}

std::string answer_usage::in_answer(const std::string & answer) const {
    if (!of_several() || n_ended == 0 || answer.empty() || answer.front() != '{') { // texts to embed, or a list of answers
        return answer;
    }
    json object = json::parse_no_throw(answer);
    put(object);
    return object.is_discarded() ? answer : object.dump_safe();
}

std::string answer_usage::in_events(const std::string & events) const {
    static const std::string prefix = "data: {", end_of_event = "\n\n";
    if (!of_several() || events.find("\"usage\"") == std::string::npos) {
        return events;
    }
    std::string all;
    for (size_t start = 0; start < events.size();) {
        const size_t found = events.find(end_of_event, start);
        const size_t end   = found == std::string::npos ? events.size() : found + end_of_event.size();
        std::string  event = events.substr(start, end - start);
        start              = end;
        if (event.compare(0, prefix.size(), prefix) == 0 && event.find("\"usage\"") != std::string::npos) {
            json object = json::parse_no_throw(event.substr(prefix.size() - 1));
            if (!put(object)) {
                continue;
            }
            if (object.is_object()) {
                event = "data: " + object.dump_safe() + end_of_event;
            }
        }
        all += event;
    }
    return all;
}

} // namespace kvfold
