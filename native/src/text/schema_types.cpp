#include "text/decimal_range.h"
#include "text/pattern.h"
#include "text/schema_rewriter.h"

#include <algorithm>
#include <cmath>

namespace kvfold {

// What a grammar can repeat, and llama.cpp's converter forgets a larger bound.
static constexpr int64_t max_repetitions = 2000;
static constexpr size_t  max_optional    = 256; // of one object; the converter's time grows with their cube
static constexpr size_t  max_name        = 1000;
static constexpr size_t  max_distinct    = 400; // arrays, which an enumeration lists: all of five different items are 326
static constexpr int64_t most_integer    = std::numeric_limits<int64_t>::max() - 1;
static constexpr int64_t exact_integer   = ((int64_t) 1 << 53) - 1; // what every reader of JSON can hold

std::pair<int64_t, int64_t> rewriter::counts(const json & all, const char * least_key, const char * most_key, const std::string & path) const {
    const auto count = [&](const char * key, int64_t otherwise) {
        if (!all.contains(key)) {
            return otherwise;
        }
        const double value = number(all, key, path);
        if (value < 0 || value != std::floor(value)) {
            fail(path, std::string("\"") + key + "\" is no count");
        }
        return (int64_t) std::min(value, 1e15);
    };
    const int64_t least = count(least_key, 0), most = count(most_key, -1);
    if (most >= 0 && least > most) {
        throw unsatisfiable(std::string("\"") + least_key + "\" is " + std::to_string(least) + " and \"" + most_key + "\" is " + std::to_string(most) + " at " + where + path);
    }
    if (least > max_repetitions) {
        fail(path, std::string("\"") + least_key + "\" is " + std::to_string(least) + ", the limit is " + std::to_string(max_repetitions));
    }
    return { least, std::min(most, max_repetitions) };
}

std::optional<std::set<std::string>> rewriter::listed_names(const json & all, const std::string & path) {
    if (!all.contains("propertyNames") || all.at("propertyNames") == true) {
        return std::nullopt;
    }
    const part one(*this);
    try {
        const json names = flat(all.at("propertyNames"), path + "/propertyNames");
        for (const auto & [key, value] : names.items()) {
            static const std::set<std::string> understood = { "type", "enum", "const" };
            if (!is_annotation(key) && !understood.count(key) && type_of_keyword(key) != "string") {
                unsupported(path, "propertyNames", "it has \"" + key + "\"");
            }
        }
        if (has_values(names)) {
            return strings_of(constants(names, path + "/propertyNames").at("enum"));
        }
        return types_of(names, path).count("string") ? std::nullopt : std::optional(std::set<std::string>());
    } catch (const unsatisfiable &) {
        return std::set<std::string>();
    }
}

std::optional<std::string> rewriter::pattern_of_names(const json & all, const std::string & path) {
    const bool  patterns = all.contains("patternProperties") && all.at("patternProperties") != json::object();
    const json  names    = all.contains("propertyNames") ? all.at("propertyNames") : json(true);
    const json  none     = json::object();
    const bool  alone    = (all.contains("properties") ? all.at("properties") : none).empty() && !all.contains("required");
    if (patterns) {
        const json & given = all.at("patternProperties");
        const bool   rest  = !all.contains("additionalProperties") || all.at("additionalProperties") != false;
        if (!given.is_object()) {
            fail(path, "\"patternProperties\" is no object");
        }
        if (!alone || rest || names != true || given.size() != 1) {
            unsupported(path, "patternProperties", "a grammar can hold one alone, beside \"additionalProperties\": false");
            return std::nullopt;
        }
        std::string pattern;
        for (const auto & [name, value] : given.items()) {
            pattern = name;
        }
        const json form = string(json({ { "pattern", pattern } }), path + "/patternProperties");
        return form.contains("pattern") ? std::optional<std::string>(form.at("pattern").get<std::string>()) : std::nullopt;
    }
    if (names == true) {
        return std::nullopt;
    }
    json keywords = none;
    {
        const part one(*this);
        keywords = flat(names, path + "/propertyNames");
    }
    const json form = string(keywords, path + "/propertyNames");
    if (!alone) {
        unsupported(path, "propertyNames", "it stands beside \"properties\" or \"required\"");
        return std::nullopt;
    }
    if (form.contains("pattern")) {
        return form.at("pattern").get<std::string>();
    }
    const auto bound = [&](const char * key) { return form.contains(key) ? std::to_string(form.at(key).get<int64_t>()) : ""; };
    return exact_pattern("^[\\s\\S]{" + (form.contains("minLength") ? bound("minLength") : "0") + "," + bound("maxLength") + "}$").text;
}

json rewriter::object(const json & all, const std::string & path) {
    const auto listed = listed_names(all, path);
    const auto names  = listed ? std::nullopt : pattern_of_names(all, path);
    if (listed && all.contains("patternProperties") && all.at("patternProperties") != json::object()) {
        unsupported(path, "patternProperties");
    }
    json       properties = json::object();
    const json given      = all.contains("properties") ? all.at("properties") : json::object();
    if (!given.is_object()) {
        fail(path, "\"properties\" is no object");
    }
    std::set<std::string> required;
    if (all.contains("required")) {
        if (!all.at("required").is_array()) {
            fail(path, "\"required\" is no array");
        }
        required = strings_of(all.at("required"));
    }
    const bool patterns = names && all.contains("patternProperties") && !all.at("patternProperties").empty();
    json       rest     = all.contains("additionalProperties") ? all.at("additionalProperties") : json(true);
    if (patterns) {
        for (const auto & [pattern, value] : all.at("patternProperties").items()) { // which is one
            rest = value;
        }
    }
    for (const auto & [name, value] : given.items()) {
        if (listed && !listed->count(name)) {
            if (required.count(name)) {
                throw unsatisfiable("\"propertyNames\" does not allow the required '" + name + "' at " + where + path);
            }
            continue;
        }
        if (name.size() > max_name) {
            fail(path, "the name of a property has " + std::to_string(name.size()) + " bytes, the limit is " + std::to_string(max_name));
        }
        try {
            properties[name] = inner(value, path + "/properties/" + name);
        } catch (const unsatisfiable &) {
            if (required.count(name)) {
                throw;
            }
        }
    }
    for (const auto & name : required) {
        if (listed && !listed->count(name)) {
            throw unsatisfiable("\"propertyNames\" does not allow the required '" + name + "' at " + where + path);
        }
        if (!properties.contains(name)) {
            properties[name] = inner(rest, path + "/properties/" + name);
        }
    }
    for (const auto & name : listed.value_or(std::set<std::string>())) {
        try {
            if (!properties.contains(name) && !given.contains(name)) {
                properties[name] = inner(rest, path + "/additionalProperties");
            }
        } catch (const unsatisfiable &) {
            break; // nor is any other
        }
    }
    rest = listed ? json(false) : rest;
    const size_t optional = properties.size() - required.size();
    if (optional > max_optional) {
        fail(path, "it has " + std::to_string(optional) + " optional properties, the limit is " + std::to_string(max_optional));
    }
    const auto [least, most] = counts(all, "minProperties", "maxProperties", path);
    if ((int64_t) required.size() < least) {
        unsupported(path, "minProperties", "more than the required ones");
    }
    if (most >= 0 && (int64_t) required.size() > most) {
        throw unsatisfiable("\"maxProperties\" is less than the required ones at " + where + path);
    }
    if (most >= 0 && (properties.empty() || (int64_t) properties.size() > most)) {
        unsupported(path, "maxProperties");
    }
    json one = json::object();
    if (!properties.empty()) {
        one["properties"] = properties;
        one["required"]   = array_of(required);
    } else if (!rest.is_boolean() || names) {
        try {
            json value = inner(rest, path + (patterns ? "/patternProperties" : "/additionalProperties"));
            if (names) { // around it, since the converter takes an object of anything for any object
                one["x-kvfold-names"] = *names;
                value                 = json({ { "anyOf", json::array({ value }) } });
            }
            one["additionalProperties"] = value;
        } catch (const unsatisfiable &) {
            one["additionalProperties"] = false; // without any
        }
    } else if (!rest.get<bool>() || (all.contains("properties") && !all.contains("additionalProperties"))) {
        one["additionalProperties"] = false;
    }
    return one;
}

std::optional<json> rewriter::distinct_items(const json & items, int64_t least, int64_t most) const {
    const std::string ref  = items.contains("$ref") ? items.at("$ref").get<std::string>() : "";
    const json &      kind = ref.empty() ? items : definitions.at(ref.substr(ref.rfind('/') + 1));
    json              values = json::array();
    if (kind.contains("enum")) {
        for (const auto & each : kind.at("enum")) {
            if (std::find(values.begin(), values.end(), each) == values.end()) {
                values.push_back(each);
            }
        }
    } else if (kind.contains("type") && kind.at("type") == "boolean") {
        values = json::array({ false, true });
    } else if (kind.contains("type") && kind.at("type") == "null") {
        values = json::array({ nullptr });
    } else {
        return std::nullopt;
    }
    json arrays = json::array(), longest = json::array({ json::array() });
    for (int64_t n = 0; !longest.empty() && (most < 0 || n <= most); n++) {
        json longer = json::array();
        for (const auto & each : longest) {
            if (n >= least) {
                arrays.push_back(each);
            }
            for (const auto & value : values) {
                if (std::find(each.begin(), each.end(), value) == each.end()) {
                    longer.push_back(each);
                    longer.back().push_back(value);
                }
            }
            if (arrays.size() + longer.size() > 4 * max_distinct) {
                return std::nullopt;
            }
        }
        longest = longer;
    }
    return arrays.size() > max_distinct ? std::nullopt : std::optional<json>(arrays);
}

json rewriter::array(const json & all, const std::string & path) {
    auto [least, most] = counts(all, "minItems", "maxItems", path);
    const bool distinct = all.contains("uniqueItems") && all.at("uniqueItems") == true && !(most >= 0 && most <= 1);
    if (distinct && !first_items(all, path).empty()) {
        unsupported(path, "uniqueItems");
    }
    if (all.contains("contains")) {
        unsupported(path, "contains");
    }
    const json first = first_items(all, path);
    const json rest  = all.contains("items") ? all.at("items") : json(true);
    json       one = json::object(), tuple = json::array();
    if (!first.empty()) {
        for (size_t i = 0; i < std::max(first.size(), (size_t) least) && (most < 0 || (int64_t) i < most); i++) {
            const bool named = i < first.size();
            try {
                tuple.push_back(inner(named ? first.at(i) : rest, path + (named ? "/prefixItems/" + std::to_string(i) : "/items")));
            } catch (const unsatisfiable &) {
                if ((int64_t) i < least) {
                    throw;
                }
                most = (int64_t) i;
            }
        }
    }
    if (!tuple.empty()) {
        one["prefixItems"] = tuple;
        return one;
    }
    try {
        one["items"] = inner(most == 0 ? json(true) : rest, path + "/items");
    } catch (const unsatisfiable &) {
        if (least > 0) {
            throw;
        }
        one["items"] = json::object();
        most         = 0;
    }
    if (distinct && most != 0) {
        const auto arrays = distinct_items(one.at("items"), least, most);
        if (arrays && arrays->empty()) {
            throw unsatisfiable("there are fewer different items than \"minItems\" at " + where + path);
        }
        if (arrays) {
            return json({ { "enum", *arrays } });
        }
        unsupported(path, "uniqueItems", "a grammar can hold it of an enumeration, up to " + std::to_string(max_distinct) + " arrays");
    }
    if (least > 0) {
        one["minItems"] = least;
    }
    if (most >= 0) {
        one["maxItems"] = most;
    }
    return one;
}

json rewriter::string(const json & all, const std::string & path) {
    const auto [least, most] = counts(all, "minLength", "maxLength", path);
    std::optional<std::string> pattern;
    std::string                keyword = "pattern";
    json                       one     = json::object();
    if (all.contains("format") && all.at("format").is_string()) {
        const std::string format = all.at("format").get<std::string>();
        pattern = pattern_of_format(format);
        keyword = "format";
        if (!pattern && !is_plain_format(format)) {
            unsupported(path, "format", "'" + format + "' is not known");
        }
    }
    if (all.contains("pattern")) {
        if (!all.at("pattern").is_string()) {
            fail(path, "\"pattern\" is no string");
        }
        if (pattern) {
            unsupported(path, "pattern", "it stands beside \"format\"");
        }
        pattern = all.at("pattern").get<std::string>();
        keyword = "pattern";
    }
    if (pattern) {
        try {
            const json_pattern exact = exact_pattern(*pattern);
            if ((int64_t) exact.least < least || (most >= 0 && (exact.most == SIZE_MAX || (int64_t) exact.most > most))) {
                unsupported(path, (int64_t) exact.least < least ? "minLength" : "maxLength", "\"" + keyword + "\" does not keep to it");
            }
            one["pattern"] = exact.text;
            return one;
        } catch (const pattern_unsupported & e) {
            unsupported(path, keyword, e.what());
        } catch (const std::runtime_error & e) {
            fail(path, "\"" + keyword + "\" is no regular expression, " + e.what());
        }
    }
    if (least > 1) { // which the converter would let half a character of two \u count for
        one["pattern"] = exact_pattern("^[\\s\\S]{" + std::to_string(least) + "," + (most >= 0 ? std::to_string(most) : "") + "}$").text;
        return one;
    }
    if (least > 0) {
        one["minLength"] = least;
    }
    if (most >= 0) {
        one["maxLength"] = most;
    }
    return one;
}

bool rewriter::is_plain_format(const std::string & format) {
    static const std::set<std::string> names = { "int32", "int64", "float", "double", "byte", "binary", "password", "string", "path", "file-path", "directory-path" };
    return names.count(format) == 1;
}

// Eight groups, any number of which "::" stands for.
static std::string ipv6() {
    const std::string group = "[0-9a-fA-F]{1,4}", before = "(?:" + group + ":)", after = "(?::" + group + ")";
    std::string       all   = before + "{7}" + group + "|" + before + "{1,7}:|:" + after + "{1,7}|::";
    for (int n = 1; n < 7; n++) {
        all += "|" + before + "{1," + std::to_string(n) + "}" + after + "{1," + std::to_string(7 - n) + "}";
    }
    return "(?:" + all + ")";
}

std::optional<std::string> rewriter::pattern_of_format(const std::string & format) {
    static const std::string label = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?";
    static const std::string octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    static const std::string leap  = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"; // years
    static const std::string date  = "(?:[0-9]{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)|" + leap + "-02-29)";
    static const std::string hour  = "(?:[01][0-9]|2[0-3]):[0-5][0-9]";
    static const std::string time  = hour + ":[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:0[1-9]|1[0-4]):[0-5][0-9]|\\+00:00)"; // java.time takes offsets up to 18:00
    static const std::string hours = "T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S)";
    static const std::string days  = "(?:[0-9]{1,4}Y(?:[0-9]{1,4}M(?:[0-9]{1,4}D)?)?|[0-9]{1,4}M(?:[0-9]{1,4}D)?|[0-9]{1,4}D)";
    static const std::string path  = "(?:/(?:[^~/]|~[01])*)*"; // of JSON
    const auto uuid = [](const std::string & version) {
        const std::string hex = "[0-9a-fA-F]";
        return "^" + hex + "{8}-" + hex + "{4}-" + (version.empty() ? hex + "{4}-" + hex : version + hex + "{3}-[89abAB]") + hex + "{3}-" + hex + "{12}$";
    };
    static const std::map<std::string, std::string> formats = {
        { "email", "^[A-Za-z0-9_+-]{1,32}(?:\\.[A-Za-z0-9_+-]{1,31})?@" + label + "(?:\\." + label + "){0,3}\\.[a-z]{2,24}$" },
        { "hostname", "^" + label + "(?:\\." + label + "){0,3}$" },
        { "ipv4", "^" + octet + "(?:\\." + octet + "){3}$" },
        { "ipv6", "^" + ipv6() + "$" },
        { "uri", "^[a-z][a-z0-9+.-]{1,20}://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+$" },
        { "duration", "^P(?:[0-9]{1,4}W|" + days + "(?:" + hours + ")?|" + hours + ")$" },
        { "date", "^" + date + "$" },
        { "time", "^" + time + "$" },
        { "date-time", "^" + date + "T" + time + "$" },
        { "json-pointer", "^" + path + "$" },
        { "relative-json-pointer", "^(?:0|[1-9][0-9]{0,8})(?:#|" + path + ")$" },
        { "uuid", uuid("") },
        { "uuid1", uuid("1") },
        { "uuid3", uuid("3") },
        { "uuid4", uuid("4") },
        { "uuid5", uuid("5") },
        { "uuid7", uuid("7") },
    };
    const auto found = formats.find(format);
    return found == formats.end() ? std::nullopt : std::optional<std::string>(found->second);
}

std::optional<int64_t> rewriter::bound(const json & all, const std::string & key, bool lower, bool exclusive, const std::string & path) const {
    if (!all.contains(key)) {
        return std::nullopt;
    }
    const double value = number(all, key, path);
    if (value >= 9.2e18 || value <= -9.2e18) {
        if (lower == (value > 0)) {
            fail(path, "\"" + key + "\" is beyond integers of 64 bits");
        }
        return std::nullopt;
    }
    if (all.at(key).is_number_integer()) {
        return all.at(key).get<int64_t>() + (exclusive ? (lower ? 1 : -1) : 0);
    }
    const double whole = lower ? std::ceil(value) : std::floor(value);
    return (int64_t) whole + (exclusive && whole == value ? (lower ? 1 : -1) : 0);
}

json rewriter::decimal(const json & all, double step, const std::string & path) {
    const auto bound = [&](const char * key, const char * excluding, bool lower) {
        std::optional<decimal_bound> one;
        for (const char * name : { key, excluding }) {
            if (!all.contains(name)) {
                continue;
            }
            const double value = number(all, name, path), other = one ? number(all, key, path) : value;
            if (one && (lower ? other > value : other < value)) {
                continue;
            }
            one = decimal_bound::parse(value, name == excluding);
            if (!one) {
                unsupported(path, name, "a grammar can hold decimals of up to 15 digits");
            }
        }
        return one;
    };
    json         one    = json::object();
    const auto   low    = bound("minimum", "exclusiveMinimum", true), high = bound("maximum", "exclusiveMaximum", false);
    const double digits = step > 0 ? std::round(-std::log10(step)) : 15;
    if (step > 0 && (digits < 0 || digits > 15 || std::abs(std::pow(10, -digits) - step) > 1e-15 * step)) {
        unsupported(path, "multipleOf", "of a \"number\" a grammar can hold 1, 0.1, 0.01 and so on");
    } else if (low || high || step > 0) {
        const auto rule = decimal_range(low, high, (size_t) digits);
        if (rule && rule->empty()) {
            throw unsatisfiable("no number is within the bounds at " + where + path);
        }
        if (rule && strict) { // of tools that do not ask for it the model would read that
            one["x-kvfold-rule"] = *rule;
        } else if (!rule) {
            unsupported(path, low ? "minimum" : "maximum", "a grammar can hold decimals of up to 15 digits");
        }
    }
    for (const char * key : { "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf" }) { // for the model to see
        if (all.contains(key)) {
            one[key] = all.at(key);
        }
    }
    return one;
}

json rewriter::numeric(const std::string & type, const json & all, const std::string & path) {
    const double step = all.contains("multipleOf") ? number(all, "multipleOf", path) : 0;
    if (all.contains("multipleOf") && !(step > 0)) {
        fail(path, "\"multipleOf\" is not positive");
    }
    if (type == "number") {
        return decimal(all, step, path);
    }
    std::optional<int64_t> low = bound(all, "minimum", true, false, path), high = bound(all, "maximum", false, false, path);
    const auto low2 = bound(all, "exclusiveMinimum", true, true, path), high2 = bound(all, "exclusiveMaximum", false, true, path);
    low  = low && low2 ? std::max(*low, *low2) : low ? low : low2;
    high = high && high2 ? std::min(*high, *high2) : high ? high : high2;
    if (low && high && *low > *high) {
        throw unsatisfiable("no integer is between " + std::to_string(*low) + " and " + std::to_string(*high) + " at " + where + path);
    }
    json one = json::object();
    if (step > 0 && !within(1, "multipleOf", step)) {
        if (!low || !high || step != std::floor(step) || step > (double) exact_integer || ((double) *high - (double) *low) / step > 1000) {
            unsupported(path, "multipleOf", "a grammar can hold it within narrow bounds only");
        } else {
            const int64_t of     = (int64_t) step;
            json          values = json::array();
            for (int64_t n = *low / of - 1; n <= *high / of + 1; n++) {
                if (n * of >= *low && n * of <= *high) {
                    values.push_back(n * of);
                }
            }
            if (values.empty()) {
                throw unsatisfiable("no multiple of " + std::to_string(of) + " is within the bounds at " + where + path);
            }
            one["enum"] = values;
            return one;
        }
    }
    if (low || high) {
        // the converter does not end with one bound of more than sixteen digits
        one["minimum"] = low ? *low : *high < -exact_integer ? -most_integer : -exact_integer;
        one["maximum"] = high ? *high : *low > exact_integer ? most_integer : exact_integer;
    }
    return one;
}

} // namespace kvfold
