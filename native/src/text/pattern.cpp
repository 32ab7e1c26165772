#include "text/pattern.h"

#include "text/regex_tree.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>

// Of llama.cpp's src/unicode.h, whose name a header of common/ has as well.
std::vector<uint32_t> unicode_cpts_from_utf8(const std::string & utf8);

namespace kvfold {

static constexpr size_t any = SIZE_MAX;

static std::string escaped(uint32_t c) {
    char text[16];
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    snprintf(text, sizeof(text), plain ? "%c" : "\\U%08X", (int) c);
    return text;
}

// One character of a JSON string: as it is, or behind a backslash.
static std::string of_set(const char_ranges & set) {
    static const char_ranges raw = { { 0x20, 0x21 }, { 0x23, 0x5B }, { 0x5D, 0x7E }, { 0xA0, 0xD7FF }, { 0xE000, 0x10FFFF } };
    static const std::pair<uint32_t, char> behind_backslash[] = { { '"', '"' }, { '\\', '\\' }, { '\n', 'n' }, { '\t', 't' }, { '\r', 'r' } };

    std::string as_it_is;
    for (const auto & [first, last] : intersection(set, raw)) {
        as_it_is += escaped(first) + (first == last ? "" : "-" + escaped(last));
    }
    std::string alternatives = as_it_is.empty() ? "" : "[" + as_it_is + "]";
    size_t      n            = !as_it_is.empty();
    for (const auto & [c, letter] : behind_backslash) {
        if (!intersection(set, { { c, c } }).empty()) {
            alternatives += (n++ > 0 ? "|" : "") + std::string("[\\\\][") + escaped((uint32_t) letter) + "]";
        }
    }
    if (n == 0) {
        throw pattern_unsupported("it asks for control characters");
    }
    return as_it_is.empty() || n > 1 ? "(" + alternatives + ")" : alternatives;
}

static size_t sum(size_t a, size_t b) {
    return a == any || b == any ? any : a + b;
}

static size_t product(size_t a, size_t b) {
    return a == 0 || b == 0 ? 0 : a == any || b == any ? any : a * b;
}

static json_pattern of(const regex_node & node);

static json_pattern of_sequence(const std::vector<regex_node> & items) {
    json_pattern all;
    for (const auto & item : items) {
        const json_pattern one = of(item);
        all = { all.text + one.text, sum(all.least, one.least), sum(all.most, one.most) };
    }
    return all;
}

static json_pattern of_choice(const std::vector<json_pattern> & choices) {
    json_pattern all = choices.front();
    for (size_t i = 1; i < choices.size(); i++) {
        all = { all.text + "|" + choices[i].text, std::min(all.least, choices[i].least), std::max(all.most, choices[i].most) };
    }
    return choices.size() == 1 ? all : json_pattern{ "(" + all.text + ")", all.least, all.most };
}

static json_pattern of_repeat(const regex_node & node) {
    static constexpr size_t limit = 2000; // what a grammar can repeat
    const json_pattern      one   = of(node.inner.front());
    if (node.least > limit || (node.most != any && node.most > limit)) {
        throw pattern_unsupported("it repeats more than " + std::to_string(limit) + " times");
    }
    const std::string item = "(" + one.text + ")";
    json_pattern      all{ "", product(one.least, node.least), product(one.most, node.most) };
    if (node.most == 0 || one.text.empty()) {
        return all;
    }
    if (node.most == any) {
        all.text = node.least == 0 ? item + "*" : node.least == 1 ? item + "+" : item + "{" + std::to_string(node.least) + "}" + item + "*";
    } else if (node.most == node.least) {
        all.text = node.least == 1 ? item : item + "{" + std::to_string(node.least) + "}";
    } else {
        all.text = node.least == 0 && node.most == 1 ? item + "?" : item + "{" + std::to_string(node.least) + "," + std::to_string(node.most) + "}";
    }
    return all;
}

static json_pattern of(const regex_node & node) {
    switch (node.what) {
        case regex_node::EMPTY:    return {};
        case regex_node::SET:      return { of_set(node.set), 1, 1 };
        case regex_node::SEQUENCE: return of_sequence(node.inner);
        case regex_node::GROUP:    return of(node.inner.front());
        case regex_node::REPEAT:   return of_repeat(node);
        case regex_node::CHOICE: {
            std::vector<json_pattern> choices;
            for (const auto & each : node.inner) {
                choices.push_back(of(each));
            }
            return of_choice(choices);
        }
        case regex_node::LOOK: throw pattern_unsupported("it looks ahead");
        case regex_node::BEGIN:
        case regex_node::END:  throw pattern_unsupported("it has ^ or $ in its middle");
        default:               throw pattern_unsupported("it asks for the edge of a word");
    }
}

// An alternative of the whole pattern: what is not anchored may have anything around it.
static json_pattern of_alternative(regex_node node) {
    static const regex_node anything = [] {
        regex_node one, many;
        one.what   = regex_node::SET;
        one.set    = { { 0, 0x10FFFF } };
        many.what  = regex_node::REPEAT;
        many.most  = any;
        many.inner = { one };
        return many;
    }();
    if (node.what != regex_node::SEQUENCE) {
        regex_node alone;
        alone.what = regex_node::SEQUENCE;
        alone.inner.push_back(std::move(node));
        node = std::move(alone);
    }
    auto &     items = node.inner;
    const bool begin = !items.empty() && items.front().what == regex_node::BEGIN;
    if (begin) {
        items.erase(items.begin());
    } else {
        items.insert(items.begin(), anything);
    }
    const bool end = !items.empty() && items.back().what == regex_node::END;
    if (end) {
        items.pop_back();
    } else {
        items.push_back(anything);
    }
    return of_sequence(items);
}

json_pattern exact_pattern(const std::string & text) {
    const regex_node          tree = parse_regex(unicode_cpts_from_utf8(text), /*keep_groups =*/false, regex_dialect::JSON_SCHEMA);
    std::vector<json_pattern> choices;
    if (tree.what == regex_node::CHOICE) {
        for (const auto & each : tree.inner) {
            choices.push_back(of_alternative(each));
        }
    } else {
        choices.push_back(of_alternative(tree));
    }
    json_pattern all = of_choice(choices);
    all.text         = "^" + all.text + "$";
    return all;
}

} // namespace kvfold
