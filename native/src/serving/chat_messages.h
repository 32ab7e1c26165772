// The messages of a chat as a strict template wants them, and what a template does not say about the answer.
#pragma once

#include "process/error.h"

#include <optional>
#include <string>

namespace kvfold {

// Whether a route takes OpenAI's "messages".
bool takes_messages(const std::string & route);

// Puts one line into the last message of a user, or into the "input" of /v1/responses, that shows the JSON schema of the response format. Models know what to
// write then; a grammar alone only keeps them from writing anything else. A request that asks for tool calls first, and for
// JSON once there is none, names the schema as "answer_format", which no grammar holds it to, so that both begin alike and the
// second finds the prompt computed. True if there was a schema.
bool describe_schema(json & body);

// Whether the answer is to be JSON.
bool has_format(const json & body);

// Whether a grammar has to hold it to that.
bool holds_format(const json & body);

// Says of a body whose last message is the assistant's that the answer goes on with it, so that llama-server hands out what is new of
// it only. True if something changed.
bool continue_answer(json & body);

// What a template refuses messages with, in its own words, out of an exception of the template engine.
std::optional<std::string> template_complaint(const std::string & message);

// Changes messages that a template has refused: system messages in front, roles in turn, a user's message first, and call ids
// of nine letters and digits. False where that changes nothing.
bool settle_messages(json & body);

// "system, user, user" of a body.
std::string roles_of(const json & body);

} // namespace kvfold
