#include "text/schema_rewriter.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace kvfold {

// 1.0 is one, too.
static bool is_integer(const json & value) {
    return value.is_number() && (value.is_number_integer() || value.get<double>() == std::floor(value.get<double>()));
}

static std::string type_of(const json & value) {
    return value.is_null()             ? "null"
           : value.is_boolean()        ? "boolean"
           : is_integer(value)         ? "integer"
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
    json made = unnamed(schema, path);
    if (schema.is_object()) { // what the model is told of it beside its type
        for (const char * key : { "title", "description", "default", "examples" }) {
            if (schema.contains(key) && !made.contains(key)) {
                made[key] = schema.at(key);
            }
        }
    }
    return made;
}

json rewriter::unnamed(const json & schema, const std::string & path) {
    const level inside(*this, path);
    if (schema.is_object() && schema.contains("$ref")) {
        const auto keys = keys_of(schema);
        if (std::all_of(keys.begin(), keys.end(), [](const auto & key) { return key == "$ref" || is_annotation(key); })) {
            return reference(text_of_ref(schema, path), path);
        }
    }
    json all = flat(schema, path);
    for (const auto & key : keys_of(all)) {
        if (!is_annotation(key) && !type_of_keyword(key)) {
            unsupported(path, key, "it is not known");
        }
    }
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
    all = closed(all, path);
    return has_values(all) ? constants(all, path) : by_type(all, path);
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
                const json joined = both(all, flat_part(each, inner), inner);
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
        count_parts(a / 16, path);
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
    auto shared = common_types(written(a, path), accepted(b, path));
    shared.merge(common_types(written(b, path), accepted(a, path)));
    if (shared.empty()) {
        return true;
    }
    if (has_values(a) && has_values(b)) {
        const json ours = values_of(a), their = values_of(b);
        count_parts(ours.size() * their.size() / 10'000, path);
        for (const auto & each : ours) {
            for (const auto & other : their) {
                if (each == other) {
                    return false;
                }
            }
        }
        return true;
    }
    return shared == std::set<std::string>{ "object" } && exclude_objects(a, b, path);
}

bool rewriter::exclude_parts(const json & a, const json & b, const std::string & path) {
    const part one(*this);
    return exclude(flat(a, path), flat(b, path), path);
}

bool rewriter::exclude_objects(const json & a, const json & b, const std::string & path) {
    const auto needed = [](const json & schema) { return schema.contains("required") ? strings_of(schema.at("required")) : std::set<std::string>(); };
    const auto needed_a = needed(a), needed_b = needed(b);
    const json none   = json::object();
    const json ours = a.contains("properties") ? a.at("properties") : none, their = b.contains("properties") ? b.at("properties") : none;
    for (const auto & [name, value] : ours.items()) {
        if (their.contains(name) && (needed_a.count(name) || needed_b.count(name)) && value.is_object() && their.at(name).is_object() &&
            exclude_parts(value, their.at(name), path)) {
            return true;
        }
    }
    const auto lacks = [](const json & schema, const json & properties, const std::set<std::string> & own, const std::set<std::string> & names) {
        const bool all_named = (!properties.empty() || !own.empty()) && !schema.contains("anyOf") && !schema.contains("oneOf"); // which is all that is written
        return all_named && std::any_of(names.begin(), names.end(), [&](const auto & name) { return !properties.contains(name) && !own.count(name); });
    };
    return lacks(a, ours, needed_a, needed_b) && lacks(b, their, needed_b, needed_a);
}

std::set<std::string> rewriter::accepted(const json & schema, const std::string & path) const {
    if (!has_values(schema)) {
        return types_of(schema, path);
    }
    std::set<std::string> types;
    for (const auto & each : values_of(schema)) {
        types.insert(type_of(each));
    }
    return types;
}

std::set<std::string> rewriter::written(const json & schema, const std::string & path) const {
    const bool meant = !has_values(schema) && !schema.contains("type") && !schema.contains("anyOf") && !schema.contains("oneOf");
    const auto types = meant ? implied(schema) : std::set<std::string>();
    return types.empty() ? accepted(schema, path) : types;
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
    for (const auto & [key, limit] : all.items()) {
        const auto about = type_of_keyword(key);
        if (value.is_number() && about == "number") {
            if (!within(value.get<double>(), key, number(all, key, path))) {
                return false;
            }
        } else if (value.is_string() && (key == "minLength" || key == "maxLength")) {
            const std::string text   = value.get<std::string>();
            const auto        length = (double) std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
            if (key == "minLength" ? length < number(all, key, path) : length > number(all, key, path)) {
                return false;
            }
        } else if (about == type && !(key == "format" && limit.is_string() && is_plain_format(limit.get<std::string>()))) {
            unsupported(path, key, "it stands beside an enumeration");
        }
    }
    return true;
}

bool rewriter::within(double value, const std::string & key, double limit) {
    if (key == "multipleOf") {
        const double n = std::round(value / limit); // of decimal fractions, which double does not hold exactly
        return limit > 0 && std::abs(n) < 1e15 && std::abs(n * limit - value) <= 1e-15 * std::abs(value);
    }
    return key == "minimum" ? value >= limit : key == "maximum" ? value <= limit : key == "exclusiveMinimum" ? value > limit : value < limit;
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
    std::set<std::string> types;
    for (const auto & key : keys_of(all)) {
        const auto type = type_of_keyword(key).value_or("");
        if (!type.empty()) {
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
