// Each of several tools can be called, with what its own schema says.
//
//   tool_grammar_test TEMPLATES     # the folder models/templates of llama.cpp

#include "grammar_check.h"

#include "process/deep_thread.h"
#include "process/error.h"
#include "text/schema.h"

#include "chat.h"

#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

using namespace kvfold;

static int failures = 0;

static void check(bool holds, const std::string & what) {
    if (!holds) {
        fprintf(stderr, "%s\n", what.c_str());
        failures++;
    }
}

struct tool {
    std::string name;
    json        parameters;
};

struct answer_grammar {
    grammar_ptr grammar;
    std::string begin; // of the answer, which the prompt holds

    bool takes(const std::string & call) const { return grammar && lets_through(*grammar, begin + call); }
};

// Of an answer that must call one of the tools.
static answer_grammar grammar_of(const std::string & path, const std::vector<tool> & tools) {
    std::ifstream     file(path);
    const std::string text{ std::istreambuf_iterator<char>(file), {} };
    const auto        templates = common_chat_templates_init(nullptr, text);

    json body = json::object();
    body["tools"] = json::array();
    for (const auto & each : tools) {
        json function = json::object();
        function["name"]       = each.name;
        function["strict"]     = true;
        function["parameters"] = each.parameters;
        json one = json::object();
        one["type"]     = "function";
        one["function"] = function;
        body["tools"].push_back(one);
    }
    rewrite_schemas(body);

    common_chat_msg message;
    message.role    = "user";
    message.content = "some words";
    common_chat_templates_inputs inputs;
    inputs.messages    = { message };
    inputs.tools       = common_chat_tools_parse_oaicompat(body.at("tools"));
    inputs.tool_choice = COMMON_CHAT_TOOL_CHOICE_REQUIRED;
    const auto made = common_chat_templates_apply(templates.get(), inputs);
    return { parse_grammar(made.grammar), made.generation_prompt };
}

static json object_of(const std::string & name, const json & schema) {
    json properties = json::object(), object = json::object();
    properties[name]     = schema;
    object["type"]       = "object";
    object["properties"] = properties;
    object["required"]   = json::array({ name });
    return object;
}

static const std::vector<std::string> alike = { "\xE5\xA4\xA9\xE6\xB0\x97", "\xE6\x99\x82\xE5\x88\xBB", "get-time", "get_time" };

static std::string json_call(const std::string & name, const std::string & arguments) {
    return "<tool_call>\n{\"name\": \"" + name + "\", \"arguments\": " + arguments + "}\n</tool_call>";
}

static void keeps_tools_apart(const std::string & path) {
    std::vector<tool> tools;
    for (const auto & name : alike) {
        tools.push_back({ name, object_of("x", json::parse(R"({"type": "integer"})")) });
    }
    const answer_grammar grammar = grammar_of(path, tools);
    for (const auto & name : alike) {
        check(grammar.takes(json_call(name, "{\"x\": 1}")), name + " cannot be called");
    }
    check(!grammar.takes(json_call("get.time", "{\"x\": 1}")), "what is no tool can be called");
}

static void keeps_definitions_apart(const std::string & path) {
    std::vector<tool> tools;
    for (const char * name : { "f", "g" }) {
        json parameters = object_of("x", json::parse(R"({"$ref": "#/$defs/A"})"));
        parameters["$defs"] = json::parse(std::string(R"({"A": {"const": "of )") + name + "\"}}");
        tools.push_back({ name, parameters });
    }
    const answer_grammar grammar = grammar_of(path, tools);
    check(grammar.takes(json_call("f", "{\"x\": \"of f\"}")), "f does not take its own");
    check(grammar.takes(json_call("g", "{\"x\": \"of g\"}")), "g does not take its own");
    check(!grammar.takes(json_call("g", "{\"x\": \"of f\"}")), "g takes what is of f");
}

static void keeps_parameters_apart(const std::string & path) {
    json parameters = json::parse(R"({"type": "object", "properties": {}, "required": []})");
    for (const auto & name : alike) {
        parameters.at("properties")[name] = json::parse(R"({"type": "integer"})");
        parameters.at("required").push_back(name);
    }
    const answer_grammar grammar = grammar_of(path, { { "f", parameters } });
    std::string       call    = "<tool_call>\n<function=f>\n";
    for (const auto & name : alike) {
        call += "<parameter=" + name + ">\n1\n</parameter>\n";
    }
    check(grammar.takes(call + "</function>\n</tool_call>"), "a parameter cannot be given");
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "tool_grammar_test TEMPLATES\n");
        return 2;
    }
    init_library();
    const std::string hermes = std::string(argv[1]) + "/NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use.jinja", coder = std::string(argv[1]) + "/Qwen3-Coder.jinja";
    deep_thread       thread;
    thread.start([&] {
        keeps_tools_apart(hermes);
        keeps_definitions_apart(hermes);
        keeps_parameters_apart(coder);
    });
    thread.join();
    return failures ? 1 : 0;
}
