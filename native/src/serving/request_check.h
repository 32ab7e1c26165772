// What llama-server takes in a request and then ignores, clamps or takes for something else.
#pragma once

#include "process/error.h"

#include <string>

namespace kvfold {

// How many there are.
struct engine_counts {
    int slots, adapters, tokens; // of the vocabulary
};

// Throws KVFOLD_ERROR_INVALID_ARGUMENT for a field of another type than the one it has, a number out of its range, too many tools or messages,
// a role that no template knows, a part of a message that would be left out, a slot, an adapter or a token that there is not.
void check_request(const json & body, const std::string & route, const engine_counts & engine);

} // namespace kvfold
