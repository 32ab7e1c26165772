// JSON that comes from a caller, checked for what would send llama.cpp's recursive code off the end of its stack.
#pragma once

#include "process/error.h"

#include <string>

namespace kvfold {

// Parses `text`, which must be an object; `what` names it in the error. Throws KVFOLD_ERROR_INVALID_ARGUMENT.
json parse_object(const std::string & text, const char * what);

// A body of a request: also limits the grammars, schemas and patterns inside.
json parse_body(const std::string & text, const char * what = "the body of a request");

// A Jinja template, the caller's or a model's own.
void check_template(const std::string & text);

// JSON in which half a surrogate pair, as is left of an emoji where a text was cut, is U+FFFD; parsers reject it otherwise.
std::string with_whole_characters(std::string text);

} // namespace kvfold
