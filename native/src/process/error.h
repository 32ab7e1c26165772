// The one exception type of this library, and what turns any exception into a status at the C boundary.
#pragma once

#include "kvfold.h"

#include "json.h"

#include <exception>
#include <optional>
#include <string>
#include <utility>

namespace kvfold {

using json = common_json;

struct error : std::exception {
    kvfold_status          status;
    std::string            message;
    std::optional<int64_t> value; // what was asked for
    std::optional<int64_t> limit; // what is possible
    std::string            option;
    std::string            path;

    error(kvfold_status status, std::string message) : status(status), message(std::move(message)) {}

    error && compares(int64_t value, int64_t limit) && {
        this->value = value;
        this->limit = limit;
        return std::move(*this);
    }

    error && about_option(std::string name) && {
        option = std::move(name);
        return std::move(*this);
    }

    error && about_path(std::string name) && {
        path = std::move(name);
        return std::move(*this);
    }

    const char * what() const noexcept override { return message.c_str(); }
};

// A GGML_ABORT or GGML_ASSERT that abort_guard turned into an exception.
struct aborted : std::exception {
    std::string message;

    explicit aborted(std::string message) : message(std::move(message)) {}

    const char * what() const noexcept override { return message.c_str(); }
};

// While one lives, GGML_ABORT on this thread throws `aborted` instead of ending the process. For code that runs on one thread
// and unwinds cleanly, i.e. reading files and requests. Around a graph that is being computed it leaves the graph's other
// threads waiting for this one, so that whoever catches it must not touch, nor free, what they compute with.
struct abort_guard {
    abort_guard() : outer(set(true)) {}
    ~abort_guard() { set(outer); }
    abort_guard(const abort_guard &)             = delete;
    abort_guard & operator=(const abort_guard &) = delete;

    // For a scope of another kind; returns what it was.
    static bool set(bool throws);

  private:
    const bool outer;
};

// Makes numbers parse and print with '.' on this thread, whatever locale the host process has chosen.
struct c_locale_scope {
    c_locale_scope();
    ~c_locale_scope();
    c_locale_scope(const c_locale_scope &)             = delete;
    c_locale_scope & operator=(const c_locale_scope &) = delete;

  private:
    void * previous = nullptr;
};

// Sets up logging, the abort callback and the backends of llama.cpp, once per process.
void init_library();

// A copy for the caller to free with kvfold_free(); throws std::bad_alloc.
char * to_c_string(const std::string & text);

// Writes the error to *out, if the caller wants it, and returns its status.
int32_t report(const error & e, char ** out) noexcept;

// The current exception as an error; for use inside a catch block.
error current_error();

// Runs the body of an exported function: whatever it throws becomes a status and a JSON object.
template <typename F> int32_t at_boundary(char ** out, F && body) noexcept {
    if (out) {
        *out = nullptr;
    }
    try {
        init_library();
        return body();
    } catch (...) {
        return report(current_error(), out);
    }
}

} // namespace kvfold
