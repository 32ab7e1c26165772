// Runs work on a deep_thread while the calling thread waits and answers its progress reports.
#pragma once

#include "kvfold.h"

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>

namespace kvfold {

struct progress_relay {
    progress_relay(kvfold_progress_callback callback, void * user) : callback(callback), user(user) {}

    // Returns when `work` has; throws what it threw.
    void run(const std::function<void()> & work);

    // A kvfold_progress_callback for the work, with the relay as its `user`: calls the caller's callback on the caller's thread.
    static int32_t report(float fraction, void * relay);

  private:
    const kvfold_progress_callback callback;
    void * const                   user;

    std::mutex              mutex;
    std::condition_variable changed;
    std::optional<float>    question; // a fraction that the caller's thread has not seen yet
    int32_t                 answer = 1;
    bool                    done   = false;
};

} // namespace kvfold
