#include "text/regex_tree.h"

#include <algorithm>
#include <string>

namespace kvfold {

static constexpr uint32_t last_char   = 0x7FFFFFFF;
static constexpr int      max_nesting = 200;
static constexpr size_t   unbounded   = SIZE_MAX;

// ---- sets ---------------------------------------------------------------------------------------------------------------

char_ranges united(char_ranges ranges) {
    std::sort(ranges.begin(), ranges.end());
    char_ranges all;
    for (const auto & range : ranges) {
        if (!all.empty() && range.first <= all.back().second + 1) {
            all.back().second = std::max(all.back().second, range.second);
        } else {
            all.push_back(range);
        }
    }
    return all;
}

char_ranges complement(const char_ranges & ranges) {
    char_ranges others;
    uint32_t    from = 0;
    for (const auto & [first, last] : united(ranges)) {
        if (first > from) {
            others.push_back({ from, first - 1 });
        }
        from = last + 1;
    }
    if (from <= last_char) {
        others.push_back({ from, last_char });
    }
    return others;
}

char_ranges intersection(const char_ranges & a, const char_ranges & b) {
    char_ranges outside = complement(a);
    const auto  other   = complement(b);
    outside.insert(outside.end(), other.begin(), other.end());
    return complement(outside);
}

// ---- parsing ------------------------------------------------------------------------------------------------------------

namespace {

using node = regex_node;

const char_ranges digits = { { '0', '9' } };
const char_ranges blanks = { { '\t', '\r' }, { ' ', ' ' } };
const char_ranges line_ends = { { '\n', '\n' }, { '\r', '\r' }, { 0x85, 0x85 }, { 0x2028, 0x2029 } };
// With those that only some dialects count among them.
const char_ranges all_blanks = { { '\t', '\r' }, { ' ', ' ' }, { 0x85, 0x85 }, { 0xA0, 0xA0 }, { 0x1680, 0x1680 }, { 0x2000, 0x200A }, { 0x2028, 0x2029 }, { 0x202F, 0x202F },
                                 { 0x205F, 0x205F }, { 0x3000, 0x3000 }, { 0xFEFF, 0xFEFF } };
const char_ranges words  = { { '0', '9' }, { 'A', 'Z' }, { 'a', 'z' }, { '_', '_' } };

struct parser {
    const std::vector<uint32_t> & text;
    const bool                    keep_groups;
    const regex_dialect           dialect;
    size_t                        at     = 0;
    uint32_t                      groups = 0;
    int                           depth  = 0;

    bool more() const { return at < text.size(); }

    bool take(uint32_t c) {
        if (more() && text[at] == c) {
            at++;
            return true;
        }
        return false;
    }

    uint32_t next() {
        if (!more()) {
            throw regex_refused("the pattern ends too early");
        }
        return text[at++];
    }

    node parse() {
        node all = choice();
        if (more()) {
            throw regex_refused("a parenthesis closes nothing");
        }
        return all;
    }

    node choice() {
        if (++depth > max_nesting) {
            throw regex_refused("the pattern is nested too deeply");
        }
        node alternatives;
        alternatives.what = node::CHOICE;
        alternatives.inner.push_back(sequence());
        while (take('|')) {
            alternatives.inner.push_back(sequence());
        }
        depth--;
        return alternatives.inner.size() == 1 ? std::move(alternatives.inner.front()) : std::move(alternatives);
    }

    node sequence() {
        node items;
        items.what = node::SEQUENCE;
        while (more() && text[at] != '|' && text[at] != ')') {
            node item = quantified(atom());
            node * last = items.inner.empty() ? nullptr : &items.inner.back();
            if (last && last->what == node::LOOK && !last->negative && last->inner.front().what == node::SET && item.what == node::SET) {
                item.set = intersection(last->inner.front().set, item.set); // one character that must be of both
                *last    = std::move(item);
            } else {
                items.inner.push_back(std::move(item));
            }
        }
        return items.inner.size() == 1 ? std::move(items.inner.front()) : std::move(items);
    }

    node quantified(node item) {
        while (more()) {
            size_t least = 0, most = unbounded;
            if (take('*')) {
            } else if (take('+')) {
                least = 1;
            } else if (take('?')) {
                most = 1;
            } else if (take('{')) {
                least = number();
                most  = least;
                if (take(',')) {
                    most = more() && text[at] == '}' ? unbounded : number();
                }
                if (!take('}')) {
                    throw regex_refused("braces hold no repetition");
                }
                if (most < least) {
                    throw regex_refused("a repetition's bounds are the wrong way round");
                }
            } else {
                break;
            }
            if (item.what == node::LOOK || item.what >= node::BEGIN) {
                throw regex_refused("nothing to repeat");
            }
            node repeated;
            repeated.what  = node::REPEAT;
            repeated.least = least;
            repeated.most  = most;
            repeated.lazy  = take('?');
            repeated.inner.push_back(std::move(item));
            item = std::move(repeated);
        }
        return item;
    }

    size_t number() {
        size_t value = 0, n = 0;
        for (; more() && text[at] >= '0' && text[at] <= '9'; n++) {
            value = std::min(value * 10 + (text[at++] - '0'), max_regex_repetitions);
        }
        if (n == 0) {
            throw regex_refused("braces hold no repetition");
        }
        return value;
    }

    static node set_of(char_ranges set) {
        node one;
        one.what = node::SET;
        one.set  = united(std::move(set));
        return one;
    }

    static node assertion(node::kind what) {
        node one;
        one.what = what;
        return one;
    }

    node atom() {
        const uint32_t c = next();
        switch (c) {
            case '^': return assertion(node::BEGIN);
            case '$': return assertion(node::END);
            case '.': return set_of(complement(dialect == regex_dialect::JSON_SCHEMA ? line_ends : char_ranges{ { '\n', '\n' }, { '\r', '\r' } }));
            case '[': return set_of(bracket());
            case '(': return group();
            case '*': case '+': case '?': case '{': throw regex_refused("nothing to repeat");
            case '\\': {
                if (more() && (text[at] == 'b' || text[at] == 'B')) {
                    return assertion(next() == 'b' ? node::WORD_EDGE : node::NO_WORD_EDGE);
                }
                return set_of(escape(false));
            }
            default: return set_of({ { c, c } });
        }
    }

    node group() {
        node one;
        if (take('?')) {
            const uint32_t kind = next();
            if (kind == ':') {
                one = choice();
            } else if (kind == '<' && dialect == regex_dialect::JSON_SCHEMA && more() && text[at] != '=' && text[at] != '!') {
                while (next() != '>') {
                }
                one = choice(); // its name does not matter
            } else if (kind == '=' || kind == '!') {
                one.what     = node::LOOK;
                one.negative = kind == '!';
                one.inner.push_back(choice());
            } else {
                throw regex_refused("unknown kind of group");
            }
        } else if (keep_groups) {
            one.what  = node::GROUP;
            one.group = groups++;
            one.inner.push_back(choice());
        } else {
            one = choice();
        }
        if (!take(')')) {
            throw regex_refused("a parenthesis is not closed");
        }
        return one;
    }

    // After a backslash. `outside` is of a set whose complement is meant.
    char_ranges escape(bool outside) {
        const auto blanks_of = [this](bool many) -> const char_ranges & { return many && dialect == regex_dialect::JSON_SCHEMA ? all_blanks : blanks; };
        const uint32_t c = next();
        switch (c) {
            case 'd': return digits;
            case 'D': return complement(digits);
            case 's': return blanks_of(outside);
            case 'S': return complement(blanks_of(!outside));
            case 'w': return words;
            case 'W': return complement(words);
            case 'p':
            case 'P':
                if (dialect == regex_dialect::JSON_SCHEMA) {
                    return category(c == 'P');
                }
                break;
            default: break;
        }
        const uint32_t one = single(c);
        return { { one, one } };
    }

    // Letters and digits of the scripts that most texts are written in, a part of the category.
    char_ranges category(bool negative) {
        static const char_ranges upper = { { 'A', 'Z' }, { 0xC0, 0xD6 }, { 0xD8, 0xDE }, { 0x391, 0x3A1 }, { 0x3A3, 0x3A9 }, { 0x410, 0x42F } };
        static const char_ranges lower = { { 'a', 'z' }, { 0xDF, 0xF6 }, { 0xF8, 0xFF }, { 0x3B1, 0x3C9 }, { 0x430, 0x44F } };
        static const char_ranges other = { { 0x100, 0x1BF }, { 0x5D0, 0x5EA }, { 0x620, 0x63F }, { 0x641, 0x64A }, { 0x904, 0x939 }, { 0xE01, 0xE30 },
                                           { 0x3041, 0x3096 }, { 0x30A1, 0x30FA }, { 0x4E00, 0x9FFF }, { 0xAC00, 0xD7A3 } };
        std::string name;
        if (!take('{')) {
            throw regex_refused("\\p has no category in braces");
        }
        for (uint32_t c = next(); c != '}'; c = next()) {
            name += c < 128 ? (char) c : '?';
        }
        char_ranges all;
        if (name == "Lu" || name == "L" || name == "Letter" || name == "Alphabetic") {
            all.insert(all.end(), upper.begin(), upper.end());
        }
        if (name == "Ll" || name == "L" || name == "Letter" || name == "Alphabetic") {
            all.insert(all.end(), lower.begin(), lower.end());
        }
        if (name == "L" || name == "Letter" || name == "Alphabetic") {
            all.insert(all.end(), other.begin(), other.end());
        }
        if (name == "N" || name == "Nd") {
            all = digits;
        }
        if (all.empty() || negative) {
            throw regex_refused("the category \\p{" + name + "} is not supported");
        }
        return united(all);
    }

    uint32_t single(uint32_t c) {
        switch (c) {
            case 't': return '\t';
            case 'n': return '\n';
            case 'r': return '\r';
            case 'f': return '\f';
            case 'v': return '\v';
            case '0': return 0;
            case 'x': return hex(2);
            case 'u': return hex(4);
            case 'c': return next() % 32;
            default:
                if (c >= '1' && c <= '9') {
                    throw regex_refused("back references are not supported");
                }
                if (dialect == regex_dialect::JSON_SCHEMA && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))) {
                    throw regex_refused(std::string("\\") + (char) c + " has no meaning"); // or one that dialects do not agree on
                }
                return c;
        }
    }

    uint32_t hex(int n) {
        uint32_t value = 0;
        for (int i = 0; i < n; i++) {
            const uint32_t c = next();
            const uint32_t d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 16;
            if (d > 15) {
                throw regex_refused("an escape lacks hexadecimal digits");
            }
            value = value * 16 + d;
        }
        return value;
    }

    // After an opening bracket.
    char_ranges bracket() {
        const bool  negative = take('^');
        char_ranges set;
        while (!take(']')) {
            char_ranges first = bracket_item(negative);
            if (at + 1 < text.size() && text[at] == '-' && text[at + 1] != ']' && first.size() == 1 && first[0].first == first[0].second) {
                at++;
                const char_ranges last = bracket_item(negative);
                if (last.size() != 1 || last[0].first != last[0].second) {
                    throw regex_refused("a range ends in a class of characters");
                }
                if (last[0].first < first[0].first) {
                    throw regex_refused("a range's bounds are the wrong way round");
                }
                first[0].second = last[0].first;
            }
            set.insert(set.end(), first.begin(), first.end());
        }
        return negative ? complement(set) : set;
    }

    char_ranges bracket_item(bool outside) {
        const uint32_t c = next();
        if (c == '[' && more() && (text[at] == ':' || text[at] == '.' || text[at] == '=')) {
            throw regex_refused("classes with a name are not supported");
        }
        if (c != '\\') {
            return { { c, c } };
        }
        if (take('b')) {
            return { { '\b', '\b' } };
        }
        return escape(outside);
    }
};

} // namespace

regex_node parse_regex(const std::vector<uint32_t> & text, bool keep_groups, regex_dialect dialect) {
    return parser{ text, keep_groups, dialect }.parse();
}

} // namespace kvfold
