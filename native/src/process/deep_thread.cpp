#include "process/deep_thread.h"

#include "process/error.h"

#include <memory>
#include <string>
#include <system_error>

namespace kvfold {

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

// address space only, pages are used as the stack grows; enough for what json_text.cpp and the limits in text/ let through
static constexpr size_t stack_bytes = 256u << 20;

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
        throw error(KVFOLD_ERROR_OUT_OF_MEMORY, "cannot start a thread, which takes " + std::to_string(stack_bytes >> 20) +
                                                    " MiB of addresses: " + std::generic_category().message(code));
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

} // namespace kvfold
