// JSON schemas as llama.cpp's converter keeps them to the letter. It reads part of each schema and passes over the rest, so that an
// answer may break the schema it was asked for; here a schema is rewritten in the words that it does read, or refused by keyword and place.
#pragma once

#include "process/error.h"

#include <string>

namespace kvfold {

// An equal schema, or one with fewer instances that are all valid: objects have no properties but those that are named. `where` begins
// the places in errors and `names` the names of what it defines, which must differ within one grammar. Throws KVFOLD_ERROR_INVALID_ARGUMENT for what contradicts itself and KVFOLD_ERROR_UNSUPPORTED for what no grammar
// holds; without `strict` the latter is left out and logged.
json exact_schema(const json & schema, const std::string & where, bool strict, const std::string & names = "");

// Rewrites all schemas of a request's body: of its answer strictly, of its tools' parameters where a tool asks for that ("strict").
// True if there was one.
bool rewrite_schemas(json & body);

} // namespace kvfold
