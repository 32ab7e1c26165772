// What is left of an answer's tool calls. Implemented in serving/tool_calls.cpp.
#ifndef KVFOLD_TOOL_CALLS_H
#define KVFOLD_TOOL_CALLS_H

#include <string>

struct common_chat_msg;

// Takes the last call out of an answer if the limit of tokens has cut its arguments off. `text` is what takes the place of an empty message.
void kvfold_drop_cut_call(common_chat_msg & message, std::string & text, bool at_limit);

#endif
