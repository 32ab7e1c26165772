// Texts made at random, for fuzzers. What is made depends on the seed of the thread's `dice` alone.
#pragma once

#include "process/error.h"

#include <random>
#include <string>
#include <vector>

using kvfold::json;

inline thread_local std::mt19937 dice;

inline unsigned roll(unsigned n) {
    return dice() % n;
}

template <size_t N> std::string one_of(const char * const (&texts)[N]) {
    return texts[roll(N)];
}

inline std::string times(const std::string & text, unsigned n) {
    std::string all;
    while (n-- > 0) {
        all += text;
    }
    return all;
}

// A few bytes changed, taken away or doubled.
inline std::string spoiled(std::string text) {
    for (unsigned n = roll(4) == 0 ? 1 + roll(4) : 0; n > 0 && !text.empty(); n--) {
        const size_t at = roll((unsigned) text.size());
        switch (roll(4)) {
            case 0: text[at] = (char) dice(); break;
            case 1: text.erase(at, 1 + roll(8)); break;
            case 2: text.insert(at, text.substr(roll((unsigned) text.size()), roll(20))); break;
            case 3: text.insert(at, times(text.substr(at, 1), 1 + roll(3000))); break;
        }
    }
    return text;
}

// ---- grammars -----------------------------------------------------------------------------------------------------------

inline std::string random_item(unsigned rules, int depth) {
    static const char * const atoms[]  = { "\"a\"", "\"ab\"", "\"\"", "[a-c]", "[^a]", ".", "[]", "\"\\x41\"", "\"\\U0010FFFF\"", "<[3]>", "!<[3]>", "\"\xE4\xB8\x80\"" };
    static const char * const counts[] = { "", "", "", "*", "+", "?", "{2}", "{0,3}", "{3,1}", "{,2}", "{2,}", "{0}", "{1999,2000}", "{99999999999999999999}", "{0,0}" };
    std::string               text;
    for (unsigned n = 1 + roll(3); n > 0; n--) {
        const unsigned kind = roll(10);
        text += kind < 4                ? one_of(atoms)
                : kind < 8 || depth < 1 ? "r" + std::to_string(roll(rules + (roll(20) == 0)))
                                        : "(" + random_item(rules, depth - 1) + ")";
        text += one_of(counts) + " ";
        text += roll(4) == 0 ? "| " : "";
    }
    return text;
}

inline std::string random_grammar() {
    const unsigned rules = 1 + roll(roll(30) == 0 ? 3000 : 8);
    std::string    text  = "root ::= r0\n";
    for (unsigned i = 0; i < rules; i++) {
        text += "r" + std::to_string(i) + " ::= " + random_item(rules, 3) + (roll(50) == 0 ? times("(", roll(5000)) : "") + "\n";
    }
    return text;
}

// ---- schemas ------------------------------------------------------------------------------------------------------------

inline json random_value() {
    static const char * const values[] = { "null", "true", "false", "0", "-1", "3", "5", "2000", "1e16", "-9007199254740991", "9223372036854775807", "1e300", "0.5", "\"\"", "\"a\"",
                                           "[]", "{}", "[1,\"a\"]", "\"#\"", "\"^a{2,5}$\"", "\"date\"", "\"#/$defs/a\"", "\"#/properties/b\"", "18446744073709551615" };
    return json::parse(one_of(values));
}

inline json random_schema(int depth) {
    static const char * const types[]    = { "string", "integer", "number", "object", "array", "boolean", "null", "object", "martian" };
    static const char * const numbers[]  = { "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
                                             "minProperties", "maxProperties" };
    static const char * const others[]   = { "const", "enum", "format", "pattern", "required", "uniqueItems", "nullable", "$ref", "type", "additionalProperties", "items",
                                             "not", "if", "description", "properties", "allOf", "$id", "exclusiveMinimum", "minContains", "unknown" };
    static const char * const inner[]    = { "items", "additionalProperties", "not", "additionalItems", "contains", "unevaluatedItems", "unevaluatedProperties",
                                             "propertyNames" };
    static const char * const lists[]    = { "anyOf", "oneOf", "allOf", "prefixItems", "items" };
    static const char * const names[]    = { "a", "b", "\xE5\xA4\xA9\xE6\xB0\x97", "get-time", "get_time", "", "a/b", "\"" };
    json                      schema     = json::object();
    if (roll(12) == 0) {
        return roll(2) == 0;
    }
    if (roll(5) != 0) {
        schema["type"] = one_of(types);
    }
    if (roll(10) == 0) {
        schema["type"] = json::array({ one_of(types), one_of(types) });
    }
    for (unsigned n = roll(3); n > 0; n--) {
        schema[one_of(numbers)] = random_value();
    }
    if (roll(3) == 0) {
        schema[one_of(others)] = random_value();
    }
    if (roll(6) == 0) {
        schema["$ref"] = std::vector<std::string>{ "#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#/$defs/a~1b", "#/%24defs/a", "x" }[roll(7)];
    }
    if (depth > 0 && roll(2) == 0) {
        json properties = json::object();
        for (unsigned n = roll(4); n > 0; n--) {
            properties[one_of(names)] = random_schema(depth - 1);
        }
        schema["properties"] = properties;
        schema["required"] = json::array({ one_of(names) });
    }
    if (depth > 0 && roll(4) == 0) {
        schema[one_of(inner)] = random_schema(depth - 1);
    }
    if (depth > 0 && roll(4) == 0) {
        json list = json::array();
        for (unsigned n = 1 + roll(3); n > 0; n--) {
            list.push_back(random_schema(depth - 1));
        }
        schema[one_of(lists)] = list;
    }
    return schema;
}

// With definitions that it may refer to.
inline json random_document() {
    json schema = random_schema(4);
    if (schema.is_object()) {
        schema["$defs"] = json::object();
        for (const char * name : { "a", "b", "a/b" }) {
            schema["$defs"][name] = random_schema(2);
        }
    }
    return schema;
}

// ---- templates ----------------------------------------------------------------------------------------------------------

inline std::string random_expression(int depth) {
    static const char * const atoms[]   = { "messages", "m", "x", "ns.x", "1", "0", "-1", "'a'", "[]", "{}", "true", "none", "add_generation_prompt", "tools", "99999999999", "messages[0].content",
                                            "loop.index", "'%s'", "bos_token" };
    static const char * const filters[] = { "length", "list", "tojson", "tojson(indent=1000000)", "join('aaaa')", "replace('a', 'aaaaaaaaaaaaaaaaaaaaaaaa')", "upper", "trim", "first", "last", "items",
                                            "string", "int", "sort", "unique", "reverse", "indent(1000000)", "batch(2)", "map(attribute='role')", "selectattr('role')", "default('z')", "abs", "sum", "dictsort" };
    static const char * const binary[]  = { "+", "-", "*", "/", "%", "~", "==", "<", "in", "and", "or", "is defined or", "//", "**" };
    if (depth <= 0) {
        return one_of(atoms);
    }
    switch (roll(9)) {
        case 0:  return "(" + random_expression(depth - 1) + " " + one_of(binary) + " " + random_expression(depth - 1) + ")";
        case 1:  return random_expression(depth - 1) + " | " + one_of(filters);
        case 2:  return "[" + random_expression(depth - 1) + ", " + random_expression(depth - 1) + "]";
        case 3:  return "{'a': " + random_expression(depth - 1) + "}";
        case 4:  return "f(" + random_expression(depth - 1) + ")";
        case 5:  return "range(" + random_expression(depth - 1) + ")";
        case 6:  return random_expression(depth - 1) + "[" + random_expression(depth - 1) + ":" + random_expression(depth - 1) + "]";
        case 7:  return "(" + random_expression(depth - 1) + " if " + random_expression(depth - 1) + " else " + random_expression(depth - 1) + ")";
        default: return one_of(atoms);
    }
}

inline std::string random_block(int depth) {
    std::string text;
    for (unsigned n = 1 + roll(3); n > 0; n--) {
        const std::string value = random_expression(2);
        const std::string body  = depth > 0 ? random_block(depth - 1) : "z";
        switch (roll(8)) {
            case 0:  text += "{% for m in " + value + " %}" + body + "{% endfor %}"; break;
            case 1:  text += "{% for m in range(" + std::to_string(1 << roll(24)) + ") %}" + body + "{% endfor %}"; break;
            case 2:  text += "{% if " + value + " %}" + body + "{% else %}y{% endif %}"; break;
            case 3:  text += "{% set x = " + value + " %}"; break;
            case 4:  text += "{% set ns.x = ns.x ~ ns.x %}"; break;
            case 5:  text += "{% set ns.x = [ns.x, " + value + "] %}"; break;
            case 6:  text += "{% macro f(x) %}" + body + "{% endmacro %}"; break;
            default: text += "{{ " + value + " }}"; break;
        }
    }
    return text;
}

inline std::string random_template() {
    return "{% set ns = namespace(x='a') %}" + random_block(3);
}

// ---- patterns -----------------------------------------------------------------------------------------------------------

inline std::string random_pattern(int depth) {
    static const char * const atoms[]  = { "a", "[a-z]", "[^a]", ".", "\\d", "\\S", "\\w", "\\p{L}", "\\u0041", "[\\s\\S]", "^", "$", "\\b", "\"", "\\\\", "[", "]", "{", "}", "\\1", "[[:alpha:]]", "\xE4\xB8\x80" };
    static const char * const counts[] = { "", "", "*", "+", "?", "*?", "{2}", "{2,}", "{0,3}", "{3,1}", "{0,99999999}", "{100}" };
    static const char * const opens[]  = { "(", "(?:", "(?=", "(?!", "(?<n>", "(?<=", "(?i:" };
    std::string               text;
    for (unsigned n = 1 + roll(3); n > 0; n--) {
        text += depth > 0 && roll(3) == 0 ? one_of(opens) + random_pattern(depth - 1) + ")" : one_of(atoms);
        text += one_of(counts) + (roll(5) == 0 ? "|" : "");
    }
    return text;
}
