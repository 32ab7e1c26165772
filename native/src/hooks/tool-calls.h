// What is left of an answer's tool calls. Implemented in serving/tool_calls.cpp.
#ifndef KVFOLD_TOOL_CALLS_H
#define KVFOLD_TOOL_CALLS_H

#include <string>

struct common_chat_msg;

// Whether an answer begins with the call that it has to have, so that no text comes before it. Not where the caller has begun the answer, nor
// where thinking is left in the text. `context` is llama.cpp's parser_build_context.
template <typename Context> bool kvfold_begins_with_call(const Context & context) {
    using choice   = decltype(context.inputs.tool_choice);
    using thinking = decltype(context.reasoning->mode);
    return context.inputs.tool_choice == choice::COMMON_CHAT_TOOL_CHOICE_REQUIRED && !context.inputs.has_continuation() &&
           (context.extracting_reasoning || context.reasoning->mode == thinking::NONE);
}

// Takes the last call out of an answer if the limit of tokens has cut its arguments off. `text` is what takes the place of an empty message.
void kvfold_drop_cut_call(common_chat_msg & message, std::string & text, bool at_limit);

#endif
