// Every line that llama.cpp, ggml, common_log and this library write goes through here, and nowhere else.
#pragma once

#include "kvfold.h"

#include <string>
#include <vector>

namespace kvfold {

// Routes the log of libllama and ggml here; once per process.
void log_install();

void log_set(kvfold_log_callback callback, int32_t min_level, void * user);

// No line is handed over any more. Does not wait for callbacks that are running.
void log_mute();

void log_emit(int32_t level, const std::string & line);

// While one lives, what llama.cpp writes on this thread is DEBUG: it is about one request, and what goes wrong with that is
// told to its caller.
struct request_log_scope {
    request_log_scope();
    ~request_log_scope();
    request_log_scope(const request_log_scope &)             = delete;
    request_log_scope & operator=(const request_log_scope &) = delete;

  private:
    bool outer;
};

// Collects the errors that are logged on this thread while it lives: llama.cpp reports why a load failed only in its log.
struct error_lines {
    error_lines();
    ~error_lines();
    error_lines(const error_lines &)             = delete;
    error_lines & operator=(const error_lines &) = delete;

    // The first error, which names the cause; later ones only say that the caller failed, too.
    std::string cause(const std::string & otherwise) const;
    bool        contain(const char * text) const;

    std::vector<std::string> lines;

  private:
    error_lines * outer;
};

} // namespace kvfold
