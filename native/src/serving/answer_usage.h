// What several answers to one request took. llama.cpp tells it of the first of them, or of each where they are streamed;
// OpenAI's API of all together, once.
#pragma once

#include "process/error.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

struct server_task;
struct server_task_result;

namespace kvfold {

// Of one request; used by one thread at a time.
class answer_usage {
  public:
    void expect(const std::vector<server_task> & tasks);
    void add(const server_task_result & result);

    bool of_several() const { return n_expected > 1; }

    // The whole answer, or events as they are sent: with the sums in place of what was told, behind the last answer.
    std::string in_answer(const std::string & answer) const;
    std::string in_events(const std::string & events) const;

  private:
    // False if the event tells nothing else, and it is not time.
    bool put(json & object) const;

    std::unordered_set<int> children; // by task; their prompts are their parents'

    size_t  n_expected   = 0;
    size_t  n_ended      = 0;
    int64_t n_prompt     = 0; // tokens
    int64_t n_cached     = 0;
    int64_t n_completion = 0;
};

} // namespace kvfold
