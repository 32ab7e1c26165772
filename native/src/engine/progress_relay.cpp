#include "engine/progress_relay.h"

#include "process/deep_thread.h"

#include <exception>

namespace kvfold {

void progress_relay::run(const std::function<void()> & work) {
    std::exception_ptr failure;
    deep_thread        thread;
    thread.start([&] {
        try {
            work();
        } catch (...) {
            failure = std::current_exception();
        }
        const std::lock_guard<std::mutex> lock(mutex);
        done = true;
        changed.notify_all();
    });
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
        changed.wait(lock, [&] { return question || done; });
        if (!question) {
            break;
        }
        const float fraction = *question;
        lock.unlock();
        const int32_t verdict = callback(fraction, user);
        lock.lock();
        answer = verdict;
        question.reset();
        changed.notify_all();
    }
    lock.unlock();
    thread.join();
    if (failure) {
        std::rethrow_exception(failure);
    }
}

int32_t progress_relay::report(float fraction, void * relay) {
    auto &                       self = *static_cast<progress_relay *>(relay);
    std::unique_lock<std::mutex> lock(self.mutex);
    self.question = fraction;
    self.changed.notify_all();
    self.changed.wait(lock, [&] { return !self.question; });
    return self.answer;
}

} // namespace kvfold
