#pragma once

#include "json.h"

namespace kvfold {

// The answer of kvfold_build_info().
common_json describe_build();

} // namespace kvfold
