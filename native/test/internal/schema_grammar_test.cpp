// What the grammar of a schema lets through and what it keeps out. The official suite has more of it (schema_suite_test); these stand here
// for what it leaves out, or for a fault that there was.

#include "grammar_check.h"

#include "process/deep_thread.h"
#include "process/error.h"
#include "text/schema.h"

#include "json-schema-to-grammar.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

using namespace kvfold;

struct example {
    const char *              schema;
    std::vector<const char *> through, out;
};

static const example examples[] = {
    // properties and items that nothing has looked at yet
    { R"({"unevaluatedProperties": false})", { "{}" }, { R"({"a":1})", "1" } },
    { R"({"properties": {"a": {"type": "null"}}, "unevaluatedProperties": {"type": "string"}, "required": ["b"]})", { R"({"b":"x"})", R"({"b":"x","a":null})" }, { R"({"b":1})" } },
    { R"({"unevaluatedItems": false})", { "[]" }, { "[1]" } },
    { R"({"prefixItems": [{"const": 1}], "unevaluatedItems": false})", { "[1]" }, { "[1,1]" } },
    { R"({"type": "object", "allOf": [{"properties": {"a": true}}, {"unevaluatedProperties": false}]})", { "{}" }, { R"({"a":1})" } },
    { R"({"type": "object", "properties": {"a": {"type": "null"}}, "anyOf": [{"properties": {"b": {"type": "null"}}, "required": ["b"]}], "unevaluatedProperties": false})",
      { R"({"b":null})", R"({"b":null,"a":null})" }, { "{}", R"({"b":null,"c":null})" } },

    // both of two schemas
    { R"({"type": "array", "allOf": [{"prefixItems": [{"type": "integer"}]}, {"items": {"enum": [1, "a"]}, "minItems": 1}]})", { "[1]" }, { R"(["a"])", "[2]", "[]" } },
    { R"({"type": "array", "maxItems": 2, "allOf": [{"prefixItems": [true, {"const": 1}]}, {"prefixItems": [{"const": 2}]}]})", { "[2,1]" }, { "[1,1]", "[2,2]" } },
    { R"({"allOf": [{"type": "string", "nullable": true}, {"type": "string"}]})", { R"("a")" }, { "null" } },

    // tuples
    { R"({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "minItems": 3, "items": {"const": 3}})", { "[1,2,3]" }, { "[1,2]" } },
    { R"({"type": "array", "prefixItems": [{"const": 1}, false]})", { "[1]" }, { "[1,1]", "[]" } },
    { R"({"type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}, "minItems": 2})", { "[1,2]" }, { "[1,1]" } },

    // one of several
    { R"({"oneOf": [{"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}, {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]}]})",
      { R"({"a":null})", R"({"b":null})" }, { R"({"a":null,"b":null})" } },

    // numbers
    { R"({"enum": [1, 2, 3, 4.5], "multipleOf": 1.5})", { "3", "4.5" }, { "1", "2" } },
    { R"({"type": "integer", "const": 1.0})", { "1.0" }, { "1" } },
    { R"({"type": "integer", "minimum": -3e18, "maximum": 3e18, "multipleOf": 8e15})", { "0", "8000000000000000" }, { "1" } },
    { R"({"type": "integer", "minimum": 1, "exclusiveMinimum": true, "maximum": 3})", { "2", "3" }, { "1" } },

    { R"({"type": "number", "minimum": 0})", { "0", "0.5", "12.25", "1000000" }, { "-1", "-0.5", "1e5" } },
    { R"({"type": "number", "exclusiveMinimum": 0})", { "0.5", "0.01", "1", "3.0" }, { "0", "0.0", "-1" } },
    { R"({"type": "number", "minimum": 0, "maximum": 1})", { "0", "0.0", "0.75", "1", "1.0" }, { "1.01", "2", "-0.1", "10" } },
    { R"({"type": "number", "minimum": -1.5, "exclusiveMaximum": 12.25})", { "-1.5", "-1.49", "-0.1", "0", "9", "12", "12.2", "12.249" }, { "-1.51", "-2", "12.25", "12.3", "13", "100" } },
    { R"({"type": "number", "maximum": -10})", { "-10", "-10.5", "-99" }, { "-9", "-9.99", "0", "10" } },
    { R"({"type": "number", "multipleOf": 0.01, "minimum": 0})", { "1", "1.5", "1.25" }, { "1.255", "-1" } },
    { R"({"type": "number", "multipleOf": 1})", { "1", "-20" }, { "1.5", "1.0" } },
    { R"({"type": ["number", "null"], "minimum": 5})", { "5", "null", "50.5" }, { "4.9" } },

    // names of properties
    { R"({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}})", { "{}", R"({"a":null})", R"({"a":null,"b":null})" }, { R"({"c":null})", R"({"a":1})" } },
    { R"({"type": "object", "propertyNames": false})", { "{}" }, { R"({"a":1})" } },
    { R"({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}})", { "{}", R"({"ab":1,"c":{}})" }, { R"({"A":1})", R"({"":1})" } },
    { R"({"type": "object", "propertyNames": {"maxLength": 2}, "additionalProperties": {"type": "null"}})", { "{}", R"({"ab":null})" }, { R"({"abc":null})", R"({"ab":1})" } },
    { R"({"patternProperties": {"^x-\\d+$": {"type": "integer"}}, "additionalProperties": false})", { "{}", R"({"x-1":1,"x-22":2})" }, { R"({"x-":1})", R"({"x-1":"a"})", R"({"y":1})" } },
    { R"({"patternProperties": {"^q\"$": {"type": "integer"}}, "additionalProperties": false})", { R"({"q\"":1})" }, { R"({"q":1})" } },
    { R"({"type": "object", "patternProperties": {"^a$": false}, "additionalProperties": false})", { "{}" }, { R"({"a":1})" } },
    { R"({"type": "object", "properties": {"": {"const": 1}}, "required": [""]})", { R"({"":1})" }, { "1", "{}" } },
    { R"({"type": "object", "properties": {"": {"const": 1}, "a": {"$ref": "#"}}})", { R"({"":1})", R"({"":1,"a":{"":1}})", "{}" }, { "1" } },

    // items that differ
    { R"({"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": true, "minItems": 1})", { R"(["a"])", R"(["c","a"])", R"(["b","c","a"])" }, { "[]", R"(["a","a"])", R"(["a","b","a"])" } },
    { R"({"type": "array", "items": {"type": "boolean"}, "uniqueItems": true})", { "[]", "[true,false]" }, { "[true,true]" } },
    { R"({"type": "array", "items": {"$ref": "#/$defs/e"}, "uniqueItems": true, "maxItems": 2, "$defs": {"e": {"enum": [1, 2, 3, 4, 5, 6, 7]}}})", { "[7,1]" }, { "[1,1]", "[1,2,3]" } },

    // references by name
    { R"({"properties": {"a": {"$ref": "#name"}}, "required": ["a"], "$defs": {"x": {"$anchor": "name", "const": 1}}})", { R"({"a":1})" }, { R"({"a":2})" } },
    { R"({"$id": "https://example.org/all.json", "properties": {"a": {"$ref": "item.json"}}, "required": ["a"], "$defs": {"x": {"$id": "item.json", "const": 1}}})", { R"({"a":1})" }, { R"({"a":2})" } },
    { R"({"$id": "https://example.org/v1/all.json", "properties": {"a": {"$ref": "../v2/item.json#/$defs/b"}}, "required": ["a"],
          "$defs": {"x": {"$id": "/v2/item.json", "$defs": {"b": {"const": 1}}}, "b": {"const": 2}}})", { R"({"a":1})" }, { R"({"a":2})" } },
    { R"({"properties": {"a": {"$id": "http://x/", "$defs": {"b": {"type": "null"}}, "properties": {"c": {"$ref": "#/$defs/b"}}}}, "$defs": {"b": {"type": "string"}}})",
      { R"({"a":{"c":null}})" }, { R"({"a":{"c":"x"}})" } },
    { R"({"properties": {"$ref": {"const": "#x"}}, "required": ["$ref"]})", { R"({"$ref":"#x"})" }, { "{}" } },

    // strings
    { R"({"type": "string", "format": "date"})", { R"("2024-02-29")", R"("2000-02-29")", R"("2023-12-31")" }, { R"("2024-02-30")", R"("2023-02-29")", R"("1900-02-29")", R"("2023-04-31")" } },
    { R"({"type": "string", "format": "date-time"})", { R"("2024-02-29T23:59:59Z")", R"("2024-01-31T00:00:00.123+01:00")" }, { R"("2024-02-30T00:00:00Z")", R"("2024-01-01T24:00:00Z")", R"("2024-01-01T00:00:00-20:00")", R"("2024-01-01T00:00:00-00:00")" } },
    { R"({"type": "string", "format": "time"})", { R"("10:00:00.283185Z")", R"("10:00:00.9+05:30")" }, { R"("10:00:00")" } },
    { R"({"type": "string", "format": "duration"})", { R"("PT1H30M")", R"("P4DT12H30M5S")", R"("P2W")" }, { R"("PT1D")", R"("P")", R"("PT")", R"("PT1H5S")" } },
    { R"({"type": "string", "format": "ipv6"})", { R"("2001:db8::1")", R"("::1")", R"("::")", R"("1:2:3:4:5:6:7:8")" }, { R"("1::2::3")", R"("1:2")", R"("1:2:3:4:5:6:7:8:9")" } },
    { R"({"type": "string", "format": "uuid4"})", { R"("01234567-89ab-4def-8123-456789abcdef")" }, { R"("01234567-89ab-1def-8123-456789abcdef")" } },
    { R"({"type": "string", "format": "json-pointer"})", { R"("")", R"("/a~1b/0")" }, { R"("a")", R"("/~2")" } },
    { R"({"type": "string", "minLength": 2, "maxLength": 3})", { R"("ab")", "\"\xE5\xA4\xA9\xE6\xB0\x97\"" }, { R"("a")", R"("abcd")", R"("\ud83d\ude00")" } },
    { R"({"type": "string", "pattern": "^\\S$"})", { R"("a")" }, { "\"\xC2\xA0\"", "\"\xE3\x80\x80\"" } },
    { R"({"type": "string", "pattern": "^[^\\s]$"})", { R"("a")" }, { "\"\xC2\xA0\"" } },

    // what says nothing, and what older drafts say in other words
    { R"({"type": "null", "title": "t", "description": "d", "default": 1, "examples": [], "$comment": "c", "deprecated": true, "readOnly": true, "writeOnly": true,
          "contentMediaType": "text/plain", "$anchor": "a", "x-own": 1})", { "null" }, { "1" } },
    { R"({"type": "object", "properties": {"a": {"type": "null", "required": true}, "b": {"type": "null", "required": false}}})", { R"({"a":null})", R"({"a":null,"b":null})" }, { "{}" } },
    { R"({"type": "object", "propertyNames": true, "patternProperties": {}, "uniqueItems": true})", { "{}" }, { "1" } },

    // names that differ in what a rule's name cannot hold
    { R"({"type": "object", "properties": {"get-time": {"const": 1}, "get_time": {"const": 2}, "天気": {"const": 3}, "時刻": {"const": 4}}, "required": ["get-time", "get_time", "天気", "時刻"]})",
      { R"({"get-time":1,"get_time":2,"天気":3,"時刻":4})" }, { R"({"get-time":2,"get_time":2,"天気":3,"時刻":4})", R"({"get-time":1,"get_time":2,"天気":4,"時刻":4})" } },

    // nothing but what separates the parts of JSON
    { R"({"type": "array", "items": {"const": 1}})", { "[1,1]", "[1, 1]", "[\n1\n]" }, { "[1,  1]", "[\n    1]" } },
};

// Bounds of numbers, against the numbers near them.
static int misjudged() {
    static const double bounds[] = { -1000, -12.5, -1, -0.25, 0, 0.001, 0.1, 0.5, 1, 2.75, 9, 9.99, 10, 99, 100.01, 123456 };
    int                 wrong    = 0;
    for (const double low : bounds) {
        for (const double high : bounds) {
            for (const int kind : { 0, 1, 2, 3 }) {
                json schema = { { "type", "number" } };
                schema[kind & 1 ? "exclusiveMinimum" : "minimum"] = low;
                schema[kind & 2 ? "exclusiveMaximum" : "maximum"] = high;
                if (low > high || (low == high && kind != 0)) {
                    continue;
                }
                const grammar_ptr grammar = parse_grammar(json_schema_to_grammar(exact_schema(schema, "#", true), true));
                for (const double bound : bounds) {
                    for (const double off : { -1.0, -0.1, -0.001, 0.0, 0.001, 0.1, 1.0 }) {
                        char text[64];
                        snprintf(text, sizeof(text), "%.10g", bound + off);
                        const double value  = strtod(text, nullptr);
                        const bool   within = (kind & 1 ? value > low : value >= low) && (kind & 2 ? value < high : value <= high);
                        if (std::string(text).find('e') == std::string::npos && std::string(text) != "-0" && lets_through(*grammar, text) != within) {
                            fprintf(stderr, "%s: %s is %s\n", schema.dump().c_str(), text, within ? "kept out" : "let through");
                            wrong++;
                        }
                    }
                }
            }
        }
    }
    return wrong;
}

int main() {
    init_library();
    int         failures = 0;
    deep_thread thread;
    thread.start([&] {
        const abort_guard guard;
        failures += misjudged();
        for (const auto & each : examples) {
            const auto complain = [&](const std::string & what) {
                fprintf(stderr, "%s: %s\n", each.schema, what.c_str());
                failures++;
            };
            try {
                const grammar_ptr grammar = parse_grammar(json_schema_to_grammar(exact_schema(json::parse(each.schema), "#", true), true));
                for (const char * text : each.through) {
                    if (!lets_through(*grammar, text)) {
                        complain(std::string(text) + " is kept out");
                    }
                }
                for (const char * text : each.out) {
                    if (lets_through(*grammar, text)) {
                        complain(std::string(text) + " is let through");
                    }
                }
            } catch (const std::exception & e) {
                complain(e.what());
            }
        }
    });
    thread.join();
    return failures ? 1 : 0;
}
