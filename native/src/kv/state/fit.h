// What the files of a state need of the context that it goes into.
#pragma once

#include "process/error.h"

#include <string>
#include <vector>

class  llama_kv_cache;
struct llama_context;

namespace kvfold {

// In the order in which llama.cpp writes them; empty for another kind of memory.
std::vector<const llama_kv_cache *> caches_of(const llama_context * context);

// The first line that differs, in words.
std::string difference(const std::string & saved, const std::string & own);

error bad_state(const std::string & path, const std::string & why);

} // namespace kvfold
