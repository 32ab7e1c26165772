#include "process/error.h"

#include "process/at_exit.h"
#include "process/kvfold_log.h"

#include "ggml.h"
#include "llama.h"

#include <clocale>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#if defined(__APPLE__)
#    include <xlocale.h>
#endif

namespace kvfold {

static thread_local bool throw_on_abort = false;

bool abort_guard::set(bool throws) {
    return std::exchange(throw_on_abort, throws);
}

// "FOLDER/FILE:LINE: what" without the folder, which is one of the machine that compiled it.
static std::string without_folder(const std::string & message) {
    const size_t colon  = message.find(": ");
    const size_t folder = message.find_last_of("/\\", colon);
    return colon == std::string::npos || folder == std::string::npos ? message : message.substr(folder + 1);
}

static void on_abort(const char * text) {
    const std::string message = without_folder(text);
    log_emit(KVFOLD_LOG_ERROR, message);
    if (throw_on_abort && std::uncaught_exceptions() == 0) {
        throw aborted(message);
    }
}

#if defined(_WIN32)
c_locale_scope::c_locale_scope() {}
c_locale_scope::~c_locale_scope() {}
#else
c_locale_scope::c_locale_scope() {
    static const locale_t c_numbers = newlocale(LC_NUMERIC_MASK, "C", (locale_t) nullptr);
    if (c_numbers) {
        previous = (void *) uselocale(c_numbers);
    }
}

c_locale_scope::~c_locale_scope() {
    if (previous) {
        uselocale((locale_t) previous);
    }
}
#endif

void init_library() {
    static std::once_flag once;
    std::call_once(once, [] {
        log_install();
        ggml_set_abort_callback(on_abort);
        llama_backend_init();
        register_exit_handler();
    });
}

char * to_c_string(const std::string & text) {
    char * copy = (char *) malloc(text.size() + 1);
    if (!copy) {
        throw std::bad_alloc();
    }
    memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
}

int32_t report(const error & e, char ** out) noexcept {
    if (!out) {
        return e.status;
    }
    try {
        json object = { { "status", (int) e.status }, { "message", e.message } };
        if (e.value) {
            object["value"] = *e.value;
        }
        if (e.limit) {
            object["limit"] = *e.limit;
        }
        if (!e.option.empty()) {
            object["option"] = e.option;
        }
        if (!e.path.empty()) {
            object["path"] = e.path;
        }
        *out = to_c_string(object.dump_safe());
    } catch (...) {
        *out = nullptr;
    }
    return e.status;
}

error current_error() {
    try {
        throw;
    } catch (const error & e) {
        return e;
    } catch (const std::bad_alloc &) {
        return error(KVFOLD_ERROR_OUT_OF_MEMORY, "out of memory");
    } catch (const aborted & e) {
        return error(KVFOLD_ERROR_INTERNAL, "llama.cpp gave up: " + e.message);
    } catch (const std::exception & e) {
        return error(KVFOLD_ERROR_INTERNAL, e.what());
    } catch (...) {
        return error(KVFOLD_ERROR_INTERNAL, "an exception that is no std::exception");
    }
}

} // namespace kvfold
