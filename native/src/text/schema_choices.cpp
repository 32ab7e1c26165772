#include "text/schema_rewriter.h"

#include <algorithm>
#include <vector>

namespace kvfold {

static std::string type_of(const json & value) {
    return value.is_null()             ? "null"
           : value.is_boolean()        ? "boolean"
           : value.is_number_integer() ? "integer"
           : value.is_number()         ? "number"
           : value.is_string()         ? "string"
           : value.is_array()          ? "array"
                                       : "object";
}

static std::vector<std::string> keys_of(const json & object) {
    std::vector<std::string> keys;
    for (const auto & [key, _] : object.items()) {
        keys.push_back(key);
    }
    return keys;
}

json rewriter::node(const json & schema, const std::string & path) {
    const level inside(*this, path);
    if (schema.is_object() && schema.contains("$ref")) {
        const auto keys = keys_of(schema);
        if (std::all_of(keys.begin(), keys.end(), [](const auto & key) { return key == "$ref" || is_annotation(key); })) {
            return reference(text_of_ref(schema, path), path);
        }
    }
    json all = flat(schema, path);
    for (const char * key : { "not", "if", "dependentRequired", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef" }) {
        if (all.contains(key) && !(std::string(key) == "if" && !all.contains("then") && !all.contains("else"))) {
            unsupported(path, key);
        }
    }
    for (const char * key : { "anyOf", "oneOf" }) {
        if (all.contains(key)) {
            return alternatives(all, key, path);
        }
    }
    if (all.contains("const") || all.contains("enum")) {
        return constants(all, path);
    }
    return by_type(all, path);
}

json rewriter::alternatives(json all, const char * key, const std::string & path) {
    const json choices = all.at(key);
    if (!choices.is_array() || choices.empty()) {
        fail(path, std::string("\"") + key + "\" is no array with schemas");
    }
    all.erase(key);
    const auto keys  = keys_of(all);
    const bool plain = std::all_of(keys.begin(), keys.end(), is_annotation);
    json       made  = json::array(), whole = json::array();
    size_t     i     = 0;
    for (const auto & each : choices) {
        const std::string inner = path + "/" + key + "/" + std::to_string(i++);
        try {
            if (plain && std::string(key) == "anyOf") {
                made.push_back(node(each, inner));
            } else {
                const json joined = both(all, flat(each, inner), inner);
                made.push_back(plain ? node(each, inner) : node(joined, inner));
                whole.push_back(joined);
            }
        } catch (const unsatisfiable &) {
            // one choice fewer
        }
    }
    if (made.empty()) {
        throw unsatisfiable(std::string("every choice of \"") + key + "\" at " + where + path);
    }
    for (size_t a = 0; std::string(key) == "oneOf" && a < whole.size(); a++) {
        for (size_t b = 0; b < a; b++) {
            if (!exclude(whole.at(a), whole.at(b), path)) {
                unsupported(path, key, "an answer could be valid by two of its choices; \"anyOf\" allows that");
                a = whole.size();
                break;
            }
        }
    }
    if (made.size() == 1) {
        return made.at((size_t) 0);
    }
    json one = json::object();
    one["anyOf"] = made;
    return one;
}

bool rewriter::exclude(const json & a, const json & b, const std::string & path) {
    if (common_types(kinds(a, path), kinds(b, path)).empty()) {
        return true;
    }
    if (has_values(a) && has_values(b)) {
        const json ours = values_of(a), their = values_of(b);
        for (const auto & each : ours) {
            for (const auto & other : their) {
                if (each == other) {
                    return false;
                }
            }
        }
        return true;
    }
    if (!a.contains("properties") || !b.contains("properties")) {
        return false;
    }
    const auto needed = [](const json & schema) { return schema.contains("required") ? strings_of(schema.at("required")) : std::set<std::string>(); };
    const auto needed_a = needed(a), needed_b = needed(b);
    for (const auto & [name, value] : a.at("properties").items()) {
        if (b.at("properties").contains(name) && (needed_a.count(name) || needed_b.count(name)) && value.is_object() && b.at("properties").at(name).is_object() &&
            exclude(flat(value, path), flat(b.at("properties").at(name), path), path)) {
            return true;
        }
    }
    // closed objects that ask for each other's absence
    const auto closed_without = [](const json & schema, const std::set<std::string> & names) {
        return std::any_of(names.begin(), names.end(), [&](const auto & name) { return !schema.at("properties").contains(name); }) &&
               schema.contains("additionalProperties") && schema.at("additionalProperties") == false;
    };
    return closed_without(a, needed_b) || closed_without(b, needed_a);
}

std::set<std::string> rewriter::kinds(const json & schema, const std::string & path) {
    if (has_values(schema)) {
        std::set<std::string> types;
        for (const auto & each : values_of(schema)) {
            types.insert(type_of(each));
        }
        return types;
    }
    if (!schema.contains("type") && schema.contains("properties")) {
        return { "object" };
    }
    return types_of(schema, path);
}

json rewriter::constants(const json & all, const std::string & path) {
    json values = json::array();
    if (all.contains("enum") && !all.at("enum").is_array()) {
        fail(path, "\"enum\" is no array");
    }
    const json given = all.contains("const") ? json::array({ all.at("const") }) : all.at("enum");
    for (const auto & each : given) {
        if (allows(all, each, path)) {
            values.push_back(each);
        }
    }
    if (values.empty()) {
        throw unsatisfiable("no value of \"enum\" or \"const\" at " + where + path);
    }
    json one = json::object();
    one["enum"] = values;
    return one;
}

bool rewriter::allows(const json & all, const json & value, const std::string & path) {
    const auto        types = types_of(all, path);
    const std::string type  = type_of(value);
    if (!types.count(type) && !(type == "integer" && types.count("number"))) {
        return false;
    }
    if (all.contains("const") && all.contains("enum")) {
        bool there = false;
        for (const auto & each : all.at("enum")) {
            there = there || each == value;
        }
        if (!there) {
            return false;
        }
    }
    for (const auto & [key, _] : all.items()) {
        const double bound = value.is_number() && all.at(key).is_number() ? number(all, key, path) : 0;
        const double is    = value.is_number() ? value.get<double>() : 0;
        if (value.is_number() && ((key == "minimum" && is < bound) || (key == "maximum" && is > bound) ||
                                  (key == "exclusiveMinimum" && is <= bound) || (key == "exclusiveMaximum" && is >= bound))) {
            return false;
        }
        if (value.is_string() && (key == "minLength" || key == "maxLength")) {
            const std::string text   = value.get<std::string>();
            const auto        length = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
            if (key == "minLength" ? length < number(all, key, path) : length > number(all, key, path)) {
                return false;
            }
        }
        if ((value.is_string() && key == "pattern") || ((value.is_object() || value.is_array()) && !is_annotation(key) && key != "type" && key != "enum" && key != "const")) {
            unsupported(path, key, "it stands beside an enumeration");
        }
    }
    return true;
}

json rewriter::by_type(const json & all, const std::string & path) {
    std::set<std::string> types = types_of(all, path);
    if (!all.contains("type")) {
        types = implied(all);
        if (types.empty()) {
            return json::object(); // anything
        }
    }
    if (types.count("number")) {
        types.erase("integer");
    }
    json                         made = json::array();
    std::optional<unsatisfiable> none;
    for (const auto & type : types) {
        try {
            made.push_back(of_type(type, all, path));
        } catch (const unsatisfiable & e) {
            none = e;
        }
    }
    if (made.empty()) {
        throw none ? *none : unsatisfiable("no type is left at " + where + path);
    }
    if (made.size() == 1) {
        return made.at((size_t) 0);
    }
    json one = json::object();
    one["anyOf"] = made;
    return one;
}

std::set<std::string> rewriter::implied(const json & all) {
    static const std::pair<const char *, std::vector<const char *>> keywords[] = {
        { "object", { "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties" } },
        { "array", { "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains" } },
        { "string", { "pattern", "minLength", "maxLength", "format" } },
        { "number", { "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf" } },
    };
    std::set<std::string> types;
    for (const auto & [type, names] : keywords) {
        if (std::any_of(names.begin(), names.end(), [&](const char * name) { return all.contains(name); })) {
            types.insert(type);
        }
    }
    return types;
}

json rewriter::of_type(const std::string & type, const json & all, const std::string & path) {
    json one = json::object();
    if (type == "object") {
        one = object(all, path);
    } else if (type == "array") {
        one = array(all, path);
    } else if (type == "string") {
        one = string(all, path);
    } else if (type == "integer" || type == "number") {
        one = numeric(type, all, path);
    }
    if (!one.contains("enum")) {
        one["type"] = type;
    }
    return one;
}

} // namespace kvfold
