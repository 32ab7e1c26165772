// Regular expressions that neither recurse nor run away: std::regex calls itself once per character, so a long run of letters
// ends the process, and std::regex is what llama.cpp splits prompts and looks for the beginnings of tool calls with. The hooks
// kvfold_regex_split() put this in its place.
#pragma once

#include "text/regex_tree.h"

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace kvfold {

struct char_set {
    char_ranges ranges;
    uint64_t    low[4] = {}; // the first 256, for a quick answer

    explicit char_set(char_ranges ranges);

    bool has(uint32_t c) const;
};

// The ECMAScript grammar as std::regex of libstdc++ reads it in the C locale, without back references, character class names
// and collation. Immutable once made.
struct regex {
    enum op { CHAR, SPAN, SPLIT, JUMP, SAVE, BEGIN, END, WORD_EDGE, NO_WORD_EDGE, LOOK, MATCH };

    struct instruction {
        op       what;
        uint32_t x      = 0; // CHAR, SPAN: the set; SPLIT, JUMP: where to go on; SAVE: which; LOOK: what to look for
        uint32_t y      = 0; // SPLIT: where to go on if x fails; LOOK: whether it must not be there
        uint32_t choice = 0; // SPAN, SPLIT: which of the choices; LOOK: the first of its two
    };

    std::vector<char_set>    sets;
    std::vector<instruction> program;
    uint32_t                 choices = 0;
    uint32_t                 groups  = 0; // capturing ones, if they are kept

    // `text` in code points. Throws regex_refused.
    regex(const std::vector<uint32_t> & text, bool keep_groups);
};

// A search took more steps than it may.
struct regex_exhausted : std::runtime_error {
    regex_exhausted() : std::runtime_error("a pattern takes too long to match") {}
};

// Matches expressions against parts of one text. Time and memory are linear in the text for all expressions without a
// lookahead of its own length, and `max_steps` bounds the rest.
template <typename CharT>
struct regex_matcher {
    regex_matcher(const regex & expression, const CharT * text, size_t size, uint64_t max_steps = UINT64_MAX);
    ~regex_matcher();
    regex_matcher(const regex_matcher &)             = delete;
    regex_matcher & operator=(const regex_matcher &) = delete;

    // Makes [begin, end) the whole text for what follows.
    void set_part(size_t begin, size_t end);

    // The first match that begins at `from` or later, as search of std::regex finds it. With `whole` only at `from` and only up to the
    // end; with `not_empty` only at `from` and not an empty one.
    bool search(size_t from, bool whole = false, bool not_empty = false);

    size_t match_begin() const { return start; }
    size_t match_end() const { return matched_end; }

    // Begin and end of a capturing group, SIZE_MAX where it took no part.
    std::pair<size_t, size_t> group(size_t index) const { return { saved[2 * index], saved[2 * index + 1] }; }

  private:
    // What is left to try: to go on at `at`, or at all of [low, at], the last one first; or a group's place to put back.
    struct job {
        enum kind : uint32_t { GO_ON, RANGE, RESTORE } what;
        uint32_t pc; // RESTORE: which
        size_t   at;
        size_t   low;
    };

    bool run(uint32_t pc, size_t at, bool outer);
    bool looks(const regex::instruction & look, size_t at);
    bool is_word(size_t at) const;
    bool mark(size_t at, uint32_t choice);
    void clear_row(size_t at);

    const regex &         expression;
    const CharT * const   text;
    size_t                begin = 0, end = 0, start = 0, matched_end = 0;
    bool                  whole = false, not_empty = false;
    const size_t          words; // of a row of `marks`
    uint64_t *            marks = nullptr;
    uint64_t              steps_left;
    std::vector<size_t>   saved;
    std::vector<job>      jobs;
    std::vector<uint64_t> undo; // marks made inside a lookahead
    uint32_t              lookaheads = 0;
};

extern template struct regex_matcher<char>;
extern template struct regex_matcher<wchar_t>;

} // namespace kvfold
