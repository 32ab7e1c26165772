#pragma once

#include "process/error.h"

#include <string>

namespace kvfold {

// See kvfold_schema_to_grammar().
json schema_to_grammar(const std::string & schema);

} // namespace kvfold
