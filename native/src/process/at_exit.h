// A process may exit while engines are open; then threads of this library must be at rest before its static objects, and
// those of llama.cpp, are destroyed.
#pragma once

#include <functional>

namespace kvfold {

// Lives while a thread runs code that an exit must not overtake. When the process exits, `stop` is called from the exiting
// thread, which then waits for the scope to end, though not for ever.
struct busy_scope {
    explicit busy_scope(std::function<void()> stop);
    ~busy_scope();
    busy_scope(const busy_scope &)             = delete;
    busy_scope & operator=(const busy_scope &) = delete;
};

bool process_is_exiting();

// Handlers run in the reverse order of their registration and of the construction of static objects. Call again when
// something has constructed more of them.
void register_exit_handler();

} // namespace kvfold
