// Types of keys and values by the names that ggml has for them.
#pragma once

#include "ggml.h"

#include <stdexcept>
#include <string>

inline ggml_type type_of(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * of = ggml_type_name((ggml_type) i);
        if (of && name == of) {
            return (ggml_type) i;
        }
    }
    throw std::invalid_argument("unknown type " + name);
}
