// What is left of an answer. Implemented in serving/tool_calls.cpp.
#ifndef KVFOLD_TOOL_CALLS_H
#define KVFOLD_TOOL_CALLS_H

#include <string>

struct common_chat_msg;
struct common_chat_parser_params;

// Whether an answer begins with the call that it has to have, so that no text comes before it. Not where the caller has begun the answer, nor
// where thinking is left in the text. `context` is llama.cpp's parser_build_context.
template <typename Context> bool kvfold_begins_with_call(const Context & context) {
    using choice   = decltype(context.inputs.tool_choice);
    using thinking = decltype(context.reasoning->mode);
    return context.inputs.tool_choice == choice::COMMON_CHAT_TOOL_CHOICE_REQUIRED && !context.inputs.has_continuation() &&
           (context.extracting_reasoning || context.reasoning->mode == thinking::NONE);
}

// Takes out of an answer what the caller has begun it with, and its last call if the limit of tokens has cut the arguments off. `text` is
// what takes the place of an empty message.
void kvfold_settle_answer(common_chat_msg & message, std::string & text, const common_chat_parser_params & parsing, bool at_limit);

#endif
