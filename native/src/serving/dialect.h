// What clients of OpenAI and Anthropic write and llama.cpp passes over: it takes each for what it would be without.
#pragma once

#include "process/error.h"

namespace kvfold {

// Says the same in words that llama.cpp reads. True if something changed. Throws KVFOLD_ERROR_INVALID_ARGUMENT for a choice that is none, or a
// tool that is not there.
//
//   "tool_choice"      {"type": "function" or "tool", a name}, {"type": "allowed_tools", ...}, {"type": "none"}: those tools and no others
//   "response_format"  {"type": "json_schema", "schema": ...}, the schema beside its type
//                      {"disable_parallel_tool_use": true}: "parallel_tool_calls": false
//   "text"             {"format": ...} of /v1/responses, as "output_config" of /v1/messages
//   "input"            of /v1/responses: items with "reasoning" that has no text are left out, answers without a type are "message"
bool rewrite_dialect(json & body);

} // namespace kvfold
