#include "serving/request_check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace kvfold {

static std::string plain(double number) {
    return number == std::floor(number) ? std::to_string((long long) number) : std::to_string(number);
}

static void check_number(const json & body, const char * name, double least, double most) {
    if (!body.contains(name) || !body.at(name).is_number()) {
        return; // llama-server says what is wrong with another type
    }
    const double number = body.at(name).get<double>();
    if (!(number >= least && number <= most)) {
        const std::string range = std::isinf(most) ? "at least " + plain(least) : "in [" + plain(least) + ", " + plain(most) + "]";
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"" + std::string(name) + "\" is " + body.at(name).dump() + " but must be " + range);
    }
}

// At least 1; -1 for as many as there is room for. 0 is taken of "n_predict" alone, where it means the prompt's tokens only.
static void check_tokens(const json & body, const char * name) {
    if (body.contains(name) && body.at(name).is_number_integer() && body.at(name).get<int64_t>() != -1) {
        check_number(body, name, 1, std::numeric_limits<double>::infinity());
    }
}

// The template engine and the grammars of tools take time by the square of these, which nobody can interrupt.
static void check_count(const json & body, const char * name, int64_t most) {
    if (body.contains(name) && (body.at(name).is_array() || body.at(name).is_object()) && (int64_t) body.at(name).size() > most) {
        const int64_t count = (int64_t) body.at(name).size();
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"" + std::string(name) + "\" has " + std::to_string(count) + " elements, the limit is " +
                                                       std::to_string(most))
            .compares(count, most);
    }
}

static error wrong(const std::string & what, const json & given, const std::string & must) {
    return error(KVFOLD_ERROR_INVALID_ARGUMENT, what + " is " + given.dump_safe().substr(0, 100) + " but must be " + must);
}

static std::string text_at(const json & object, const char * key) {
    return object.is_object() && object.contains(key) && object.at(key).is_string() ? object.at(key).get<std::string>() : "";
}

// What is taken for nothing where it has another type.
static void check_types(const json & body) {
    using kind = std::pair<const char *, bool (*)(const json &)>;
    static const kind text    = { "a string", [](const json & v) { return v.is_string(); } };
    static const kind flag    = { "true or false", [](const json & v) { return v.is_boolean(); } };
    static const kind object  = { "an object", [](const json & v) { return v.is_object(); } };
    static const kind list    = { "an array", [](const json & v) { return v.is_array(); } };
    static const kind whole   = { "an integer", [](const json & v) { return v.is_number() && v.get<double>() == std::floor(v.get<double>()); } };
    static const kind choice  = { "a string or an object", [](const json & v) { return v.is_string() || v.is_object(); } };
    static const kind bias    = { "an object or an array", [](const json & v) { return v.is_object() || v.is_array(); } };
    static const kind sampler = { "a string or an array", [](const json & v) { return v.is_string() || v.is_array(); } };
    static const std::pair<const char *, const kind *> fields[] = {
        { "grammar", &text },         { "parallel_tool_calls", &flag }, { "chat_template_kwargs", &object }, { "response_fields", &list }, { "id_slot", &whole },
        { "tool_choice", &choice },   { "logit_bias", &bias },          { "samplers", &sampler },            { "messages", &list },        { "tools", &list },
        { "top_logprobs", &whole },
    };
    for (const auto & [name, type] : fields) {
        if (body.contains(name) && !body.at(name).is_null() && !type->second(body.at(name))) {
            throw wrong("\"" + std::string(name) + "\"", body.at(name), type->first);
        }
    }
}

// Numbers that would come out as others.
static void check_integers(const json & body) {
    for (const char * name : { "n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "n_cmpl", "top_k", "n_keep", "n_discard", "n_indent", "min_keep",
                               "n_probs", "logprobs", "top_logprobs", "mirostat", "dry_allowed_length", "repeat_last_n", "dry_penalty_last_n", "id_slot" }) {
        if (body.contains(name) && body.at(name).is_number()) {
            const double number = body.at(name).get<double>();
            if (!(std::abs(number) <= std::numeric_limits<int32_t>::max())) {
                throw wrong("\"" + std::string(name) + "\"", body.at(name), "an integer of 32 bits");
            }
        }
    }
    // a sampler sets that much aside, and looks at it for every token
    check_number(body, "repeat_last_n", -1, 1 << 20);
    check_number(body, "dry_penalty_last_n", -1, 1 << 20);
    check_number(body, "mirostat", 0, 2);
    check_number(body, "n_probs", 0, std::numeric_limits<double>::infinity());
    check_number(body, "top_logprobs", 0, std::numeric_limits<double>::infinity());
}

// Of token ids alone or among texts, in arrays of arrays.
static void check_ids(const json & value, const char * name, int tokens) {
    if (value.is_array()) {
        for (size_t i = 0; i < value.size(); i++) {
            check_ids(value.at(i), name, tokens);
        }
    } else if (value.is_number_integer()) {
        const double id = value.get<double>();
        if (id < 0 || id >= tokens) {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"" + std::string(name) + "\" has the token " + value.dump_safe() + ", but ids are in [0, " + std::to_string(tokens - 1) + "]")
                .compares((int64_t) std::clamp(id, -9e18, 9e18), tokens - 1);
        }
    }
}

static void check_stops(const json & body) {
    for (const char * name : { "stop", "stop_sequences" }) {
        if (!body.contains(name) || body.at(name).is_null()) {
            continue;
        }
        const json & given = body.at(name);
        const json   all   = given.is_array() ? given : json::array({ given });
        for (const auto & each : all) {
            if (!each.is_string() || each.get<std::string>().empty()) {
                throw wrong("\"" + std::string(name) + "\"", given, "a text or an array of texts, none of them empty");
            }
        }
    }
}

static void check_tools(const json & body) {
    if (!body.contains("tools") || !body.at("tools").is_array()) {
        return;
    }
    for (size_t i = 0; i < body.at("tools").size(); i++) {
        const json & tool     = body.at("tools").at(i);
        const bool   wrapped  = tool.is_object() && tool.contains("function");
        const json & function = wrapped ? tool.at("function") : tool;
        const bool   named    = wrapped || (tool.is_object() && (tool.contains("name") || text_at(tool, "type") == "function"));
        if (!tool.is_object() || (named && text_at(function, "name").empty())) {
            throw wrong("\"tools\"[" + std::to_string(i) + "]", tool, "an object with a name");
        }
    }
}

// Parts of /v1/messages, of which llama-server leaves out what it does not know.
static void check_blocks(const json & message, size_t i) {
    static const std::set<std::string> types = { "text", "thinking", "redacted_thinking", "image", "tool_use", "tool_result" };
    if (!message.is_object() || !message.contains("content") || !message.at("content").is_array()) {
        return;
    }
    const auto where = "a part of message " + std::to_string(i);
    for (const auto & block : message.at("content")) {
        const std::string type = text_at(block, "type");
        if (!types.count(type)) {
            throw wrong("the type of " + where, block.is_object() && block.contains("type") ? block.at("type") : json(), "\"text\", \"image\", \"thinking\", \"tool_use\" or \"tool_result\"");
        }
        if (type == "image" && !(block.contains("source") && (text_at(block.at("source"), "type") == "base64" || text_at(block.at("source"), "type") == "url"))) {
            throw wrong("the \"source\" of " + where, block.contains("source") ? block.at("source") : json(), "an object of type \"base64\" or \"url\"");
        }
        if (type == "tool_result" && block.contains("content") && !block.at("content").is_null() && !block.at("content").is_string() && !block.at("content").is_array()) {
            throw wrong("the \"content\" of " + where, block.at("content"), "a string or an array");
        }
        if (type == "tool_result" && block.contains("content") && block.at("content").is_array()) {
            for (const auto & inner : block.at("content")) {
                if (text_at(inner, "type") != "text" && text_at(inner, "type") != "image") {
                    throw wrong("the type in a tool_result of message " + std::to_string(i), inner.is_object() && inner.contains("type") ? inner.at("type") : json(), "\"text\" or \"image\"");
                }
            }
        }
        if (type == "text" && text_at(block, "text").empty() && !(block.contains("text") && block.at("text").is_string())) {
            throw wrong("the \"text\" of " + where, block.contains("text") ? block.at("text") : json(), "a string");
        }
    }
}

static void check_messages(const json & messages, bool has_blocks) {
    static const std::set<std::string> roles = { "system",   "developer", "user",      "assistant", "tool",
                                                 "function", "ipython",   "documents", "control" };
    if (!messages.is_array()) {
        return;
    }
    for (size_t i = 0; i < messages.size(); i++) {
        const json & message = messages.at(i);
        if (message.is_object() && message.contains("role") && !roles.count(text_at(message, "role"))) {
            throw wrong("the role of message " + std::to_string(i), message.at("role"), "\"system\", \"user\", \"assistant\" or \"tool\"");
        }
        if (has_blocks) {
            check_blocks(message, i);
        }
    }
}

// What OpenAI's clients may ask for and would not get.
static void check_unknown(const json & body) {
    if (body.contains("functions") && !body.at("functions").is_null()) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "\"functions\" are not supported, \"tools\" are");
    }
    if (body.contains("modalities") && body.at("modalities").is_array()) {
        for (const auto & each : body.at("modalities")) {
            if (each != "text") {
                throw error(KVFOLD_ERROR_UNSUPPORTED, "answers are text, not " + each.dump_safe().substr(0, 100) + " (\"modalities\")");
            }
        }
    }
}

static void check_adapters(const json & list, int adapters) {
    if (!list.is_array()) {
        return;
    }
    for (size_t i = 0; i < list.size(); i++) {
        if (list.at(i).is_object() && list.at(i).contains("id") && list.at(i).at("id").is_number_integer()) {
            const int64_t id = list.at(i).at("id").get<int64_t>();
            if (id < 0 || id >= adapters) {
                throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "there is no adapter " + std::to_string(id) + ", the engine has " + std::to_string(adapters))
                    .compares(id, adapters);
            }
        }
    }
}

// Where an answer has no place for others beside it.
static void check_one_answer(const json & body, const std::string & route) {
    for (const char * name : { "n", "n_cmpl" }) {
        if (body.contains(name) && body.at(name).is_number() && body.at(name).get<double>() > 1) {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"" + std::string(name) + "\" is " + body.at(name).dump() + ", but " + route + " gives one answer")
                .compares((int64_t) std::min(body.at(name).get<double>(), 9e18), 1);
        }
    }
}

void check_request(const json & body, const std::string & route, const engine_counts & engine) {
    const int    slots = engine.slots;
    const double any = std::numeric_limits<double>::infinity();
    check_types(body);
    check_integers(body);
    check_stops(body);
    check_unknown(body);
    check_number(body, "temperature", 0, any);
    check_number(body, "top_p", 0, 1);
    check_number(body, "min_p", 0, 1);
    if (route.find("/responses") != std::string::npos || route.find("/messages") != std::string::npos) {
        check_one_answer(body, route);
    }
    check_number(body, "n", 1, any);
    if (body.contains("n") && body.at("n").is_number_integer() && body.at("n").get<int64_t>() > slots) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"n\" is " + body.at("n").dump() + ", but answers side by side take a slot each and there are " +
                                                       std::to_string(slots) + " (\"parallel\")")
            .compares(body.at("n").get<int64_t>(), slots)
            .about_option("parallel");
    }
    check_number(body, "id_slot", -1, slots - 1);
    check_tokens(body, "max_tokens");
    check_tokens(body, "max_completion_tokens");
    check_tokens(body, "max_output_tokens");
    check_count(body, "messages", 4096);
    check_count(body, "tools", 256);
    check_count(body, "chat_template_kwargs", 256);
    check_count(body, "stop", 256);
    check_count(body, "stop_sequences", 256);
    check_count(body, "dry_sequence_breakers", 64); // each is looked for in all of the vocabulary
    check_tools(body);
    for (const char * name : { "prompt", "content", "input", "tokens" }) {
        if (body.contains(name)) {
            check_ids(body.at(name), name, engine.tokens);
        }
    }
    if (body.contains("cache_salt") && !body.at("cache_salt").is_string()) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"cache_salt\" is " + body.at("cache_salt").dump_safe() + " but must be a string");
    }
    for (const char * name : { "messages", "input" }) {
        if (body.contains(name)) {
            check_messages(body.at(name), route.find("/messages") != std::string::npos);
        }
    }
    if (body.contains("lora")) {
        check_adapters(body.at("lora"), engine.adapters);
    }
}

} // namespace kvfold
