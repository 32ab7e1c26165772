// A process that never closes anything exits by itself, with its own exit code, whatever is running.

#include "kvfold_test.h"

#include <thread>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace kvfold_test;

// In a process of its own: leaves in the middle of `n_requests` answers.
static void leave(int n_requests, int milliseconds) {
    auto * e = new engine({ { "model", tiny_model() }, { "ctx-size", 512 }, { "parallel", 2 }, { "threads", 2 } });
    for (int i = 0; i < n_requests; i++) {
        const json body = { { "prompt", "bada" }, { "n_predict", 500 }, { "ignore_eos", true }, { "stream", i % 2 == 0 } };
        auto *     r    = new request(*e, "/completion", body);
        std::thread([r] {
            while (r->next().status == KVFOLD_OK) {
            }
        }).detach();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    exit(42);
}

static int run_and_wait(int n_requests, int milliseconds) {
    const pid_t child = fork();
    if (child == 0) {
        leave(n_requests, milliseconds);
    }
    for (int waited = 0; waited < 2000; waited++) {
        int status = 0;
        if (waitpid(child, &status, WNOHANG) == child) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        }
        usleep(10000);
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    return -1000;
}

int main(int argc, char ** argv) {
    const int rounds = argc > 1 ? atoi(argv[1]) : 24;
    for (int round = 0; round < rounds; round++) {
        CHECK_EQUAL(run_and_wait(round % 4, round % 7), 42);
    }
    return report();
}
