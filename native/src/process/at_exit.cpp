#include "process/at_exit.h"

#include "process/kvfold_log.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>

namespace kvfold {

struct registry {
    std::mutex                                          mutex;
    std::condition_variable                             changed;
    std::map<const busy_scope *, std::function<void()>> busy;
};

// never destroyed, threads may still use it while the process goes down
static registry & all() {
    static registry * const only = new registry();
    return *only;
}

static std::atomic<bool> exiting{ false };

bool process_is_exiting() {
    return exiting.load(std::memory_order_relaxed);
}

busy_scope::busy_scope(std::function<void()> stop) {
    {
        const std::lock_guard<std::mutex> lock(all().mutex);
        all().busy.emplace(this, stop);
    }
    if (process_is_exiting()) {
        stop(); // on_exit() may have looked already
    }
}

busy_scope::~busy_scope() {
    const std::lock_guard<std::mutex> lock(all().mutex);
    all().busy.erase(this);
    all().changed.notify_all();
}

static void on_exit() {
    exiting = true;
    log_mute(); // the callback's owner may be gone
    std::unique_lock<std::mutex> lock(all().mutex);
    for (const auto & [_, stop] : all().busy) {
        stop();
    }
    // a thread that is stuck, e.g. in a log callback of a host that no longer answers, must not keep the process alive
    static std::chrono::milliseconds patience(2000);
    if (!all().changed.wait_for(lock, patience, [] { return all().busy.empty(); })) {
        patience = patience.zero(); // of the handler that was registered before this one
    }
}

void register_exit_handler() {
    std::atexit(on_exit);
}

} // namespace kvfold
