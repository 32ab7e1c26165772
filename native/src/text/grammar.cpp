#include "text/grammar.h"

#include "hooks/text-limits.h"
#include "text/limits.h"
#include "text/regex.h"

#include "llama-grammar.h"

#include <algorithm>
#include <map>
#include <memory>

namespace kvfold {

static constexpr size_t max_bytes    = 4 << 20;
static constexpr size_t max_nesting  = 2000; // levels of parentheses; the parser calls itself twice for each
static constexpr size_t max_rules    = 100'000;
static constexpr size_t max_elements = 1 << 20;
static constexpr size_t max_triggers = 1024; // each is looked for after every token

static std::string excerpt(std::string text, size_t most = 60) {
    text = text.substr(0, std::min(text.find('\n'), most));
    while (!text.empty() && (text.back() & 0xC0) == 0x80) {
        text.pop_back(); // a character that was cut
    }
    return text;
}

// Where something is wrong.
struct place {
    const std::string & text;
    std::string         rule;

    std::string tell(size_t at) const {
        const size_t line   = 1 + (size_t) std::count(text.begin(), text.begin() + (std::ptrdiff_t) at, '\n');
        const size_t before = text.rfind('\n', at == 0 ? 0 : at - 1);
        const size_t column = at == 0 ? 1 : before == std::string::npos ? at + 1 : at - before;
        return (rule.empty() ? "" : "rule '" + excerpt(rule) + "', ") + "line " + std::to_string(line) + ", column " + std::to_string(column);
    }

    [[noreturn]] void refuse(size_t at, const std::string & why) const {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the grammar cannot be used: " + why + " (" + tell(at) + ")");
    }

    [[noreturn]] void refuse(size_t at, const std::string & what, uint64_t value, uint64_t limit) const {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the grammar cannot be used: " + what + ", the limit is " + std::to_string(limit) + " (" +
                                                       tell(at) + ")")
            .compares((int64_t) value, (int64_t) limit);
    }
};

// What the parser is not to meet: it calls itself for each parenthesis, and makes a copy for each repetition.
struct scanner {
    const std::string & text;
    place               where;
    size_t              at = 0, depth = 0, elements = 0;
    size_t              last_item = 0; // elements of what a repetition would repeat

    bool is_word(char c) const { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-'; }

    void add(size_t n) {
        last_item = n;
        elements += n;
        if (elements > max_elements) {
            where.refuse(at, "it has more than " + std::to_string(max_elements) + " elements", elements, max_elements);
        }
    }

    void run() {
        while (at < text.size()) {
            const char c = text[at];
            if (c == '#') {
                at = std::min(text.find('\n', at), text.size());
            } else if (c == '"' || c == '[') {
                literal(c == '"' ? '"' : ']');
            } else if (c == '<') {
                at = std::min(text.find('>', at), text.size() - 1) + 1;
                add(1);
            } else if (c == '(') {
                at++;
                if (++depth > max_nesting) {
                    where.refuse(at - 1, "parentheses are nested " + std::to_string(depth) + " deep", depth, max_nesting);
                }
            } else if (c == ')') {
                at++;
                depth -= depth > 0;
                add(1);
            } else if (c == '*' || c == '+' || c == '?') {
                at++;
                add(2 * last_item + 3);
                last_item = 1;
            } else if (c == '{') {
                repetition();
            } else if (is_word(c)) {
                word();
            } else {
                at++;
                if (c == '.') {
                    add(1);
                }
            }
        }
    }

    void literal(char end) {
        const size_t from = at++;
        while (at < text.size() && text[at] != end) {
            at += text[at] == '\\' ? 2 : 1;
        }
        at++;
        add(std::min(at, text.size()) - from);
    }

    void word() {
        const size_t from = at;
        while (at < text.size() && is_word(text[at])) {
            at++;
        }
        size_t after = text.find_first_not_of(" \t", at);
        if (after != std::string::npos && text.compare(after, 3, "::=") == 0) {
            where.rule = text.substr(from, at - from);
            depth      = 0;
        } else {
            add(1);
        }
    }

    void skip_blanks() {
        while (at < text.size() && (text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r')) {
            at++;
        }
    }

    uint64_t number() {
        uint64_t value = 0;
        for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; at++) {
            value = std::min<uint64_t>(value * 10 + (uint64_t) (text[at] - '0'), 1'000'000'000'000);
        }
        return value;
    }

    void repetition() {
        const size_t from = at++;
        skip_blanks();
        const uint64_t least = number();
        uint64_t       most  = least;
        skip_blanks();
        if (at < text.size() && text[at] == ',') {
            at++;
            skip_blanks();
            most = at < text.size() && text[at] >= '0' && text[at] <= '9' ? number() : UINT64_MAX;
        }
        if (most < least) {
            where.refuse(from, "a repetition of at least " + std::to_string(least) + " and at most " + std::to_string(most));
        }
        const uint64_t copies = most == UINT64_MAX ? least + 1 : most;
        if (copies > max_elements) {
            where.refuse(from, "something is repeated " + std::to_string(copies) + " times", copies, max_elements);
        }
        add((last_item + 3) * copies);
    }
};

static std::map<uint32_t, std::string> names_of(const llama_grammar_parser & parser) {
    std::map<uint32_t, std::string> names;
    for (const auto & [name, id] : parser.symbol_ids) {
        names[id] = name;
    }
    return names;
}

static bool ends(const llama_grammar_element & element) {
    return element.type == LLAMA_GRETYPE_END || element.type == LLAMA_GRETYPE_ALT;
}

// Rules that can come to an end.
static std::vector<bool> rules_that_end(const llama_grammar_rules & rules) {
    std::vector<std::vector<size_t>> users(rules.size());
    for (size_t i = 0; i < rules.size(); i++) {
        for (const auto & element : rules[i]) {
            if (element.type == LLAMA_GRETYPE_RULE_REF) {
                users[element.value].push_back(i);
            }
        }
    }
    std::vector<bool>   end(rules.size()), queued(rules.size(), true);
    std::vector<size_t> open(rules.size());
    for (size_t i = 0; i < rules.size(); i++) {
        open[i] = i;
    }
    while (!open.empty()) {
        const size_t rule = open.back();
        open.pop_back();
        queued[rule] = false;
        bool endless = false, found = false;
        for (const auto & element : rules[rule]) {
            if (ends(element)) {
                found   = found || !endless;
                endless = false;
            } else {
                endless = endless || (element.type == LLAMA_GRETYPE_RULE_REF && !end[element.value]);
            }
        }
        if (found && !end[rule]) {
            end[rule] = true;
            for (const size_t user : users[rule]) {
                if (!end[user] && !queued[user]) {
                    queued[user] = true;
                    open.push_back(user);
                }
            }
        }
    }
    return end;
}

// Rules with an empty alternative of their own. Those that are empty through others are not counted, as llama.cpp does:
// its repetition of something optional is `x ::= y x |`, which begins with itself where y can be nothing, and is harmless.
// What is not harmless (`x ::= y x "a"`) ends at the bound on ways to begin.
static std::vector<bool> rules_with_empty_alternative(const llama_grammar_rules & rules) {
    std::vector<bool> empty(rules.size());
    for (size_t i = 0; i < rules.size(); i++) {
        bool at_start = true;
        for (const auto & element : rules[i]) {
            empty[i] = empty[i] || (ends(element) && at_start);
            at_start = ends(element);
        }
    }
    return empty;
}

// Rules that a rule may begin with.
static std::vector<size_t> leftmost(const llama_grammar_rule & rule, const std::vector<bool> & empty) {
    std::vector<size_t> first;
    bool                at_start = true;
    for (const auto & element : rule) {
        if (ends(element)) {
            at_start = true;
        } else if (at_start && element.type == LLAMA_GRETYPE_RULE_REF) {
            first.push_back(element.value);
            at_start = empty[element.value];
        } else {
            at_start = false;
        }
    }
    return first;
}

// A rule that begins with itself, or SIZE_MAX. Without recursion, since a chain of rules may be long.
static size_t left_recursive_rule(const llama_grammar_rules & rules) {
    enum state { NEW, OPEN, DONE };
    struct frame {
        size_t              rule;
        std::vector<size_t> first;
        size_t              next;
    };
    const auto         empty = rules_with_empty_alternative(rules);
    std::vector<state> states(rules.size(), NEW);
    for (size_t start = 0; start < rules.size(); start++) {
        if (states[start] != NEW) {
            continue;
        }
        std::vector<frame> path;
        states[start] = OPEN;
        path.push_back({ start, leftmost(rules[start], empty), 0 });
        while (!path.empty()) {
            frame & last = path.back();
            if (last.next == last.first.size()) {
                states[last.rule] = DONE;
                path.pop_back();
                continue;
            }
            const size_t rule = last.first[last.next++];
            if (states[rule] == OPEN) {
                return rule;
            }
            if (states[rule] == NEW) {
                states[rule] = OPEN;
                path.push_back({ rule, leftmost(rules[rule], empty), 0 });
            }
        }
    }
    return SIZE_MAX;
}

// The message of the parser ends with the rest of the text.
static void refuse_as_parser(const place & where, const std::string & message) {
    static constexpr size_t words = 200;
    const size_t in = message.rfind(" at ", message.find('\n'));
    if (in != std::string::npos) {
        const size_t rest = message.size() - in - 4;
        if (rest <= where.text.size() && where.text.compare(where.text.size() - rest, rest, message, in + 4, rest) == 0) {
            where.refuse(where.text.size() - rest, excerpt(message.substr(0, in), words) + (rest > 0 ? " at '" + excerpt(message.substr(in + 4)) + "'" : " at the end"));
        }
    }
    where.refuse(where.text.size(), excerpt(message, words));
}

static size_t skip_space(const std::string & text, size_t at) {
    while (at < text.size() && (text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r' || text[at] == '#')) {
        at = text[at] == '#' ? std::min(text.find_first_of("\r\n", at), text.size()) : at + 1;
    }
    return at;
}

static void parse(llama_grammar_parser & parser, const std::string & text) {
    size_t at = skip_space(text, 0);
    while (at < text.size()) {
        size_t name = at;
        while (name < text.size() && text[name] != ':' && text[name] != ' ' && text[name] != '\n') {
            name++;
        }
        const place where{ text, text.substr(at, name - at) };
        try {
            at = (size_t) (parser.parse_rule(text.c_str() + at) - text.c_str());
        } catch (const std::runtime_error & e) {
            refuse_as_parser(where, e.what());
        } catch (const std::logic_error & e) {
            where.refuse(at, std::string("a number is too large, ") + e.what());
        }
        if (parser.rules.size() > max_rules) {
            where.refuse(at, "it has more than " + std::to_string(max_rules) + " rules", parser.rules.size(), max_rules);
        }
    }
}

static error refused(const std::string & why) {
    return error(KVFOLD_ERROR_INVALID_ARGUMENT, "the grammar cannot be used: " + why);
}

static void check_rules(const llama_grammar_parser & parser, const llama_vocab * vocab) {
    const auto   names    = names_of(parser);
    const size_t n_tokens = vocab ? (size_t) llama_vocab_n_tokens(vocab) : SIZE_MAX;
    size_t       elements = 0;
    for (const auto & [name, id] : parser.symbol_ids) {
        if (id >= parser.rules.size() || parser.rules[id].empty()) {
            throw refused("there is no rule '" + excerpt(name) + "'");
        }
    }
    for (const auto & rule : parser.rules) {
        elements += rule.size();
        for (const auto & element : rule) {
            if ((element.type == LLAMA_GRETYPE_TOKEN || element.type == LLAMA_GRETYPE_TOKEN_NOT) && element.value >= n_tokens) {
                throw refused("there is no token " + std::to_string(element.value)).compares(element.value, (int64_t) n_tokens - 1);
            }
        }
    }
    if (elements > max_elements) {
        throw refused("it has " + std::to_string(elements) + " elements, the limit is " + std::to_string(max_elements))
            .compares((int64_t) elements, (int64_t) max_elements);
    }
    if (!parser.symbol_ids.count("root")) {
        throw refused("there is no rule 'root'");
    }
    const auto end = rules_that_end(parser.rules);
    for (const auto & [name, id] : parser.symbol_ids) {
        if (!end[id]) {
            throw refused("what rule '" + excerpt(name) + "' begins never ends");
        }
    }
    const size_t rule = left_recursive_rule(parser.rules);
    if (rule != SIZE_MAX) {
        throw refused("rule '" + excerpt(names.at((uint32_t) rule)) + "' begins with itself (left recursion)");
    }
}

void check_grammar(const std::string & text, const llama_vocab * vocab) {
    if (text.empty()) {
        return;
    }
    if (text.find('\0') != std::string::npos) {
        throw refused("it holds a zero byte");
    }
    if (text.compare(0, 11, "%llguidance") == 0) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "grammars of llguidance are not supported");
    }
    if (text.size() > max_bytes) {
        throw refused("it has " + std::to_string(text.size()) + " bytes, the limit is " + std::to_string(max_bytes))
            .compares((int64_t) text.size(), (int64_t) max_bytes);
    }
    scanner{ text, place{ text, "" } }.run();
    llama_grammar_parser parser(vocab);
    parse(parser, text);
    check_rules(parser, vocab);
    try {
        // how many ways there are to begin
        const llama_grammar        none{};
        const kvfold_grammar_scope bounded(none);
        auto                       rules = parser.c_rules();
        const std::unique_ptr<llama_grammar, decltype(&llama_grammar_free_impl)> made(
            llama_grammar_init_impl(vocab, rules.data(), rules.size(), parser.symbol_ids.at("root")), llama_grammar_free_impl);
        if (!made) {
            throw refused("llama.cpp does not take it");
        }
        const kvfold_grammar_scope begins(*made);
    } catch (const limit_exceeded & e) {
        throw refused(e.what());
    }
}

// ---- triggers -----------------------------------------------------------------------------------------------------------

static constexpr uint64_t max_trigger_steps = (uint64_t) 1 << 28;

static regex compile(const std::string & pattern) {
    return regex(std::vector<uint32_t>((const unsigned char *) pattern.data(), (const unsigned char *) pattern.data() + pattern.size()),
                 /*keep_groups =*/true);
}

void check_triggers(const std::vector<std::string> & patterns, size_t all) {
    if (all > max_triggers) {
        throw refused("it has " + std::to_string(all) + " triggers, the limit is " + std::to_string(max_triggers)).compares((int64_t) all, (int64_t) max_triggers);
    }
    for (const auto & pattern : patterns) {
        try {
            compile(pattern);
        } catch (const regex_refused & e) {
            throw refused("its trigger '" + excerpt(pattern) + "' is no regular expression that can be used, " + e.what());
        }
    }
}

} // namespace kvfold

using namespace kvfold;

size_t kvfold_find_trigger(const std::string & pattern, const std::string & text) {
    static thread_local std::map<std::string, regex> compiled; // a lazy grammar asks after every token
    auto found = compiled.find(pattern);
    if (found == compiled.end()) {
        if (compiled.size() >= 2 * max_triggers) {
            compiled.clear();
        }
        found = compiled.emplace(pattern, compile(pattern)).first;
    }
    const regex & expression = found->second;
    const auto    begins     = [&](bool whole) {
        regex_matcher<char> matcher(expression, text.data(), text.size(), max_trigger_steps);
        if (!matcher.search(0, whole)) {
            return std::string::npos;
        }
        for (size_t i = 0; i < expression.groups; i++) {
            const auto [from, to] = matcher.group(i);
            if (from != SIZE_MAX && to != SIZE_MAX && to > from) {
                return from;
            }
        }
        return matcher.match_begin();
    };
    if (!pattern.empty() && pattern.front() == '^' && pattern.back() == '$') {
        const size_t at = begins(true);
        if (at != std::string::npos) {
            return at;
        }
    }
    return begins(false);
}
