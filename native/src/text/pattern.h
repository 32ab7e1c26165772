// The "pattern" of a JSON schema in the words of llama.cpp's converter, which reads few of them and forgets that a quote inside a JSON
// string is written with a backslash.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace kvfold {

struct json_pattern {
    std::string text;
    size_t      least = 0, most = 0; // characters of what it matches; SIZE_MAX is any number
};

// A regular expression that no grammar can hold.
struct pattern_unsupported : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Throws pattern_unsupported, or regex_refused for what is no regular expression.
json_pattern exact_pattern(const std::string & text);

} // namespace kvfold
