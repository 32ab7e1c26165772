#include "process/kvfold_log.h"

#include "hooks/log-callback.h"
#include "hooks/stderr-to-log.h"

#include "ggml.h"
#include "llama.h"
#include "log.h"

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <mutex>
#include <shared_mutex>

#undef fprintf
#undef printf

namespace kvfold {

// Lines are handed over under a shared lock, so that no call into an old callback is left when log_set() returns.
static std::shared_mutex   sink_mutex;
static kvfold_log_callback sink           = nullptr;
static void *              sink_user      = nullptr;
static std::atomic<int>    sink_min_level = KVFOLD_LOG_ERROR + 1;

static thread_local error_lines * collector = nullptr;
static thread_local bool          of_request = false;

void log_emit(int32_t level, const std::string & line) {
    if (level >= KVFOLD_LOG_ERROR && collector) {
        collector->lines.push_back(line);
    }
    if (level < sink_min_level.load(std::memory_order_relaxed)) {
        return;
    }
    std::shared_lock<std::shared_mutex> lock(sink_mutex);
    if (sink) {
        sink(level, line.c_str(), sink_user);
    }
}

// Cuts what a thread writes into lines: some callers write one line in several pieces.
struct line_buffer {
    std::string text;
    int32_t     level = KVFOLD_LOG_INFO;

    void add(int32_t piece_level, bool continues, const char * piece) {
        if (!continues) {
            flush();
        }
        if (text.empty()) {
            level = piece_level;
        }
        text += piece;
        size_t start = 0;
        for (size_t end; (end = text.find('\n', start)) != std::string::npos; start = end + 1) {
            emit(text.substr(start, end - start));
        }
        text.erase(0, start);
    }

    void flush() {
        if (!text.empty()) {
            emit(text);
            text.clear();
        }
    }

    void emit(const std::string & line) {
        if (line.find_first_not_of(" .\r\t") != std::string::npos) {
            log_emit(level, line);
        }
    }
};

static thread_local line_buffer buffer;

static int32_t to_level(enum ggml_log_level level) {
    if (of_request) {
        return KVFOLD_LOG_DEBUG;
    }
    switch (level) {
        case GGML_LOG_LEVEL_DEBUG: return KVFOLD_LOG_DEBUG;
        case GGML_LOG_LEVEL_WARN:  return KVFOLD_LOG_WARN;
        case GGML_LOG_LEVEL_ERROR: return KVFOLD_LOG_ERROR;
        default:                   return KVFOLD_LOG_INFO;
    }
}

// libllama and ggml call "info" what llama-server shows only on request, see common_log_get_verbosity().
static void on_llama_log(enum ggml_log_level level, const char * text, void *) {
    const int32_t own = level == GGML_LOG_LEVEL_INFO ? KVFOLD_LOG_DEBUG : to_level(level);
    buffer.add(own, level == GGML_LOG_LEVEL_CONT, text);
}

static int verbosity(int32_t min_level) {
    switch (min_level) {
        case KVFOLD_LOG_DEBUG: return LOG_LEVEL_DEBUG;
        case KVFOLD_LOG_INFO:  return LOG_LEVEL_INFO;
        case KVFOLD_LOG_WARN:  return LOG_LEVEL_WARN;
        default:               return LOG_LEVEL_ERROR; // always needed, see error_lines
    }
}

void log_install() {
    common_log_set_verbosity_thold(verbosity(sink_min_level));
    llama_log_set(on_llama_log, nullptr);
}

void log_set(kvfold_log_callback callback, int32_t min_level, void * user) {
    std::unique_lock<std::shared_mutex> lock(sink_mutex);
    sink           = callback;
    sink_user      = user;
    sink_min_level = callback ? min_level : KVFOLD_LOG_ERROR + 1;
    common_log_set_verbosity_thold(verbosity(sink_min_level));
}

void log_mute() {
    sink_min_level = KVFOLD_LOG_ERROR + 1;
}

request_log_scope::request_log_scope() : outer(of_request) {
    of_request = true;
}

request_log_scope::~request_log_scope() {
    of_request = outer;
}

error_lines::error_lines() : outer(collector) {
    collector = this;
}

error_lines::~error_lines() {
    collector = outer;
}

std::string error_lines::cause(const std::string & otherwise) const {
    return lines.empty() ? otherwise : lines.front();
}

bool error_lines::contain(const char * text) const {
    return std::any_of(lines.begin(), lines.end(), [&](const std::string & line) { return line.find(text) != std::string::npos; });
}

static std::string format(const char * pattern, va_list args) {
    va_list copy;
    va_copy(copy, args);
    const int length = vsnprintf(nullptr, 0, pattern, copy);
    va_end(copy);
    std::string text(std::max(length, 0) + 1, '\0');
    vsnprintf(text.data(), text.size(), pattern, args);
    text.pop_back();
    return text;
}

} // namespace kvfold

void kvfold_log_line(enum ggml_log_level level, const char * pattern, va_list args) {
    kvfold::buffer.add(kvfold::to_level(level), level == GGML_LOG_LEVEL_CONT, kvfold::format(pattern, args).c_str());
}

int kvfold_fprintf(FILE * stream, const char * pattern, ...) {
    va_list args;
    va_start(args, pattern);
    int written = 0;
    if (stream == stdout || stream == stderr) {
        kvfold::buffer.add(KVFOLD_LOG_WARN, true, kvfold::format(pattern, args).c_str());
    } else {
        written = vfprintf(stream, pattern, args);
    }
    va_end(args);
    return written;
}
