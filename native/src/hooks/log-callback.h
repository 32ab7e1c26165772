// Where patched code of llama.cpp hands its log lines. Implemented in process/log.cpp.
#pragma once

#include "ggml.h"

#include <cstdarg>

void kvfold_log_line(enum ggml_log_level level, const char * format, va_list args);
