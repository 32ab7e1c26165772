// What llama-server takes in a request and then ignores, clamps or takes for something else.
#pragma once

#include "process/error.h"

#include <string>

namespace kvfold {

// Throws KVFOLD_ERROR_INVALID_ARGUMENT for a number out of its range, too many tools or messages, a role that no template
// knows, a slot or an adapter that there is not. `slots` and `adapters` are how many there are.
void check_request(const json & body, int slots, int adapters);

} // namespace kvfold
