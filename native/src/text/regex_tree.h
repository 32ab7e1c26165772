// The syntax of regular expressions, as a tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace kvfold {

// Code points in ascending order, ends included.
using char_ranges = std::vector<std::pair<uint32_t, uint32_t>>;

char_ranges united(char_ranges ranges);
char_ranges complement(const char_ranges & ranges);
char_ranges intersection(const char_ranges & a, const char_ranges & b);

// Not a regular expression, or one of those that are not done here.
struct regex_refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct regex_node {
    enum kind { EMPTY, SET, SEQUENCE, CHOICE, REPEAT, GROUP, LOOK, BEGIN, END, WORD_EDGE, NO_WORD_EDGE } what = EMPTY;
    char_ranges             set;
    std::vector<regex_node> inner;
    size_t                  least = 0, most = 0; // REPEAT; SIZE_MAX is any number
    bool                    lazy = false, negative = false;
    uint32_t                group = 0;
};

// What is read besides what std::regex of libstdc++ reads in the C locale.
enum class regex_dialect { STL, JSON_SCHEMA };

// `text` in code points. Groups are kept with `keep_groups`. Throws regex_refused. Repetitions of more than `max_regex_repetitions` are cut
// to it.
regex_node parse_regex(const std::vector<uint32_t> & text, bool keep_groups, regex_dialect dialect);

static constexpr size_t max_regex_repetitions = 20'000;

} // namespace kvfold
