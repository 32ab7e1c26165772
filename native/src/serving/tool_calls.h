// Tools for models whose chat template does not show them.
#pragma once

#include "hooks/tool-calls.h"
#include "process/error.h"

#include <string>

namespace kvfold {

// A chat template which does not show tools, with Jinja before it that describes them in the first message, and that writes
// calls and their results down as messages.
std::string describe_tools(const std::string & chat_template);

// Asks for one call at a time unless the request says otherwise: a model that was not trained to call does not end a series of
// calls. True if something changed.
bool ask_for_one_call(json & body);

// Says of a request with a response format that no tool is called: the grammar of the format leaves no room for a call, and
// llama.cpp's handlers of some templates would drop it for that of calls. True if something changed.
bool ask_for_no_call(json & body);

// Whether the answer has to call a tool.
bool requires_call(const json & body);

} // namespace kvfold
