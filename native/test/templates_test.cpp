// Every chat template that comes with llama.cpp, as the template of a model whose vocabulary has its special tokens: texts of a request
// are text, and what a request says of roles, tools and formats is kept or refused. Prints a table, in which "held" is an answer that
// may not end without the call or the JSON, and in which random weights had not come to it when the tokens were used up.
//
//   templates_test FOLDER [PART]   those whose names contain PART

#include "gguf_edit.h"
#include "kvfold_test.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <regex>
#include <set>

using namespace kvfold_test;

static const char * const chat_route = "/v1/chat/completions";

// What a template may mean by a special token: <|im_end|>, <｜User｜>, </s>, [INST], ]<]minimax[>[
static std::vector<std::string> special_tokens(const std::string & chat_template) {
    static const std::regex special("<[A-Za-z_/][A-Za-z0-9_/:.-]{0,30}>|<(\\||\xEF\xBD\x9C)[A-Za-z0-9_/\xE2\x96\x81-]{1,30}(\\||\xEF\xBD\x9C)?>|\\[/?[A-Z_]{2,24}\\]|\\]<\\]minimax\\[>\\[");
    std::set<std::string>   found;
    for (auto it = std::sregex_iterator(chat_template.begin(), chat_template.end(), special); it != std::sregex_iterator(); ++it) {
        found.insert(it->str());
    }
    return { found.begin(), found.end() };
}

// The model of byte-level tokens, one for each byte, whose unused ones become those of the template.
static std::string with_template(const std::string & model, const std::string & chat_template, const std::vector<std::string> & special) {
    gguf_edit                file(model);
    std::vector<std::string> texts, types;
    static const size_t      bytes = 258; // those and two more, see make_model
    for (auto & key : file.keys) {
        const bool is_texts = key.name == "tokenizer.ggml.tokens";
        if (is_texts || key.name == "tokenizer.ggml.token_type") {
            auto &         list  = is_texts ? texts : types;
            uint64_t       count = 0;
            size_t         at    = 12;
            memcpy(&count, &key.value[4], sizeof(count));
            for (uint64_t i = 0; i < count; i++) {
                uint64_t size = 4;
                if (is_texts) {
                    memcpy(&size, &key.value[at], sizeof(size));
                    size += 8;
                }
                list.push_back(key.value.substr(at, size));
                at += size;
            }
        }
    }
    if (bytes + special.size() > texts.size()) {
        fprintf(stderr, "%zu special tokens are too many for %zu unused ones\n", special.size(), texts.size() - bytes);
        exit(1);
    }
    for (size_t i = 0; i < special.size(); i++) {
        texts[bytes + i] = gguf_edit::string(special[i]);
        types[bytes + i] = gguf_edit::number<int32_t>(3);
    }
    file.set("tokenizer.ggml.tokens", gguf_edit::array_type, gguf_edit::array(gguf_edit::string_type, texts));
    file.set("tokenizer.ggml.token_type", gguf_edit::array_type, gguf_edit::array(gguf_edit::i32_type, types));
    file.set_string("tokenizer.chat_template", chat_template);
    return file.put();
}

// ---- requests -------------------------------------------------------------------------------------------------------------

static json message(const char * role, const std::string & content) {
    return { { "role", role }, { "content", content } };
}

static json call_of(const char * name) {
    return { { "id", "call_0123456789" }, { "type", "function" }, { "function", { { "name", name }, { "arguments", "{\"on\": true}" } } } };
}

static json tool(const char * name) {
    return { { "type", "function" },
             { "function",
               { { "name", name },
                 { "description", "Switches it" },
                 { "parameters",
                   { { "type", "object" }, { "properties", { { "on", { { "type", "boolean" } } } } }, { "required", { "on" } }, { "additionalProperties", false } } } } } };
}

static json tools() { return { tool("light"), tool("door") }; }

// A conversation in which `text` is what `role` says.
static json said_by(const std::string & role, const std::string & text) {
    json messages = json::array();
    if (role == "system") {
        messages.push_back(message("system", text));
    }
    messages.push_back(message("user", role == "user" ? text : "a"));
    if (role == "assistant") {
        messages.push_back(message("assistant", text));
        messages.push_back(message("user", "b"));
    }
    json body = { { "messages", messages } };
    if (role == "tool") {
        body["messages"].push_back({ { "role", "assistant" }, { "content", "" }, { "tool_calls", { call_of("light") } } });
        body["messages"].push_back({ { "role", "tool" }, { "tool_call_id", "call_0123456789" }, { "name", "light" }, { "content", text } });
        body["tools"] = tools();
    }
    if (role == "arguments") { // as an object, whose keys are texts, too
        json call = call_of("light");
        call["function"]["arguments"] = { { "name", text }, { text, { { "id", text } } } };
        body["messages"].push_back({ { "role", "assistant" }, { "content", "" }, { "tool_calls", { call } } });
        body["messages"].push_back({ { "role", "tool" }, { "tool_call_id", "call_0123456789" }, { "name", "light" }, { "content", "c" } });
        body["tools"] = { tool("light") };
        body["tools"][0]["function"]["description"]         = text;
        body["tools"][0]["function"]["parameters"]["title"] = text;
    }
    return body;
}

// Names that a grammar is made of, and ids: refused where they hold a special token's.
static bool names_are_names(const engine & e, const std::string & special) {
    std::vector<json> bodies;
    for (const char * where : { "/tools/0/function/name", "/tools/0/function/parameters/required/0",
                                "/messages/1/tool_calls/0/function/name", "/messages/1/tool_calls/0/id", "/messages/2/tool_call_id" }) {
        json body = said_by("tool", "a");
        body[json::json_pointer(where)] = "b" + special;
        bodies.push_back(body);
    }
    for (const std::string & key : { std::string("on"), special }) {
        bodies.push_back(said_by("tool", "a"));
        bodies.back()["tools"][0]["function"]["parameters"]["properties"][key] = { { "enum", { "a", key == special ? "b" : special } } };
    }
    return std::all_of(bodies.begin(), bodies.end(), [&](const json & body) {
        answer last;
        const bool refused = run(e, "/v1/chat/completions/input_tokens", body, &last).is_null() && last.status == KVFOLD_ERROR_INVALID_ARGUMENT;
        return refused && last.mentions(special);
    });
}

static std::string refusal(const answer & last) {
    const bool in_words = last.status == KVFOLD_ERROR_INVALID_ARGUMENT || last.status == KVFOLD_ERROR_UNSUPPORTED;
    if (in_words && (last.mentions("does not take messages") || last.mentions("cannot be kept"))) {
        return "refused";
    }
    return "ERROR " + last.text.substr(0, 200);
}

static std::string without_brackets(std::string text) {
    for (char & c : text) {
        c = c == '<' || c == '[' || c == ']' ? 'b' : c;
    }
    return text;
}

// Against the same without brackets: a special token is one token, as a text it has one for each byte.
static std::string texts_stay_texts(const engine & e, const std::string & role, const std::vector<std::string> & special) {
    std::string text;
    json        parts = json::array(), neutral_parts = json::array(); // of which a template makes one text
    for (const auto & token : special) {
        text += "b" + token;
        size_t middle = token.size() / 2;
        while (middle < token.size() && (token[middle] & 0xC0) == 0x80) {
            middle++; // not within a character
        }
        for (const std::string & half : { token.substr(0, middle), token.substr(middle) + "b" }) {
            parts.push_back({ { "type", "text" }, { "text", half } });
            neutral_parts.push_back({ { "type", "text" }, { "text", without_brackets(half) } });
        }
    }
    const bool in_parts = role == "parts";
    json       body     = said_by(in_parts ? "user" : role, text + "b"), neutral = said_by(in_parts ? "user" : role, without_brackets(text + "b"));
    if (in_parts) {
        body["messages"][0]["content"]    = parts;
        neutral["messages"][0]["content"] = neutral_parts;
    }
    answer     last, last_neutral;
    const json told     = run(e, "/v1/chat/completions/input_tokens", body, &last);
    const json expected = run(e, "/v1/chat/completions/input_tokens", neutral, &last_neutral);
    if (told.is_null() || expected.is_null()) {
        return refusal(told.is_null() ? last : last_neutral);
    }
    const int64_t missing = expected.at("input_tokens").get<int64_t>() - told.at("input_tokens").get<int64_t>();
    return missing <= 0 ? "text" : "CONTROL " + std::to_string(missing);
}

static std::string shows(const engine & e, const json & body, const std::string & wanted) {
    answer     last;
    const json told = run(e, "/apply-template", body, &last);
    return told.is_null() ? refusal(last) : told.at("prompt").get<std::string>().find(wanted) != std::string::npos ? "yes" : "DROPPED";
}

// Whoever may end an answer ends it.
static constexpr int end_of_text = 0;

static json asks(json more) {
    json body = { { "messages", { message("user", "Switch it on") } }, { "max_tokens", 200 }, { "temperature", 0 },
                  { "logit_bias", { { end_of_text, 100 } } }, { "chat_template_kwargs", { { "enable_thinking", false }, { "thinking", false } } } };
    body.update(more);
    return body;
}

static std::string calls(const engine & e, const json & choice, const std::string & name) {
    answer     last;
    const json told = run(e, chat_route, asks({ { "tools", tools() }, { "tool_choice", choice }, { "parallel_tool_calls", false } }), &last);
    if (told.is_null()) {
        return refusal(last);
    }
    const json & first = told.at("choices").at(0);
    const json   found = first.at("message").value("tool_calls", json::array());
    if (found.empty()) {
        return first.at("finish_reason") == "length" ? "held" : "DROPPED";
    }
    const json & function = found.at(0).at("function");
    const json   given    = json::parse(function.at("arguments").get<std::string>(), nullptr, false);
    const bool   right    = found.size() == 1 && given.is_object() && given.contains("on") && given.at("on").is_boolean() &&
                            (name.empty() || function.at("name") == name);
    return right ? "yes" : "WRONG " + found.dump().substr(0, 120);
}

static std::string calls_none(const engine & e) {
    answer     last;
    const json told = run(e, chat_route, asks({ { "tools", tools() }, { "tool_choice", "none" }, { "max_tokens", 20 } }), &last);
    return told.is_null() ? refusal(last) : told.at("choices").at(0).at("message").contains("tool_calls") ? "CALLED" : "yes";
}

static std::string keeps_format(const engine & e, bool with_tools) {
    const json schema = tool("x").at("function").at("parameters");
    json       body   = asks({ { "response_format", { { "type", "json_schema" }, { "json_schema", { { "schema", schema } } } } } });
    if (with_tools) {
        body["tools"] = tools();
    }
    answer     last;
    const json told = run(e, chat_route, body, &last);
    if (told.is_null()) {
        return refusal(last);
    }
    const json & first = told.at("choices").at(0);
    const json & text  = first.at("message").at("content");
    const json   given = text.is_string() ? json::parse(text.get<std::string>(), nullptr, false) : json();
    if (given.is_object() && given.contains("on") && given.at("on").is_boolean() && given.size() == 1) {
        return "yes";
    }
    return first.at("finish_reason") == "length" ? "held" : "DROPPED " + text.dump().substr(0, 80);
}

static void print(const std::vector<std::string> & cells) {
    printf("|");
    for (const auto & cell : cells) {
        printf(" %s |", cell.c_str());
    }
    printf("\n");
    fflush(stdout);
}

// Where llama.cpp falls short: what its grammar lets random weights write and its parser does not read (GLM, Spark), arguments that no schema
// holds (Gemma 4), and thinking that its grammar has no place for (SmolLM3).
static bool known_to_fail(const std::string & name, const std::string & column) {
    static const std::set<std::string> names = { "GLM-4.6", "GLM-4.7-Flash", "Spark2.5", "google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved",
                                                 "HuggingFaceTB-SmolLM3-3B" };
    return (column == "required" || column == "named") && names.count(name) == 1;
}

int main(int argc, char ** argv) {
    const std::string model = read_file(environment("KVFOLD_TEMPLATE_MODEL"));
    CHECK(argc > 1 && !model.empty());
    if (failures) {
        return report();
    }
    std::vector<std::filesystem::path> files;
    for (const auto & file : std::filesystem::directory_iterator(argv[1])) {
        const std::string name = file.path().filename().string();
        if (file.path().extension() == ".jinja" && (argc == 2 || name.find(argv[2]) != std::string::npos)) {
            files.push_back(file.path());
        }
    }
    std::sort(files.begin(), files.end());
    CHECK(argc > 2 || files.size() >= 70);
    static const std::vector<std::string> columns = { "template", "special tokens", "user", "system", "assistant", "tool", "arguments", "parts", "names", "roles",
                                                      "tools shown", "required", "named", "none", "format", "format beside tools" };
    print(columns);
    print(std::vector<std::string>(columns.size(), "---"));
    for (const auto & file : files) {
        const std::string chat_template = read_file(file.string());
        const auto        special       = special_tokens(chat_template);
        const auto        opened        = [&](const std::vector<std::string> & tokens) {
            write_file("templates.gguf", with_template(model, chat_template, tokens));
            auto e = std::make_unique<engine>(json({ { "model", "templates.gguf" }, { "ctx-size", 32768 }, { "parallel", 1 }, { "threads", 1 } }));
            if (!e->ok()) {
                fprintf(stderr, "%s: %s\n", file.filename().c_str(), e->opened.text.c_str());
                CHECK(false);
            }
            return e;
        };
        std::vector<std::string> row = { file.stem().string(), std::to_string(special.size()) };
        std::string              roles;
        {
            const auto all = opened(special);
            for (const std::string role : { "user", "system", "assistant", "tool", "arguments", "parts" }) {
                row.push_back(texts_stay_texts(*all, role, special));
                const std::string shown = role == "parts" || role == "arguments" ? "yes" : shows(*all, said_by(role, "Quetzalcoatl"), "Quetzalcoatl");
                roles += shown == "yes" ? "" : std::string(roles.empty() ? "" : ", ") + role + " " + shown;
            }
            row.push_back(special.empty() || names_are_names(*all, special.front()) ? "refused" : "TAKEN");
        }
        // of no model is each tag a special token, and a call is read out of the text without them
        const auto     plain = opened({});
        const engine & e     = *plain;
        row.push_back(roles.empty() ? "yes" : roles);
        row.push_back(shows(e, asks({ { "tools", tools() } }), "light"));
        row.push_back(calls(e, "required", ""));
        row.push_back(calls(e, { { "type", "function" }, { "function", { { "name", "door" } } } }, "door"));
        row.push_back(calls_none(e));
        row.push_back(keeps_format(e, false));
        row.push_back(keeps_format(e, true));
        print(row);
        for (size_t i = 2; i < row.size(); i++) {
            const bool good = row[i].find_first_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ") == std::string::npos; // of what went wrong
            if (good == known_to_fail(row[0], columns[i])) {
                fprintf(stderr, "%s, %s: %s\n", row[0].c_str(), columns[i].c_str(), row[i].c_str());
                CHECK(false);
            }
        }
    }
    return report();
}
