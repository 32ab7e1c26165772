#include "process/json_text.h"

#include <algorithm>
#include <cctype>
#include <string_view>
#include <vector>

namespace kvfold {

static constexpr int64_t max_nesting    = 200;
static constexpr int64_t max_references = 1000;
static constexpr int64_t max_template   = 64 * 1024; // bytes; an expression can be nested without any bracket

static void check(const char * what, const char * unit, int64_t value, int64_t limit) {
    if (value > limit) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT,
                    std::string(what) + " has " + std::to_string(value) + " " + unit + ", the limit is " + std::to_string(limit))
            .compares(value, limit);
    }
}

// Deepest level of brackets; where `quotes` is set, what stands in double quotes does not count.
static int64_t nesting(const std::string & text, std::string_view open, std::string_view close, bool quotes) {
    int64_t depth = 0, most = 0;
    bool    quoted = false;
    for (size_t i = 0; i < text.size(); i++) {
        const char c = text[i];
        if (c == '\\') {
            i++;
        } else if (quotes && c == '"') {
            quoted = !quoted;
        } else if (!quoted && open.find(c) != std::string_view::npos) {
            most = std::max(most, ++depth);
        } else if (!quoted && close.find(c) != std::string_view::npos) {
            depth--;
        }
    }
    return most;
}

// A member is looked for among those before it, so that an object takes time by the square of its members.
static void check_members(const char * what, const std::string & text) {
    static constexpr int64_t limit = 20'000; // of one object
    static constexpr int64_t most  = 2 * limit * limit; // comparisons, in all objects
    std::vector<int64_t>     members;
    int64_t                  largest = 0, work = 0;
    bool                     quoted = false;
    const auto               count = [&](int64_t n) {
        largest = std::max(largest, n);
        work += std::min(n, 4 * limit) * n;
    };
    for (size_t i = 0; i < text.size() && work <= most; i++) {
        const char c = text[i];
        if (c == '\\') {
            i++;
        } else if (c == '"') {
            quoted = !quoted;
        } else if (quoted) {
            continue;
        } else if (c == '{') {
            members.push_back(0);
        } else if (c == ':' && !members.empty()) {
            members.back()++;
        } else if (c == '}' && !members.empty()) {
            count(members.back());
            members.pop_back();
        }
    }
    for (const int64_t n : members) { // of objects that never end
        count(n);
    }
    if (largest > limit || work > most) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, std::string(what) + " has too many members in its objects, " + std::to_string(largest) +
                                                       " in one; the limit is " + std::to_string(limit) + " in one, or two such objects in all")
            .compares(largest, limit);
    }
}

static int64_t occurrences(const std::string & text, const std::string & part) {
    int64_t n = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) {
        n++;
    }
    return n;
}

// What the parser of llama.cpp says, "parse error at line 1, column 8: ...", without its own name and number, and without
// all of a long text that it has last read.
static std::string cause_of(const common_json_error & e) {
    static constexpr size_t longest = 200;
    const std::string       message = e.what();
    const size_t            end     = message.rfind("[json.", 0) == 0 ? message.find("] ") : std::string::npos;
    return message.substr(end == std::string::npos ? 0 : end + 2, longest);
}

json parse_object(const std::string & text, const char * what) {
    check(what, "levels of nesting", nesting(text, "[{", "]}", true), max_nesting);
    check_members(what, text);
    json object;
    try {
        object = json::parse(text);
    } catch (const common_json_error & e) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, std::string(what) + " must be a JSON object: " + cause_of(e));
    }
    if (!object.is_object()) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, std::string(what) + " must be a JSON object");
    }
    return object;
}

// The code unit of the escape \uXXXX at `at`, or -1.
static int escaped_unit(const std::string & text, size_t at) {
    if (at + 6 > text.size() || text[at] != '\\' || text[at + 1] != 'u') {
        return -1;
    }
    int value = 0;
    for (size_t i = at + 2; i < at + 6; i++) {
        const unsigned char c = (unsigned char) text[i];
        if (!std::isxdigit(c)) {
            return -1;
        }
        value = 16 * value + (std::isdigit(c) ? c - '0' : std::tolower(c) - 'a' + 10);
    }
    return value;
}

std::string with_whole_characters(std::string text) {
    for (size_t at = text.find('\\'); at != std::string::npos && at + 1 < text.size(); at = text.find('\\', at)) {
        const int unit = escaped_unit(text, at);
        if (unit < 0xd800 || unit > 0xdfff) {
            at += 2;
            continue;
        }
        const int next = unit < 0xdc00 ? escaped_unit(text, at + 6) : -1;
        if (next >= 0xdc00 && next <= 0xdfff) {
            at += 12;
            continue;
        }
        text.replace(at + 2, 4, "fffd");
        at += 6;
    }
    return text;
}

// Strings that are parsed in their turn.
static void check_strings(const json & value, const std::string & key) {
    if (value.is_object()) {
        for (const auto & [name, inner] : value.items()) {
            check_strings(inner, name);
        }
    } else if (value.is_array()) {
        for (const auto & inner : value) {
            check_strings(inner, key);
        }
    } else if (value.is_string() && key == "arguments") {
        check("the arguments of a tool call", "levels of nesting", nesting(value.get<std::string>(), "[{", "]}", true), max_nesting);
        check_members("the arguments of a tool call", value.get<std::string>());
    } else if (value.is_string() && (key == "pattern" || key == "value")) {
        check("a pattern", "levels of parentheses", nesting(value.get<std::string>(), "(", ")", false), max_nesting);
    }
}

void check_template(const std::string & text) {
    check("the chat template", "bytes", (int64_t) text.size(), max_template);
    check("the chat template", "levels of brackets", nesting(text, "([{", ")]}", false), max_nesting);
}

json parse_body(const std::string & text, const char * what) {
    json body = parse_object(text, what);
    check(what, "references between schemas", occurrences(text, "\"$ref\""), max_references);
    check_strings(body, "");
    return body;
}

} // namespace kvfold
