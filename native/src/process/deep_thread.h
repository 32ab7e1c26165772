// A thread with a stack of known size: template engine, schema converter and grammar parser of llama.cpp are recursive, and
// the thread of a caller may have been given very little.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#if defined(_WIN32)
#    include <thread>
#else
#    include <pthread.h>
#endif

namespace kvfold {

struct deep_thread {
    static constexpr uint64_t addresses = 256u << 20; // of its stack

    deep_thread() = default;
    ~deep_thread() { join(); }
    deep_thread(const deep_thread &)             = delete;
    deep_thread & operator=(const deep_thread &) = delete;

    // Throws KVFOLD_ERROR_OUT_OF_MEMORY when there is no thread to be had. `work` must not throw.
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

// Work that gets such a thread or, where addresses are too few for one more, waits for that of other work to be done with that.
struct deep_work {
    deep_work() = default;
    ~deep_work() { join(); }
    deep_work(const deep_work &)             = delete;
    deep_work & operator=(const deep_work &) = delete;

    // Throws KVFOLD_ERROR_OUT_OF_MEMORY when there is no thread to be had, nor one to wait for. `work` must not throw, nor wait for work that
    // is started later.
    void start(std::function<void()> work);

    // Takes back what has not begun; false if it has.
    bool withdraw();

    // Takes it back or waits for its end, if any was started.
    void join();

  private:
    enum { idle, waits, runs } state = idle; // guarded by the mutex of `threads`
    std::function<void()> work;

    struct threads;
};

} // namespace kvfold
