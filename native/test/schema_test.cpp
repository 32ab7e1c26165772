// What a schema becomes: the right grammar, or an error that names the keyword and the place.

#include "kvfold_test.h"

#include <chrono>

using namespace kvfold_test;

static answer convert(const json & schema) {
    return call([&](char ** out) { return kvfold_schema_to_grammar(schema.dump().c_str(), out); });
}

static std::string grammar_of(const char * schema) {
    const answer a = convert(json::parse(schema));
    if (a.status != KVFOLD_OK) {
        fprintf(stderr, "%s: %s\n", schema, a.text.c_str());
        CHECK(false);
        return "";
    }
    return a.object().at("grammar");
}

static void refused(const char * schema, int status, const char * words) {
    const answer a = convert(json::parse(schema));
    if (a.status != status || !a.mentions(words)) {
        fprintf(stderr, "%s gives %d, %s\n", schema, a.status, a.text.substr(0, 400).c_str());
        CHECK(false);
    }
}

static void refuses_contradictions() {
    for (const char * schema : {
             R"({"type": "string", "minLength": 5, "maxLength": 3})", R"({"type": "array", "minItems": 2, "maxItems": 1})",
             R"({"type": "integer", "minimum": 5, "maximum": 3})", R"({"type": "integer", "minimum": 5, "exclusiveMaximum": 5})", R"({"allOf": [{"type": "string"}, {"type": "null"}]})",
             R"({"enum": ["a"], "type": "integer"})", R"({"anyOf": [false, {"const": 1, "type": "string"}]})", R"({"type": "object", "properties": {"a": false}, "required": ["a"]})",
             R"({"allOf": [{"const": 1}, {"const": 2}]})",
         }) {
        refused(schema, KVFOLD_ERROR_INVALID_ARGUMENT, "no answer can be valid");
    }
    refused(R"({"const": 3, "multipleOf": 2})", KVFOLD_ERROR_INVALID_ARGUMENT, "no answer can be valid");
    refused(R"({"type": "string", "pattern": "^a\\Z"})", KVFOLD_ERROR_INVALID_ARGUMENT, "\\\\Z has no meaning");
    refused(R"({"type": "integer", "minimum": 1e30})", KVFOLD_ERROR_INVALID_ARGUMENT, "64 bits");
    refused(R"({"type": "strin"})", KVFOLD_ERROR_INVALID_ARGUMENT, "'strin'");
    refused(R"({"$ref": "#/$defs/x"})", KVFOLD_ERROR_INVALID_ARGUMENT, "which is not there");
    refused(R"({"$ref": "other.json"})", KVFOLD_ERROR_INVALID_ARGUMENT, "same document");
    refused(R"({"type": "string", "minLength": 100000})", KVFOLD_ERROR_INVALID_ARGUMENT, "limit is 2000");
    for (const char * schema : { R"({"$ref": "#"})", R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})", R"({"allOf": [{"$ref": "#"}], "type": "object"})",
                                 R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}})" }) {
        refused(schema, KVFOLD_ERROR_INVALID_ARGUMENT, "leads back to itself");
    }
    refused(R"({"$ref": "#anchor", "$defs": {"a": {"$id": "http://x/y", "$anchor": "anchor"}}})", KVFOLD_ERROR_INVALID_ARGUMENT, "same document");
    refused(R"({"type": "number", "minimum": 2, "exclusiveMaximum": 2})", KVFOLD_ERROR_INVALID_ARGUMENT, "no answer can be valid");
    refused(R"({"type": "array", "items": {"enum": [1, 2, 2.0]}, "minItems": 3, "uniqueItems": true})", KVFOLD_ERROR_INVALID_ARGUMENT, "no answer can be valid");
    refused(R"({"type": "object", "propertyNames": {"enum": ["a"]}, "required": ["b"]})", KVFOLD_ERROR_INVALID_ARGUMENT, "no answer can be valid");
    refused(R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})", KVFOLD_ERROR_INVALID_ARGUMENT, "never ends");
}

static void names_what_no_grammar_holds() {
    const std::pair<const char *, const char *> schemas[] = {
        { R"({"properties": {"a": {"not": {"type": "null"}}}})", R"(\"not\")" },
        { R"({"properties": {"a": {"type": "number", "minimum": 1e-9, "maximum": 1e14}}})", R"(/properties/a has \"minimum\")" },
        { R"({"type": "number", "minimum": 1e300})", R"(\"minimum\")" },
        { R"({"type": "number", "multipleOf": 0.3})", R"(\"multipleOf\")" },
        { R"({"type": "array", "uniqueItems": true, "items": {"type": "integer"}})", R"(\"uniqueItems\")" },
        { R"({"type": "array", "uniqueItems": true, "items": {"enum": [1, 2, 3, 4, 5, 6]}})", R"(\"uniqueItems\")" },
        { R"({"type": "array", "uniqueItems": true, "prefixItems": [{"enum": [1]}], "items": {"enum": [1, 2]}})", R"(\"uniqueItems\")" },
        { R"({"patternProperties": {"^a$": true, "^b$": true}, "additionalProperties": false})", R"(\"patternProperties\")" },
        { R"({"patternProperties": {"^a$": true}, "properties": {"b": true}, "additionalProperties": false})", R"(\"patternProperties\")" },
        { R"({"allOf": [{"patternProperties": {"^a$": true}}, {"additionalProperties": false}]})", R"(\"patternProperties\")" },
        { R"({"type": "object", "propertyNames": {"not": {"const": "a"}}})", R"(\"propertyNames\")" },
        { R"({"type": "object", "propertyNames": {"pattern": "^a"}, "properties": {"b": true}})", R"(\"propertyNames\")" },
        { R"({"type": "integer", "multipleOf": 7})", R"(\"multipleOf\")" },
        { R"({"type": "array", "uniqueItems": true})", R"(\"uniqueItems\")" },
        { R"({"type": "object", "patternProperties": {"a": {}}})", R"(\"patternProperties\")" },
        { R"({"type": "object", "minProperties": 3})", R"(\"minProperties\")" },
        { R"({"if": {}, "then": {"type": "null"}})", R"(\"if\")" },
        { R"({"type": "string", "pattern": "^(?=a)b$"})", R"(\"pattern\")" },
        { R"({"type": "string", "format": "martian"})", "martian" },
        { R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})", R"(\"oneOf\")" },
        { R"({"oneOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"type": "string"}]})", R"(\"oneOf\")" },
        { R"({"type": "object", "patternProperties": {"a": true}})", R"(\"patternProperties\")" },
        { R"({"type": "object", "patternProperties": {"a": false}, "additionalProperties": true})", R"(\"patternProperties\")" },
        { R"({"type": "array", "contains": true})", R"(\"contains\")" },
        { R"({"type": "array", "contains": false, "minContains": 0})", R"(\"contains\")" },
        { R"({"contains": {"const": 1}, "minContains": 2, "maxContains": 3})", R"(\"contains\")" },
        { R"({"allOf": [{"anyOf": [{"properties": {"a": {}}}], "unevaluatedProperties": false}]})", R"(\"unevaluatedProperties\")" },
        { R"({"type": "string", "maxLenght": 3})", R"(# has \"maxLenght\": it is not known)" },
        { R"({"properties": {"a": {"type": "array", "minimumItems": 3}}})", R"(#/properties/a has \"minimumItems\")" },
        { R"({"type": "string", "enum": ["a"], "pattern": "b"})", R"(\"pattern\")" },
        { R"({"enum": ["2024-02-30"], "format": "date"})", R"(\"format\")" },
        { R"({"const": [1], "uniqueItems": true})", R"(\"uniqueItems\")" },
        { R"({"type": "string", "format": "regex"})", "'regex' is not known" },
    };
    for (const auto & [schema, words] : schemas) {
        refused(schema, KVFOLD_ERROR_UNSUPPORTED, words);
    }
}

// Every one ended in a grammar without end, or in one that passes over what it says.
static void converts_what_it_holds() {
    CHECK(grammar_of(R"({"type": "integer", "minimum": 1e16})").size() < 10000);
    CHECK(grammar_of(R"({"type": "integer", "minimum": 10000000000000000})").size() < 10000);
    CHECK(grammar_of(R"({"type": "integer", "maximum": -9007199254740991})").size() < 10000);
    CHECK(grammar_of(R"({"type": "integer", "minimum": -9223372036854775808, "maximum": 9223372036854775807})").size() < 10000);
    CHECK(grammar_of(R"({"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#"}}}, "required": ["a"]})").find("d0") != std::string::npos);
    CHECK(grammar_of(R"({"properties": {"x": {"$ref": "#/$defs/a~1b"}}, "$defs": {"a/b": {"const": "slash"}}})").find("slash") != std::string::npos);
    CHECK(grammar_of(R"({"properties": {"extra": true, "none": false}})").find("none") == std::string::npos);
    const std::string two = grammar_of(R"({"properties": {"x": {"$ref": "#/$defs/天気"}, "y": {"$ref": "#/$defs/時刻"}}, "required": ["x", "y"], "$defs": {"天気": {"const": "sun"}, "時刻": {"const": "noon"}}})");
    CHECK(two.find("sun") != std::string::npos && two.find("noon") != std::string::npos);
    const std::string base = grammar_of(R"({"allOf": [{"$ref": "#/$defs/base"}], "properties": {"own": {"type": "null"}}, "required": ["own"], "$defs": {"base": {"properties": {"id": {"type": "integer"}}, "required": ["id"]}}})");
    CHECK(base.find("id") != std::string::npos && base.find("own") != std::string::npos);
    CHECK(grammar_of(R"({"type": "number", "anyOf": [{"type": "integer"}, {"type": "null"}]})").find("decimal") == std::string::npos);
    CHECK(grammar_of(R"({"type": "string", "pattern": "[0-9]"})").find("*") != std::string::npos);
    CHECK(grammar_of(R"({"type": "string", "pattern": "^\\d{3}-\\w+$"})").find("{3,3}") != std::string::npos);
    CHECK(grammar_of(R"({"type": "string", "format": "email"})").find("0040") != std::string::npos);
    CHECK(grammar_of(R"({"type": "integer", "multipleOf": 25, "minimum": 0, "maximum": 100})").find("75") != std::string::npos);
    CHECK(grammar_of(R"({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": false})").find("tuple-1") != std::string::npos);
    CHECK(grammar_of(R"({"type": ["string"], "nullable": true})").find("null") != std::string::npos);
}

static void bounds_what_grows() {
    json wide = json::object();
    for (int i = 0; i < 400; i++) {
        wide["p" + std::to_string(i)] = { { "type", "null" } };
    }
    const answer optional = convert({ { "properties", wide } });
    CHECK_EQUAL(optional.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK(optional.mentions("400 optional properties"));

    json nested = { { "type", "null" } };
    for (int i = 0; i < 15; i++) { // which is 2^15 parts
        nested = { { "type", { "object", "object", "array" } }, { "properties", { { "a", nested } } }, { "items", nested } };
    }
    CHECK_EQUAL(convert(nested).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);

    json twice = { { "type", "null" } };
    for (int i = 0; i < 15; i++) {
        twice = { { "anyOf", { { { "properties", { { "a", twice } } } }, { { "properties", { { "b", twice } } } } } }, { "properties", { { "c", { { "type", "null" } } } } } };
    }
    CHECK_EQUAL(convert(twice).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);

    json all = json::array(); // 10^6 choices
    for (int i = 0; i < 6; i++) {
        json some = json::array();
        for (int j = 0; j < 10; j++) {
            some.push_back({ { "required", { "p" + std::to_string(10 * i + j) } } });
        }
        all.push_back({ { "anyOf", some } });
    }
    const auto begin = std::chrono::steady_clock::now();
    CHECK_EQUAL(convert({ { "type", "object" }, { "allOf", all } }).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    json deep = { { "enum", json::array() } };
    for (int i = 0; i < 300000; i++) {
        deep["enum"].push_back(i);
    }
    for (int i = 0; i < 90; i++) {
        deep = { { "properties", { { "a", deep } } } };
    }
    const answer large = convert(deep);
    CHECK(large.mentions("too large"));
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));

    const answer name = convert({ { "properties", { { std::string(300000, 'n'), { { "type", "null" } } } } } });
    CHECK_EQUAL(name.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
}

// The template tells the names of the tools that reach it.
static void keeps_to_the_choice_of_tools() {
    const engine e({ { "model", tiny_model() }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 },
                     { "chat-template", "{% for t in tools %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}" } });
    CHECK(e.ok());
    json body = { { "messages", { { { "role", "user" }, { "content", "a" } } } }, { "tools", json::array() } };
    for (const char * name : { "f", "g", "h" }) {
        body["tools"].push_back({ { "type", "function" }, { "function", { { "name", name }, { "parameters", { { "type", "object" } } } } } });
    }
    const auto tools_for = [&](const json & choice) {
        body["tool_choice"] = choice;
        answer     last;
        const json told = run(e, "/apply-template", body, &last);
        if (last.status != KVFOLD_DONE) {
            return last.message();
        }
        const std::string prompt = told.at("prompt");
        return prompt.substr(0, prompt.rfind(']') + 1);
    };
    CHECK_EQUAL(tools_for("auto"), std::string("[f][g][h]"));
    CHECK_EQUAL(tools_for({ { "type", "function" }, { "function", { { "name", "g" } } } }), std::string("[g]"));
    CHECK_EQUAL(tools_for({ { "type", "tool" }, { "name", "h" } }), std::string("[h]"));
    CHECK_EQUAL(tools_for({ { "type", "none" } }), std::string(""));
    CHECK_EQUAL(tools_for({ { "type", "allowed_tools" }, { "mode", "auto" }, { "tools", { { { "type", "function" }, { "name", "f" } }, { { "type", "function" }, { "name", "h" } } } } }),
                std::string("[f][h]"));
    CHECK(tools_for({ { "type", "function" }, { "function", { { "name", "x" } } } }).find("'x'") != std::string::npos);
    CHECK(tools_for({ { "type", "often" } }).find("cannot be") != std::string::npos);
}

// The grammar is of other words than the schema; the model still reads what the parameters mean.
static void shows_what_parameters_mean() {
    const engine e({ { "model", tiny_model() }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 },
                     { "chat-template", "{% for t in tools %}{{ t.function.parameters | tojson }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}" } });
    CHECK(e.ok());
    const json city = { { "type", "string" }, { "pattern", "^[A-Z][a-z]+$" }, { "description", "where it is" }, { "default", "Bonn" } };
    const json size = { { "type", "number" }, { "minimum", 0 }, { "description", "in metres" } };
    const json body = { { "messages", { { { "role", "user" }, { "content", "a" } } } },
                        { "tools", { { { "type", "function" },
                                       { "function", { { "name", "f" },
                                                       { "parameters", { { "type", "object" }, { "properties", { { "city", city }, { "size", size } } }, { "required", { "city" } } } } } } } } } };
    const std::string prompt = run(e, "/apply-template", body).value("prompt", "");
    for (const char * part : { "where it is", "Bonn", "in metres", "\"minimum\": 0" }) {
        CHECK(prompt.find(part) != std::string::npos);
    }
    CHECK(prompt.find("x-kvfold") == std::string::npos);
}

int main() {
    shows_what_parameters_mean();
    keeps_to_the_choice_of_tools();
    refuses_contradictions();
    names_what_no_grammar_holds();
    converts_what_it_holds();
    bounds_what_grows();
    return report();
}
