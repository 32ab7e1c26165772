// Text is split as std::regex splits it, by every expression that llama.cpp's pre-tokenizers have, and long runs end nothing.
//
//   regex_test LLAMA_VOCAB_CPP [SECONDS]   for so long with other random texts; also expressions made at random

#include "text/regex.h"

#include "hooks/text-limits.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <regex>
#include <set>

// Of llama.cpp's src/unicode.h, whose name a header of common/ has as well.
std::vector<uint32_t> unicode_cpts_from_utf8(const std::string & utf8);

static int failures = 0;

// As unicode_regex_split_stl().
template <typename C>
static std::vector<size_t> split_by_stl(const std::basic_string<C> & text, const std::basic_string<C> & expression, const std::vector<size_t> & lengths) {
    using iterator = typename std::basic_string<C>::const_iterator;
    const std::basic_regex<C> regex(expression, std::regex_constants::optimize | std::regex_constants::nosubs);
    std::vector<size_t>       split;
    size_t                    begin = 0;
    for (const size_t length : lengths) {
        int64_t last = 0;
        for (std::regex_iterator<iterator> it(text.begin() + begin, text.begin() + begin + length, regex), end; it != end; ++it) {
            if (it->position() > last) {
                split.push_back((size_t) (it->position() - last));
            }
            split.push_back((size_t) it->length());
            last = it->position() + it->length();
        }
        if (last < (int64_t) length) {
            split.push_back(length - (size_t) last);
        }
        begin += length;
    }
    return split;
}

template <typename C>
static void compare(const std::basic_string<C> & text, const std::basic_string<C> & expression, const std::vector<size_t> & lengths, const std::string & name) {
    std::vector<size_t> ours;
    if (!kvfold_regex_split(text, expression, lengths, ours)) {
        printf("refused: %s\n", name.c_str());
        failures++;
    } else if (ours != split_by_stl(text, expression, lengths)) {
        printf("differs: %s on a text of %zu:", name.c_str(), text.size());
        for (const C c : text) {
            printf(" %x", (unsigned) c);
        }
        printf("\n");
        failures++;
    }
}

// The string literals between "regex_exprs = {" and "};".
static std::set<std::string> expressions_of(const std::string & path) {
    std::ifstream         file(path);
    const std::string     source(std::istreambuf_iterator<char>(file), {});
    std::set<std::string> expressions;
    for (size_t at = source.find("regex_exprs = {"); at != std::string::npos; at = source.find("regex_exprs = {", at)) {
        const size_t end = source.find("};", at);
        while (at < end) {
            if (source.compare(at, 2, "//") == 0) {
                at = source.find('\n', at);
            } else if (source[at] == '"') {
                std::string text;
                for (at++; source[at] != '"'; at++) {
                    if (source[at] == '\\') {
                        const char c = source[++at];
                        text += c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c;
                    } else {
                        text += source[at];
                    }
                }
                expressions.insert(text);
            }
            at++;
        }
    }
    return expressions;
}

// Categories become single characters, in the expression as in the text; as unicode_regex_split().
static std::string collapsed(std::string expression) {
    static const std::pair<const char *, const char *> categories[] = {
        { "N", "\xD1\x30-\x39" }, { "L", "\xD2\x41-\x5A\x61-\x7A" }, { "P", "\xD3\x21-\x23\x25-\x2A\x2C-\x2F\x3A-\x3B\x3F-\x40\\\x5B-\\\x5D\x5F\\\x7B\\\x7D" },
        { "M", "\xD4" },          { "S", "\xD5\\\x24\\\x2B\x3C-\x3E\x5E\x60\\\x7C\\\x7E" }, { "Lu", "\xD2\x41-\x5A\x61-\x7A" }, { "Ll", "\xD2\x41-\x5A\x61-\x7A" },
        { "Lt", "\xD2\x41-\x5A\x61-\x7A" }, { "Lm", "\xD2\x41-\x5A\x61-\x7A" }, { "Lo", "\xD2\x41-\x5A\x61-\x7A" },
    };
    for (size_t at = expression.find("\\p{"); at != std::string::npos; at = expression.find("\\p{", at)) {
        const size_t      end  = expression.find('}', at);
        const std::string name = expression.substr(at + 3, end - at - 3);
        std::string       set;
        for (const auto & [category, characters] : categories) {
            set = name == category ? characters : set;
        }
        size_t open = std::string::npos; // whether a bracket is open here
        for (size_t i = 0; i < at; i++) {
            if (expression[i] == '[' && (i == 0 || expression[i - 1] != '\\')) {
                open = i;
            } else if (expression[i] == ']' && expression[i - 1] != '\\') {
                open = std::string::npos;
            }
        }
        set = open == std::string::npos ? "[" + set + "]" : set;
        expression.replace(at, end + 1 - at, set);
        at += set.size();
    }
    return expression;
}

// llama.cpp has code of its own for these, and std::regex is never asked.
static bool is_custom(const std::string & expression) {
    return expression.find("\\p{Han}") != std::string::npos || expression.find("\\p{AFMoE") != std::string::npos || expression.find("\\b") != std::string::npos;
}

static std::vector<size_t> random_cuts(size_t size, std::mt19937 & random) {
    std::vector<size_t> lengths;
    while (size > 0) {
        lengths.push_back(1 + random() % size);
        size -= lengths.back();
    }
    return lengths;
}

// Inside a lookahead std::regex takes its place for the beginning of the text, so it asks for no edges there.
static std::string random_expression(std::mt19937 & random, int depth, bool edges = true) {
    static const char * const atoms[] = { "a", "b", "[ab]", "[^a]", ".", "\\s", "\\w", "\\D", "x", "^", "$", "\\b", "\\B" };
    static const char * const counts[] = { "", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{2,}" };
    std::string               text;
    for (unsigned n = 1 + random() % 3; n > 0; n--) {
        if (random() % 6 == 0) {
            text += "|";
        }
        const unsigned kind = random() % (depth > 0 ? 18 : 13);
        if (kind < 13) {
            const unsigned atom = edges ? kind : kind % 9;
            text += atoms[atom];
            text += atom >= 9 ? "" : counts[random() % 13];
        } else if (kind == 13) {
            text += std::string(random() % 2 ? "(?=" : "(?!") + random_expression(random, depth - 1, false) + ")";
        } else {
            // std::regex takes exponential time for what may be nothing inside of loops
            text += "(?:a(?:" + random_expression(random, 0, edges) + "))" + counts[random() % 13];
        }
    }
    return text;
}

int main(int argc, char ** argv) {
    const auto   expressions = expressions_of(argc > 1 ? argv[1] : "");
    const double seconds     = argc > 2 ? atof(argv[2]) : 0;
    const auto   begin       = std::chrono::steady_clock::now();
    if (expressions.size() < 20) {
        printf("only %zu expressions were found\n", expressions.size());
        return 1;
    }
    static const std::string narrow = "aabbzAZ019 \t\n\r.'/sStTreVEmd!_-\xD0\xD1\xD2\xD3\xD4\xD5\x0B";
    static const std::wstring wide   = L"aZ09 \t\n\r.!,\x0B\u00e9\u4e00\u9fa5\u3042\uac00\uff01\u2018\u2026\u10d0\U0001D400";
    std::mt19937 random(1);
    size_t       n = 0;
    do {
        for (const auto & expression : expressions) {
            if (is_custom(expression)) {
                continue;
            }
            for (int i = 0; i < 25; i++, n++) {
                const size_t size = random() % 24;
                if (expression.find("\\p{") != std::string::npos) {
                    std::string text;
                    for (size_t k = 0; k < size; k++) {
                        text += narrow[random() % narrow.size()];
                    }
                    compare<char>(text, collapsed(expression), random_cuts(size, random), expression);
                } else {
                    std::wstring text;
                    for (size_t k = 0; k < size; k++) {
                        text += wide[random() % wide.size()];
                    }
                    const auto points = unicode_cpts_from_utf8(expression);
                    compare<wchar_t>(text, std::wstring(points.begin(), points.end()), random_cuts(size, random), expression);
                }
            }
        }
        for (int i = 0; i < 500; i++, n++) {
            const std::string expression = random_expression(random, 2);
            std::string       text;
            for (size_t k = random() % 12; k > 0; k--) {
                text += "aabbx \n1"[random() % 8];
            }
            compare<char>(text, expression, { text.size() }, expression);
        }
    } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds && failures == 0);

    // a long run of one kind, and something else at the end
    const size_t run = seconds > 0 ? 4'000'000 : 100'000;
    for (const auto & expression : expressions) {
        for (const wchar_t c : std::wstring(L"aA \n1.\u00e9\u4e00")) {
            const auto          points = unicode_cpts_from_utf8(collapsed(expression));
            std::vector<size_t> split;
            size_t              sum = 0;
            try {
                if (expression.find("\\p{") != std::string::npos) {
                    const std::string text = std::string(run, c < 128 ? (char) c : '\xD2') + "'";
                    kvfold_regex_split(text, collapsed(expression), { text.size() }, split);
                } else {
                    const std::wstring text = std::wstring(run, c) + L"'";
                    kvfold_regex_split(text, std::wstring(points.begin(), points.end()), { text.size() }, split);
                }
            } catch (const kvfold::regex_exhausted &) {
                // digits in threes from the end of a number: each looks for the end, so that steps grow with the square of its length
                if (c != '1' || expression.find("\\d{3})") == std::string::npos) {
                    printf("a run of %x takes too long by %s\n", (unsigned) c, expression.c_str());
                    failures++;
                }
                continue;
            }
            for (const size_t length : split) {
                sum += length;
            }
            if (sum != run + 1 && !is_custom(expression)) {
                printf("%zu characters are left of a run of %x by %s\n", sum, (unsigned) c, expression.c_str());
                failures++;
            }
        }
    }
    printf("%zu texts, %zu expressions, %d failures\n", n, expressions.size(), failures);
    return failures ? 1 : 0;
}
