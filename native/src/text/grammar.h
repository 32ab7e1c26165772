// Looks at a grammar before llama.cpp does, on the thread of whoever asks for it: what would end or stop the worker is an error that
// names the rule and the place.
#pragma once

#include "process/error.h"

#include <string>
#include <vector>

struct llama_vocab;

namespace kvfold {

// Throws KVFOLD_ERROR_INVALID_ARGUMENT. `vocab` may be null for a grammar that names no tokens.
void check_grammar(const std::string & text, const llama_vocab * vocab);

// What begins a lazy grammar: `patterns`, which are regular expressions, and other texts, `all` together.
void check_triggers(const std::vector<std::string> & patterns, size_t all);

} // namespace kvfold
