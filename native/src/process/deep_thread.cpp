#include "process/deep_thread.h"

#include "process/at_exit.h"
#include "process/error.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>

#if defined(__linux__)
#    include <sys/resource.h>
#    include <unistd.h>
#endif

namespace kvfold {

// address space only, pages are used as the stack grows; enough for what json_text.cpp and the limits in text/ let through
static constexpr uint64_t stack_bytes = deep_thread::addresses;

// Addresses that the process may still map; nothing where no limit is known.
static std::optional<uint64_t> addresses_left() {
#if defined(__linux__)
    rlimit   limit;
    uint64_t pages = 0;
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && std::ifstream("/proc/self/statm") >> pages) {
        const uint64_t taken = pages*(uint64_t) sysconf(_SC_PAGESIZE);
        return limit.rlim_cur - std::min<uint64_t>(taken, limit.rlim_cur);
    }
#endif
    return std::nullopt;
}

#if defined(_WIN32)

void deep_thread::start(std::function<void()> work) {
    thread  = std::thread(std::move(work));
    running = true;
}

void deep_thread::join() {
    if (running) {
        running = false;
        thread.join();
    }
}

#else

static void * run(void * argument) {
    const std::unique_ptr<std::function<void()>> work(static_cast<std::function<void()> *>(argument));
    (*work)();
    return nullptr;
}

void deep_thread::start(std::function<void()> work) {
    auto           argument = std::make_unique<std::function<void()>>(std::move(work));
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_bytes);
    const int code = pthread_create(&thread, &attributes, run, argument.get());
    pthread_attr_destroy(&attributes);
    if (code != 0) {
        const std::string takes = "cannot start a thread, which takes " + std::to_string(stack_bytes >> 20) + " MiB of addresses";
        const auto        left  = addresses_left();
        if (left && *left < stack_bytes + (1u << 20)) { // and a little to begin with
            throw error(KVFOLD_ERROR_OUT_OF_MEMORY, takes + ", but the process may map " + std::to_string(*left >> 20) + " MiB more (RLIMIT_AS)")
                .compares((int64_t) stack_bytes, (int64_t) *left);
        }
        throw error(KVFOLD_ERROR_OUT_OF_MEMORY, takes + ": " + std::generic_category().message(code));
    }
    argument.release();
    running = true;
}

void deep_thread::join() {
    if (running) {
        running = false;
        pthread_join(thread, nullptr);
    }
}

#endif

// Of all engines of the process. Whoever waits holds nothing that those who run wait for.
struct deep_work::threads {
    std::mutex                                mutex;
    std::condition_variable                   changed;
    std::deque<deep_work *>                   waiting;
    size_t                                    running = 0;
    std::vector<std::unique_ptr<deep_thread>> ended; // whose stacks are still there

    static threads & of_process() {
        static threads * const all = new threads(); // a thread may end after static objects
        return *all;
    }

    // As much again is left to whatever else the process maps, such as an engine that is opened.
    static bool has_room_for_another() {
        const auto left = addresses_left();
        return !left || *left >= 2*stack_bytes;
    }

    void reap() {
        std::vector<std::unique_ptr<deep_thread>> gone;
        {
            const std::lock_guard<std::mutex> lock(mutex);
            gone.swap(ended);
        }
    }

    deep_work * take() {
        deep_work * const next = waiting.front();
        waiting.pop_front();
        next->state = runs;
        return next;
    }

    // With the lock.
    void grow() {
        while (!waiting.empty() && (running == 0 || has_room_for_another())) {
            auto          thread = std::make_unique<deep_thread>();
            deep_thread * self   = thread.get();
            try {
                self->start([this, self, first = waiting.front()] { serve(first, self); });
            } catch (const error &) {
                if (running == 0) {
                    throw;
                }
                return;
            }
            take();
            running++;
            thread.release();
        }
    }

    void serve(deep_work * first, deep_thread * self) {
        for (deep_work * each = first; each;) {
            each->work();
            const std::lock_guard<std::mutex> lock(mutex);
            each->work  = nullptr;
            each->state = idle;
            if (waiting.empty() || process_is_exiting()) {
                each = nullptr;
                running--;
                ended.emplace_back(self);
            } else {
                each = take();
            }
            changed.notify_all();
        }
    }
};

void deep_work::start(std::function<void()> given) {
    threads & all = threads::of_process();
    all.reap();
    const std::lock_guard<std::mutex> lock(all.mutex);
    work  = std::move(given);
    state = waits;
    all.waiting.push_back(this);
    try {
        all.grow();
    } catch (...) {
        all.waiting.pop_back();
        state = idle;
        throw;
    }
}

bool deep_work::withdraw() {
    threads & all = threads::of_process();
    const std::lock_guard<std::mutex> lock(all.mutex);
    if (state != waits) {
        return false;
    }
    all.waiting.erase(std::find(all.waiting.begin(), all.waiting.end(), this));
    state = idle;
    return true;
}

void deep_work::join() {
    threads & all = threads::of_process();
    if (!withdraw()) {
        std::unique_lock<std::mutex> lock(all.mutex);
        all.changed.wait(lock, [&] { return state == idle; });
    }
    all.reap();
}

} // namespace kvfold
