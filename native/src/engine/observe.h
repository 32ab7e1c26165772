// What kvfold_observe() is asked for.
#pragma once

#include "process/error.h"

#include <cstdint>
#include <string>

namespace kvfold {

struct observation {
    enum kind { HIDDEN_STATES, KEYS_VALUES, ATTENTION_MASS, KEPT_TOKENS };

    kind    what    = HIDDEN_STATES;
    int32_t queries = 32; // of ATTENTION_MASS
    int32_t sinks   = 4;
    int32_t recent  = 1024;
};

// Throws KVFOLD_ERROR_INVALID_ARGUMENT.
observation parse_observation(const std::string & text);

} // namespace kvfold
