#include "serving/chat_messages.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <map>
#include <set>

namespace kvfold {

bool takes_messages(const std::string & route) {
    static const std::set<std::string> routes = {
        "/chat/completions", "/v1/chat/completions", "/apply-template", "/chat/completions/input_tokens", "/v1/chat/completions/input_tokens",
    };
    return routes.count(route) == 1;
}

static std::string role_of(const json & message) {
    return message.is_object() && message.contains("role") && message.at("role").is_string() ? message.at("role").get<std::string>() : "";
}

static bool is_system(const std::string & role) { return role == "system" || role == "developer"; }

static bool has_messages(const json & body) {
    return body.contains("messages") && body.at("messages").is_array() && !body.at("messages").empty();
}

std::string roles_of(const json & body) {
    std::string roles;
    if (has_messages(body)) {
        for (const auto & message : body.at("messages")) {
            roles += (roles.empty() ? "" : ", ") + role_of(message);
        }
    }
    return roles;
}

// ---- contents ---------------------------------------------------------------------------------------------------------

static json text_part(const std::string & text) { return json({ { "type", "text" }, { "text", text } }); }

static json parts_of(const json & content) {
    if (content.is_array()) {
        return content;
    }
    json parts = json::array();
    if (content.is_string()) {
        parts.push_back(text_part(content.get<std::string>()));
    }
    return parts;
}

static json joined(const json & first, const json & second) {
    if (!first.is_array() && !second.is_array()) {
        const std::string a = first.is_string() ? first.get<std::string>() : "", b = second.is_string() ? second.get<std::string>() : "";
        return json::make(a.empty() || b.empty() ? a + b : a + "\n\n" + b);
    }
    json parts = parts_of(first);
    parts.push_back(text_part("\n\n"));
    parts.insert(parts_of(second));
    return parts;
}

static json content_of(const json & message) {
    return message.contains("content") ? message.at("content") : json::make("");
}

// ---- the schema of the answer -----------------------------------------------------------------------------------------

static std::optional<json> schema_of(const json & body) {
    json         schema;
    const char * name = body.contains("answer_format") ? "answer_format" : "response_format";
    if (body.contains(name) && body.at(name).is_object()) {
        const json & format = body.at(name);
        if (format.contains("json_schema") && format.at("json_schema").is_object() && format.at("json_schema").contains("schema")) {
            schema = format.at("json_schema").at("schema");
        } else if (format.contains("schema")) {
            schema = format.at("schema");
        }
    } else if (body.contains("json_schema")) {
        schema = body.at("json_schema");
    }
    if (!schema.is_object() || schema.empty()) {
        return std::nullopt;
    }
    return schema;
}

// A schema the way a programmer would write the type down: small models take a JSON schema for what they shall write.
class type_sketch {
  public:
    explicit type_sketch(const json & root) : root(root) {}

    std::string of(const json & schema, int depth = 0) {
        if (!schema.is_object() || depth > max_depth || types++ >= max_types || written > max_written) {
            return "any";
        }
        const bool  says = schema.contains("description") && schema.at("description").is_string();
        std::string type = plain_type(schema, depth) + (says ? " (" + schema.at("description").get<std::string>() + ")" : "");
        written += type.size();
        return type;
    }

  private:
    static constexpr int max_depth = 8;
    // references may lead to as many as the square of theirs, and on
    static constexpr int    max_types   = 1000;
    static constexpr size_t max_written = 1 << 20;

    std::string plain_type(const json & schema, int depth) {
        if (schema.contains("$ref")) {
            const json * target = find(schema.at("$ref"));
            return target ? of(*target, depth + 1) : "any";
        }
        for (const char * name : { "anyOf", "oneOf" }) {
            if (schema.contains(name) && schema.at(name).is_array()) {
                std::string all;
                for (const auto & each : schema.at(name)) {
                    all += (all.empty() ? "" : " | ") + of(each, depth + 1);
                }
                return all;
            }
        }
        if (schema.contains("enum") && schema.at("enum").is_array()) {
            std::string all;
            for (const auto & each : schema.at("enum")) {
                all += (all.empty() ? "" : " | ") + each.dump();
            }
            return all;
        }
        if (schema.contains("const")) {
            return schema.at("const").dump();
        }
        if (schema.contains("properties") && schema.at("properties").is_object()) {
            return object(schema, depth);
        }
        if (schema.contains("items")) {
            return "[" + of(schema.at("items"), depth + 1) + ", ...]";
        }
        return schema.contains("type") && schema.at("type").is_string() ? schema.at("type").get<std::string>() : "any";
    }

    std::string object(const json & schema, int depth) {
        std::set<std::string> required;
        if (schema.contains("required") && schema.at("required").is_array()) {
            for (const auto & name : schema.at("required")) {
                required.insert(name.is_string() ? name.get<std::string>() : "");
            }
        }
        std::string text;
        for (const auto & [name, value] : schema.at("properties").items()) {
            text += (text.empty() ? "" : ", ") + json(name).dump_safe() + (required.count(name) ? ": " : "?: ") + of(value, depth + 1);
        }
        return "{" + text + "}";
    }

    // "#/$defs/Name"
    const json * find(const json & reference) const {
        const std::string path = reference.is_string() ? reference.get<std::string>() : "";
        const json *      at   = path.rfind("#/", 0) == 0 ? &root : nullptr;
        for (size_t start = 2; at && start < path.size();) {
            const size_t      end  = std::min(path.find('/', start), path.size());
            const std::string name = path.substr(start, end - start);
            at                     = at->is_object() && at->contains(name) ? &at->at(name) : nullptr;
            start                  = end + 1;
        }
        return at;
    }

    const json & root;
    int          types   = 0; // so far
    size_t       written = 0; // bytes, inner types once more for each level
};

static bool may_call(const json & body) {
    const bool forbidden = body.contains("tool_choice") && body.at("tool_choice").is_string() && body.at("tool_choice").get<std::string>() == "none";
    return body.contains("tools") && body.at("tools").is_array() && !body.at("tools").empty() && !forbidden;
}

bool has_format(const json & body) {
    if (body.contains("json_schema") && !body.at("json_schema").is_null()) {
        return true;
    }
    for (const char * name : { "response_format", "answer_format" }) {
        if (body.contains(name) && body.at(name).is_object() && body.at(name).contains("type")) {
            const json & type = body.at(name).at("type");
            return type == "json_schema" || type == "json_object";
        }
    }
    return false;
}

bool holds_format(const json & body) { return has_format(body) && !body.contains("answer_format"); }

// Anthropic's users hand over what tools have found; a text beside it would come before it.
static bool has_results(const json & content) {
    for (size_t i = 0; content.is_array() && i < content.size(); i++) {
        if (content.at(i).is_object() && content.at(i).contains("type") && content.at(i).at("type") == "tool_result") {
            return true;
        }
    }
    return false;
}

bool describe_schema(json & body) {
    const auto schema   = schema_of(body);
    const bool responds = !body.contains("messages"); // OpenAI's Responses
    if (!schema || (responds && !body.contains("input"))) {
        return false;
    }
    const std::string line = (may_call(body) ? "Unless you call a tool, answer with JSON: " : "Answer with JSON: ") + type_sketch(*schema).of(*schema);
    json &            messages = body.at(responds ? "input" : "messages");
    if (messages.is_string()) {
        messages = joined(messages, json::make(line));
        return true;
    }
    for (size_t i = messages.is_array() ? messages.size() : 0; i-- > 0;) {
        json & message = messages.at(i);
        if (role_of(message) == "user" && !has_results(content_of(message))) {
            if (content_of(message).is_array()) {
                message.at("content").push_back(json({ { "type", responds ? "input_text" : "text" }, { "text", "\n\n" + line } }));
            } else {
                message["content"] = joined(content_of(message), json::make(line));
            }
            return true;
        }
    }
    return false;
}

// ---- an answer that was begun -----------------------------------------------------------------------------------------

bool continue_answer(json & body) {
    const char * name = body.contains("messages") ? "messages" : "input";
    if (!body.contains(name) || !body.at(name).is_array() || body.at(name).empty()) {
        return false;
    }
    const json & messages = body.at(name);
    const size_t last     = messages.size() - 1;
    const json   told     = body.contains("continue_final_message") ? body.at("continue_final_message") : json();
    if (role_of(messages.at(last)) != "assistant" || (last > 0 && role_of(messages.at(last - 1)) == "assistant") || told.is_string()) {
        return false;
    }
    body["continue_final_message"] = true;
    body["add_generation_prompt"]  = false;
    return true;
}

// ---- messages for a strict template ------------------------------------------------------------------------------------

std::optional<std::string> template_complaint(const std::string & message) {
    static const std::string raised = "Jinja Exception: ", failed = "Error: ";
    if (message.find("While executing") == std::string::npos) {
        return std::nullopt;
    }
    size_t at = message.rfind(raised);
    at        = at != std::string::npos ? at + raised.size() : message.rfind(failed);
    return at == std::string::npos ? message : message.substr(message.compare(at, failed.size(), failed) == 0 ? at + failed.size() : at);
}

static json with_system_first(const json & messages) {
    json system, others = json::array();
    for (const auto & message : messages) {
        if (!is_system(role_of(message))) {
            others.push_back(message);
        } else if (system.is_null()) {
            system = message;
        } else {
            system["content"] = joined(content_of(system), content_of(message));
        }
    }
    json all = json::array();
    if (!system.is_null()) {
        all.push_back(system);
    }
    all.insert(others);
    return all;
}

static json with_roles_in_turn(const json & messages) {
    json all = json::array();
    for (const auto & message : messages) {
        const std::string role   = role_of(message);
        const std::string before = all.empty() ? "" : role_of(all.back());
        const bool        first  = before.empty() || is_system(before);
        if (first && (role == "assistant" || role == "tool")) {
            all.push_back(json({ { "role", "user" }, { "content", "" } })); // a window has cut off the question
        }
        const bool calls = message.contains("tool_calls") || (!all.empty() && all.back().contains("tool_calls"));
        if (!all.empty() && role == before && (role == "user" || (role == "assistant" && !calls))) {
            all.back()["content"] = joined(content_of(all.back()), content_of(message));
        } else {
            all.push_back(message);
        }
    }
    return all;
}

static bool is_short_id(const std::string & id) {
    return id.size() == 9 && std::all_of(id.begin(), id.end(), [](unsigned char c) { return std::isalnum(c) != 0; });
}

// What Mistral's templates ask for.
class short_ids {
  public:
    void apply_to(json & message) {
        if (message.contains("tool_call_id")) {
            shorten(message, "tool_call_id");
        }
        if (message.contains("tool_calls") && message.at("tool_calls").is_array()) {
            json & calls = message.at("tool_calls");
            for (size_t i = 0; i < calls.size(); i++) {
                shorten(calls.at(i), "id");
            }
        }
    }

  private:
    void shorten(json & object, const char * key) {
        const std::string id = object.is_object() && object.contains(key) && object.at(key).is_string() ? object.at(key).get<std::string>() : "";
        if (object.is_object() && !is_short_id(id)) {
            char text[16];
            snprintf(text, sizeof(text), "call%05d", (int) (known.emplace(id, known.size() % 100000).first->second));
            object[key] = std::string(text);
        }
    }

    std::map<std::string, size_t> known;
};

bool settle_messages(json & body) {
    if (!has_messages(body)) {
        return false;
    }
    const json & given   = body.at("messages");
    json         settled = with_roles_in_turn(with_system_first(given));
    short_ids    ids;
    for (size_t i = 0; i < settled.size(); i++) {
        ids.apply_to(settled.at(i));
    }
    if (settled.dump() == given.dump()) {
        return false;
    }
    body["messages"] = settled;
    return true;
}

} // namespace kvfold
