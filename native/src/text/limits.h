// What templates and grammars of llama.cpp may cost: hooks/text-limits.h calls at every step, and what they hold is counted where it
// is allocated. All of it belongs to one thread, so nothing is shared and nothing waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace kvfold {

struct limit_exceeded : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct template_budget {
    int64_t steps, allocations, moves; // that are left; bytes moved
    int64_t held;                      // bytes
    bool    exceeded;
};

// Templates that run on this thread while it lives have one budget, which grows with what they are given. Without one a thread has a single
// budget for all its life. `stop` is asked from time to time and ends them.
struct template_scope {
    explicit template_scope(size_t input_bytes = 0, std::function<bool()> stop = {});
    ~template_scope();
    template_scope(const template_scope &)             = delete;
    template_scope & operator=(const template_scope &) = delete;

    // Whether a template was ended for what it cost, or since `stop` said so.
    bool exceeded() const;

  private:
    const template_budget         outer;
    std::function<bool()>         stop;
    std::function<bool()> * const outer_stop;
};

} // namespace kvfold
