// What the text of a plan says of eviction.
#pragma once

#include "hooks/kv-plan.h"

#include <map>
#include <string>

namespace kvfold::plans {

// Attributes by name, "evict" among them; those of other parts of the plan are left alone. Throws std::invalid_argument.
void parse_eviction(kvfold_plan & plan, const std::map<std::string, std::string> & attributes);

// As metadata has it: such attributes only.
void parse_eviction(kvfold_plan & plan, const std::string & text);

// An attribute by the name that it has here: SnapKV's last queries, which stay themselves, are also called recent.
std::string eviction_name(const std::string & attribute);

// Whether "evict" or a number for one of the methods.
bool is_about_eviction(const std::string & attribute);

// As a message lists them.
std::string eviction_parameters();

// Each with a ';' before it; empty if the plan evicts nothing.
std::string eviction_text(const kvfold_plan & plan);

} // namespace kvfold::plans
