#include "text/schema_rewriter.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace kvfold {

static constexpr size_t max_nodes = 20'000;
static constexpr size_t max_depth = 200;
static constexpr size_t max_copied = 10'000'000; // values, which takes a second or two

static const char * const type_names[] = { "null", "boolean", "integer", "number", "string", "array", "object" };

static std::set<std::string> all_types() {
    return { std::begin(type_names), std::end(type_names) };
}

std::set<std::string> strings_of(const json & array) {
    std::set<std::string> strings;
    for (const auto & each : array) {
        if (each.is_string()) {
            strings.insert(each.get<std::string>());
        }
    }
    return strings;
}

json array_of(const std::set<std::string> & strings) {
    json array = json::array();
    for (const auto & each : strings) {
        array.push_back(each);
    }
    return array;
}

bool is_annotation(const std::string & key) {
    static const std::set<std::string> names = {
        "title", "description", "default", "examples", "example", "$comment", "$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$defs", "definitions",
        "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema", "discriminator", "$vocabulary", "strict", "then", "else",
        // of OpenAPI, and of those who ask models
        "xml", "externalDocs", "propertyOrdering",
    };
    return names.count(key) == 1 || key.rfind("x-", 0) == 0;
}

std::optional<std::string> type_of_keyword(const std::string & key) {
    static const std::map<std::string, std::string> types = [] {
        static const std::pair<const char *, std::vector<const char *>> keywords[] = {
            { "", { "type", "enum", "const", "anyOf", "oneOf", "not", "if", "$dynamicRef", "$recursiveRef" } },
            { "object", { "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties",
                          "dependentRequired", "dependentSchemas", "dependencies" } },
            { "array", { "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems" } },
            { "string", { "pattern", "minLength", "maxLength", "format" } },
            { "number", { "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf" } },
        };
        std::map<std::string, std::string> all;
        for (const auto & [type, names] : keywords) {
            for (const char * name : names) {
                all[name] = type;
            }
        }
        return all;
    }();
    const auto found = types.find(key);
    return found == types.end() ? std::nullopt : std::optional<std::string>(found->second);
}

rewriter::level::level(rewriter & owner, const std::string & path) : owner(owner) {
    if (++owner.depth > max_depth) {
        owner.depth--;
        owner.fail(path.substr(0, 200), "it is nested more than " + std::to_string(max_depth) + " levels deep");
    }
    try {
        owner.count_parts(1, path);
    } catch (...) {
        owner.depth--;
        throw;
    }
}

void rewriter::count_parts(size_t n, const std::string & path) {
    nodes += n;
    if (nodes > max_nodes) {
        fail(path.substr(0, 200), "written out it has more than " + std::to_string(max_nodes) + " parts");
    }
}

// Values, and what texts take beyond one.
static size_t size_of(const json & value, size_t most) {
    size_t size = 1 + (value.is_string() ? value.get<std::string>().size() / 64 : 0);
    if (value.is_object()) {
        for (const auto & [key, inner] : value.items()) {
            size += size <= most ? key.size() / 64 + size_of(inner, most - size) : 0;
        }
    } else if (value.is_array()) {
        for (const auto & inner : value) {
            size += size <= most ? size_of(inner, most - size) : 0;
        }
    }
    return size;
}

void rewriter::count(const json & schema, const std::string & path) {
    copied += size_of(schema, max_copied - std::min(copied, max_copied));
    if (copied > max_copied) {
        fail(path.substr(0, 200), "it is too large");
    }
}

rewriter::way::way(rewriter & owner, const std::string & ref, const std::string & path) : owner(owner), ref(ref) {
    if (!owner.followed.insert(ref).second) {
        owner.fail(path, "\"$ref\" '" + ref + "' leads back to itself");
    }
}

void rewriter::fail(const std::string & path, const std::string & why) const {
    throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the schema at " + where + path + " cannot be used: " + why);
}

void rewriter::unsupported(const std::string & path, const std::string & keyword, const std::string & why) {
    if (strict) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "the schema at " + where + path + " has \"" + keyword + "\": " + why);
    }
    dropped.insert("\"" + keyword + "\" at " + where + path);
}

const json & rewriter::resolve(const std::string & ref, const std::string & path) {
    if (ref.empty() || ref[0] != '#' || (ref.size() > 1 && ref[1] != '/')) {
        fail(path, "\"$ref\" is '" + ref + "', but only those into the same document are followed (#/...)");
    }
    const json * target = &root;
    size_t       at     = 1;
    while (at < ref.size()) {
        const size_t end  = std::min(ref.find('/', at + 1), ref.size());
        const auto   part = unescaped(ref.substr(at + 1, end - at - 1));
        if (target->is_object() && target->contains(part)) {
            target = &target->at(part);
        } else if (target->is_array() && !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos &&
                   std::stoul(part) < target->size()) {
            target = &target->at((size_t) std::stoul(part));
        } else {
            fail(path, "\"$ref\" is '" + ref + "', which is not there");
        }
        at = end;
    }
    return *target;
}

std::string rewriter::unescaped(const std::string & part) {
    const auto  hex = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
    std::string text;
    for (size_t i = 0; i < part.size(); i++) {
        if (part[i] == '%' && i + 2 < part.size() && hex(part[i + 1]) >= 0 && hex(part[i + 2]) >= 0) {
            text += (char) (hex(part[i + 1]) * 16 + hex(part[i + 2]));
            i += 2;
        } else {
            text += part[i];
        }
    }
    for (size_t at = text.find('~'); at != std::string::npos && at + 1 < text.size(); at = text.find('~', at + 1)) {
        text.replace(at, 2, text[at + 1] == '1' ? "/" : "~");
    }
    return text;
}

std::string rewriter::text_of_ref(const json & schema, const std::string & path) const {
    const json & ref = schema.at("$ref");
    if (!ref.is_string()) {
        fail(path, "\"$ref\" is no string");
    }
    return ref.get<std::string>();
}

json rewriter::reference(const std::string & ref, const std::string & path) {
    const auto found = names.find(ref);
    if (found == names.end()) {
        const std::string name = prefix + "d" + std::to_string(names.size());
        names[ref]             = name;
        definitions[name]      = json::object(); // its place
        const size_t outer = std::exchange(depth, 0); // a chain of references may be long, and a part of each is one of max_nodes
        try {
            const way  followed(*this, ref, path);
            const json made   = node(resolve(ref, path), ref.substr(1));
            definitions[name] = made;
        } catch (const unsatisfiable &) {
            depth = outer;
            impossible.insert(ref);
            throw;
        }
        depth = outer;
    } else if (impossible.count(ref)) {
        throw unsatisfiable("'" + ref + "' at " + where + path);
    } else if (followed.count(ref)) {
        const way back(*this, ref, path); // which throws
    }
    return json({ { "$ref", "#/$defs/" + names.at(ref) } });
}

json rewriter::flat(const json & schema, const std::string & path) {
    const level inside(*this, path);
    if (schema.is_boolean()) {
        if (!schema.get<bool>()) {
            throw unsatisfiable("false at " + where + path);
        }
        return json::object();
    }
    if (!schema.is_object()) {
        fail(path, "it is neither an object nor a boolean");
    }
    count(schema, path);
    json all = modern(schema, path);
    for (const char * key : { "$id", "$ref", "allOf" }) {
        all.erase(key);
    }
    if (schema.contains("$ref")) {
        const std::string ref = text_of_ref(schema, path);
        const way         followed(*this, ref, path);
        all = both(all, flat_part(resolve(ref, path), ref.substr(1)), path);
    }
    if (schema.contains("allOf")) {
        if (!schema.at("allOf").is_array()) {
            fail(path, "\"allOf\" is no array");
        }
        size_t i = 0;
        for (const auto & each : schema.at("allOf")) {
            const std::string inner = path + "/allOf/" + std::to_string(i++);
            all                     = both(all, flat_part(each, inner), inner);
        }
    }
    return all;
}

json rewriter::flat_part(const json & schema, const std::string & path) {
    return closed(flat(schema, path), path);
}

json rewriter::modern(json schema, const std::string & path) const {
    if (schema.contains("items") && schema.at("items").is_array()) {
        schema["prefixItems"] = schema.at("items");
        schema.erase("items");
        if (schema.contains("additionalItems")) {
            schema["items"] = schema.at("additionalItems");
        }
    }
    schema.erase("additionalItems");
    if (schema.contains("type") && schema.contains("nullable") && schema.at("nullable") == true) {
        auto types = types_of(schema, path);
        types.insert("null");
        schema["type"] = array_of(types);
    }
    schema.erase("nullable");
    for (const auto & [bound, exclusive] : { std::pair("minimum", "exclusiveMinimum"), std::pair("maximum", "exclusiveMaximum") }) {
        if (schema.contains(exclusive) && schema.at(exclusive).is_boolean()) {
            const bool excluded = schema.at(exclusive).get<bool>();
            schema.erase(exclusive);
            if (excluded && schema.contains(bound)) {
                schema[exclusive] = schema.at(bound);
                schema.erase(bound);
            }
        }
    }
    if (schema.contains("properties") && schema.at("properties").is_object()) { // "required": true of a property, as in draft 3
        auto required = schema.contains("required") ? strings_of(schema.at("required")) : std::set<std::string>();
        for (const auto & [name, value] : schema.at("properties").items()) {
            if (value.is_object() && value.contains("required") && value.at("required").is_boolean()) {
                if (value.at("required").get<bool>()) {
                    required.insert(name);
                }
                value.erase("required");
            }
        }
        if (!required.empty()) {
            schema["required"] = array_of(required);
        }
    }
    return schema;
}

json rewriter::closed(json all, const std::string & path) {
    for (const auto & [rest, unevaluated] : { std::pair("additionalProperties", "unevaluatedProperties"), std::pair("items", "unevaluatedItems") }) {
        if (!all.contains(unevaluated)) {
            continue;
        }
        if (all.contains("anyOf") || all.contains("oneOf")) {
            unsupported(path, unevaluated, "it stands beside alternatives");
        } else if (!all.contains(rest)) {
            all[rest] = all.at(unevaluated);
        }
        all.erase(unevaluated);
    }
    return all;
}

json rewriter::all_of(const json & a, const json & b) {
    if (a == b || (b.is_boolean() && b.get<bool>())) {
        return a;
    }
    if (a.is_boolean() && a.get<bool>()) {
        return b;
    }
    json both = json::object();
    both["allOf"] = json::array({ a, b });
    return both;
}

json rewriter::both(json a, const json & b, const std::string & path) {
    const level inside(*this, path);
    count(a, path);
    count(b, path);
    const auto closes = [](const json & one, const json & other) {
        return one.contains("patternProperties") && other.contains("additionalProperties") && other.at("additionalProperties") != true;
    };
    if (closes(a, b) || closes(b, a)) {
        unsupported(path, "patternProperties", "it stands beside \"additionalProperties\" of another schema");
    }
    // what one of them does not name must be allowed by the other's additionalProperties
    if (a.contains("properties") || b.contains("properties") || a.contains("additionalProperties") || b.contains("additionalProperties")) {
        join_properties(a, b, path);
    }
    if (a.contains("prefixItems") || b.contains("prefixItems") || a.contains("items") || b.contains("items")) {
        join_items(a, b, path);
    }
    for (const auto & [key, value] : b.items()) {
        if (key == "properties" || key == "additionalProperties" || key == "prefixItems" || key == "items") {
            continue;
        }
        if (!a.contains(key)) {
            a[key] = value;
        } else if (a.at(key) == value || is_annotation(key)) {
            continue;
        } else if (key == "type") {
            a[key] = array_of(common_types(types_of(a, path), types_of(b, path)));
        } else if (key == "required") {
            auto names = strings_of(a.at(key));
            for (const auto & name : strings_of(value)) {
                names.insert(name);
            }
            a[key] = array_of(names);
        } else if (key == "enum") {
            json values = json::array();
            count_parts(a.at(key).size() * value.size() / 10'000, path);
            for (const auto & each : a.at(key)) {
                for (const auto & other : value) {
                    if (each == other) {
                        values.push_back(each);
                    }
                }
            }
            a[key] = values;
        } else if (key == "const") {
            throw unsatisfiable("two constants at " + where + path);
        } else if (key == "anyOf" || key == "oneOf") {
            json alternatives = json::array();
            for (const auto & each : a.at(key)) {
                for (const auto & other : value) {
                    count_parts(1, path);
                    count(each, path);
                    count(other, path);
                    alternatives.push_back(all_of(each, other));
                }
            }
            a[key] = alternatives;
        } else if (key == "uniqueItems") {
            a[key] = true;
        } else if (key.rfind("min", 0) == 0 || key == "exclusiveMinimum") {
            a[key] = number(a, key, path) > number(b, key, path) ? a.at(key) : value;
        } else if (key.rfind("max", 0) == 0 || key == "exclusiveMaximum") {
            a[key] = number(a, key, path) < number(b, key, path) ? a.at(key) : value;
        } else {
            unsupported(path, key, "it stands there twice with different values");
        }
    }
    return a;
}

void rewriter::join_properties(json & a, const json & b, const std::string & path) {
    const json none  = json::object(), anything = true;
    const json ours  = a.contains("properties") ? a.at("properties") : none;
    const json their = b.contains("properties") ? b.at("properties") : none;
    if (!ours.is_object() || !their.is_object()) {
        fail(path, "\"properties\" is no object");
    }
    const json rest_a = a.contains("additionalProperties") ? a.at("additionalProperties") : anything;
    const json rest_b = b.contains("additionalProperties") ? b.at("additionalProperties") : anything;
    json       joined = json::object();
    for (const auto & [name, value] : ours.items()) {
        joined[name] = all_of(value, their.contains(name) ? their.at(name) : rest_b);
    }
    for (const auto & [name, value] : their.items()) {
        if (!ours.contains(name)) {
            joined[name] = all_of(value, rest_a);
        }
    }
    if (joined.size() > 0) {
        a["properties"] = joined;
    }
    if (a.contains("additionalProperties") || b.contains("additionalProperties")) {
        a["additionalProperties"] = all_of(rest_a, rest_b);
    }
}

void rewriter::join_items(json & a, const json & b, const std::string & path) {
    const auto   rest_a = a.contains("items") ? a.at("items") : json(true), rest_b = b.contains("items") ? b.at("items") : json(true);
    const auto   first_a = first_items(a, path), first_b = first_items(b, path);
    const size_t n      = std::max(first_a.size(), first_b.size());
    json         joined = json::array();
    for (size_t i = 0; i < n; i++) {
        joined.push_back(all_of(i < first_a.size() ? first_a.at(i) : rest_a, i < first_b.size() ? first_b.at(i) : rest_b));
    }
    if (n > 0) {
        a["prefixItems"] = joined;
    }
    if (a.contains("items") || b.contains("items")) {
        a["items"] = all_of(rest_a, rest_b);
    }
}

json rewriter::first_items(const json & schema, const std::string & path) const {
    const json first = schema.contains("prefixItems") ? schema.at("prefixItems") : json::array();
    if (!first.is_array()) {
        fail(path, "\"prefixItems\" is no array");
    }
    return first;
}

double rewriter::number(const json & schema, const std::string & key, const std::string & path) const {
    if (!schema.at(key).is_number()) {
        fail(path, "\"" + key + "\" is no number");
    }
    return schema.at(key).get<double>();
}

std::set<std::string> rewriter::types_of(const json & schema, const std::string & path) const {
    std::set<std::string> types;
    if (!schema.contains("type")) {
        return all_types();
    }
    const json & type = schema.at("type");
    if (type.is_string()) {
        types.insert(type.get<std::string>());
    } else if (type.is_array()) {
        types = strings_of(type);
    }
    for (const auto & name : types) {
        if (all_types().count(name) == 0) {
            fail(path, "\"type\" is '" + name.substr(0, 100) + "'");
        }
    }
    if (types.empty() && !(type.is_array() && type.empty())) {
        fail(path, "\"type\" is neither a name nor an array of names");
    }
    return types;
}

std::set<std::string> rewriter::common_types(const std::set<std::string> & a, const std::set<std::string> & b) {
    std::set<std::string> types;
    for (const auto & type : a) {
        if (b.count(type) || (type == "integer" && b.count("number"))) {
            types.insert(type);
        } else if (type == "number" && b.count("integer")) {
            types.insert("integer");
        }
    }
    return types;
}

// ---- references by name -------------------------------------------------------------------------------------------------

// Of RFC 3986, as far as names of schemas go.
static std::string resolved_uri(const std::string & base, const std::string & ref) {
    const size_t scheme = ref.find_first_of(":/#?");
    if (scheme != std::string::npos && scheme > 0 && ref[scheme] == ':') {
        return ref;
    }
    const std::string whole     = base.substr(0, base.find('#'));
    const size_t      authority = whole.find("://");
    const size_t      path      = authority == std::string::npos ? 0 : std::min(whole.find('/', authority + 3), whole.size());
    if (ref.empty() || ref[0] == '#') {
        return whole + ref;
    }
    if (ref.compare(0, 2, "//") == 0) {
        return whole.substr(0, whole.find(':') + 1) + ref;
    }
    std::string all = ref[0] == '/' ? ref : whole.substr(path, whole.rfind('/') + 1 > path ? whole.rfind('/') + 1 - path : 0) + ref;
    const std::string fragment = all.find('#') == std::string::npos ? "" : all.substr(all.find('#'));
    all = all.substr(0, all.find('#'));
    for (size_t at; (at = all.find("/./")) != std::string::npos;) {
        all.erase(at, 2);
    }
    for (size_t at; (at = all.find("/../")) != std::string::npos;) {
        const size_t parent = at == 0 ? 0 : all.rfind('/', at - 1);
        all.erase(parent == std::string::npos ? 0 : parent, at + 3 - (parent == std::string::npos ? 0 : parent));
    }
    return whole.substr(0, path) + (path > 0 && all[0] != '/' ? "/" : "") + all + fragment;
}

namespace {

struct places {
    std::map<std::string, std::string> by_name = {}; // of a resource, or of an anchor in it: its place

    static std::string escaped(const std::string & key) {
        std::string text;
        for (const char c : key) {
            text += c == '~' ? "~0" : c == '/' ? "~1" : c == '%' ? "%25" : std::string(1, c);
        }
        return text;
    }

    static std::string text_at(const json & schema, const char * key) {
        return schema.contains(key) && schema.at(key).is_string() ? schema.at(key).get<std::string>() : "";
    }

    // The schemas in a schema, and not what only looks like one.
    template <typename Visit> static void each_inner(json & schema, const std::string & place, const Visit & visit) {
        static const std::set<std::string> one = { "items", "additionalItems", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else",
                                                   "unevaluatedItems", "unevaluatedProperties", "contentSchema" };
        static const std::set<std::string> many = { "allOf", "anyOf", "oneOf", "prefixItems", "items" };
        static const std::set<std::string> named = { "properties", "patternProperties", "$defs", "definitions", "dependentSchemas" };
        for (const auto & [key, value] : schema.items()) {
            const std::string at = place + "/" + escaped(key);
            if (value.is_object() && one.count(key)) {
                visit(value, at);
            } else if (value.is_array() && many.count(key)) {
                for (size_t i = 0; i < value.size(); i++) {
                    visit(value.at(i), at + "/" + std::to_string(i));
                }
            } else if (value.is_object() && named.count(key)) {
                for (const auto & [name, inner] : value.items()) {
                    visit(inner, at + "/" + escaped(name));
                }
            }
        }
    }

    void find(json & schema, const std::string & outer, const std::string & place) {
        if (!schema.is_object()) {
            return;
        }
        const std::string id   = text_at(schema, "$id");
        const std::string base = id.empty() || id[0] == '#' ? outer : resolved_uri(outer, id);
        if (place.empty() || base != outer) {
            by_name.emplace(base.substr(0, base.find('#')), place);
        }
        for (const char * key : { "$anchor", "$dynamicAnchor" }) {
            if (!text_at(schema, key).empty()) {
                by_name.emplace(base.substr(0, base.find('#')) + "#" + text_at(schema, key), place);
            }
        }
        each_inner(schema, place, [&](json & inner, const std::string & at) { find(inner, base, at); });
    }

    void replace(json & schema, const std::string & outer) const {
        if (!schema.is_object()) {
            return;
        }
        const std::string id   = text_at(schema, "$id");
        const std::string base = id.empty() || id[0] == '#' ? outer : resolved_uri(outer, id);
        const std::string ref  = text_at(schema, "$ref");
        if (!ref.empty()) {
            const std::string full     = resolved_uri(base, ref);
            const size_t      hash     = std::min(full.find('#'), full.size());
            const std::string fragment = hash < full.size() ? full.substr(hash + 1) : "";
            const bool        pointer  = fragment.empty() || fragment[0] == '/';
            const auto        found    = by_name.find(pointer ? full.substr(0, hash) : full);
            if (found != by_name.end()) {
                schema["$ref"] = "#" + found->second + (pointer ? fragment : "");
            }
        }
        schema.erase("$id");
        each_inner(schema, "", [&](json & inner, const std::string &) { replace(inner, base); });
    }
};

} // namespace

json with_places(const json & schema) {
    json   all = schema;
    places known;
    known.find(all, "", "");
    known.replace(all, "");
    return all;
}

} // namespace kvfold
