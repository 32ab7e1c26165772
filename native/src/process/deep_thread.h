// A thread with a stack of known size: template engine, schema converter and grammar parser of llama.cpp are recursive, and
// the thread of a caller may have been given very little.
#pragma once

#include <functional>

#if defined(_WIN32)
#    include <thread>
#else
#    include <pthread.h>
#endif

namespace kvfold {

struct deep_thread {
    deep_thread() = default;
    ~deep_thread() { join(); }
    deep_thread(const deep_thread &)             = delete;
    deep_thread & operator=(const deep_thread &) = delete;

    // Throws when there is no thread to be had. `work` must not throw.
    void start(std::function<void()> work);

    // Waits for the end of the work, if any was started.
    void join();

    bool joinable() const { return running; }

  private:
    bool running = false;
#if defined(_WIN32)
    std::thread thread;
#else
    pthread_t thread = {};
#endif
};

} // namespace kvfold
