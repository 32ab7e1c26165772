#include "serving/dialect.h"

#include <set>
#include <string>

namespace kvfold {

static std::string text_at(const json & object, const char * key) {
    return object.is_object() && object.contains(key) && object.at(key).is_string() ? object.at(key).get<std::string>() : "";
}

// Of a tool, or of what names one.
static std::string name_of(const json & object) {
    return object.is_object() && object.contains("function") ? text_at(object.at("function"), "name") : text_at(object, "name");
}

static void keep_tools(json & body, const std::set<std::string> & names) {
    json                  kept = json::array();
    std::set<std::string> found;
    if (body.contains("tools") && body.at("tools").is_array()) {
        for (const auto & tool : body.at("tools")) {
            if (names.count(name_of(tool))) {
                kept.push_back(tool);
                found.insert(name_of(tool));
            }
        }
    }
    for (const auto & name : names) {
        if (!found.count(name)) {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"tool_choice\" asks for '" + name + "', but \"tools\" has none of that name");
        }
    }
    body["tools"] = kept;
}

static bool rewrite_tool_choice(json & body) {
    if (!body.contains("tool_choice") || body.at("tool_choice").is_null()) {
        return false;
    }
    const json        choice = body.at("tool_choice");
    const bool        tools  = body.contains("tools") && body.at("tools").is_array() && !body.at("tools").empty();
    const std::string asks   = choice.is_string() ? choice.get<std::string>() : text_at(choice, "type");
    if (!tools && (asks == "required" || asks == "any" || asks == "function" || asks == "tool")) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"tool_choice\" asks for a call, but there are no \"tools\"");
    }
    if (choice.is_string()) {
        return false;
    }
    if (choice.contains("disable_parallel_tool_use") && choice.at("disable_parallel_tool_use") == true) {
        body["parallel_tool_calls"] = false;
    }
    const std::string type   = text_at(choice, "type");
    if (type == "function" || type == "tool") {
        keep_tools(body, { name_of(choice) });
        body["tool_choice"] = type == "function" ? json("required") : json({ { "type", "any" } });
    } else if (type == "allowed_tools") {
        const json &          allowed = choice.contains("allowed_tools") ? choice.at("allowed_tools") : choice;
        std::set<std::string> names;
        if (allowed.is_object() && allowed.contains("tools") && allowed.at("tools").is_array()) {
            for (const auto & tool : allowed.at("tools")) {
                names.insert(name_of(tool));
            }
        }
        keep_tools(body, names);
        const std::string mode = text_at(allowed, "mode");
        body["tool_choice"]    = mode.empty() ? "auto" : mode;
    } else if (type == "none") {
        body.erase("tools");
        body.erase("tool_choice");
    } else if (type != "auto" && type != "any") {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"tool_choice\" cannot be " + choice.dump_safe().substr(0, 200));
    }
    return true;
}

static bool rewrite_format(json & body) {
    bool changed = false;
    for (const char * part : { "text", "output_config" }) {
        if (body.contains(part) && body.at(part).is_object() && body.at(part).contains("format") && !body.contains("response_format")) {
            body["response_format"] = body.at(part).at("format");
            changed                 = true;
        }
    }
    if (!body.contains("response_format") || body.at("response_format").is_null()) {
        return changed;
    }
    json & format = body.at("response_format");
    if (text_at(format, "type").empty()) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"response_format\" is " + format.dump_safe().substr(0, 200) + " but must be an object with a \"type\"");
    }
    if (text_at(format, "type") == "json_schema" && format.contains("schema") && !format.contains("json_schema")) {
        json wrapped = json::object();
        for (const char * key : { "name", "schema", "strict" }) {
            if (format.contains(key)) {
                wrapped[key] = format.at(key);
            }
        }
        format["json_schema"] = wrapped;
        format.erase("schema");
        changed = true;
    }
    const bool has_schema = format.contains("json_schema") && format.at("json_schema").is_object() && format.at("json_schema").contains("schema") &&
                            !format.at("json_schema").at("schema").is_null();
    if (text_at(format, "type") == "json_schema" && !has_schema) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"response_format\" has the type \"json_schema\" and no schema (\"json_schema\": {\"schema\": ...})");
    }
    return changed;
}

// Of /v1/responses: without reasoning that says nothing, and with the type of answers, which may be left out.
static bool rewrite_input(json & body) {
    if (!body.contains("input") || !body.at("input").is_array()) {
        return false;
    }
    json kept    = json::array();
    bool changed = false;
    for (const auto & item : body.at("input")) {
        const bool silent = text_at(item, "type") == "reasoning" && (!item.contains("content") || !item.at("content").is_array() || item.at("content").empty());
        const bool untyped = text_at(item, "role") == "assistant" && !item.contains("type");
        if (!silent) {
            kept.push_back(item);
        }
        if (untyped) {
            kept.back()["type"] = "message";
        }
        changed = changed || silent || untyped;
    }
    body["input"] = kept;
    return changed;
}

bool rewrite_dialect(json & body) {
    const bool choice = rewrite_tool_choice(body), format = rewrite_format(body), input = rewrite_input(body);
    return choice || format || input;
}

} // namespace kvfold
