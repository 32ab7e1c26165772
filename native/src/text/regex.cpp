#include "text/regex.h"

#include "hooks/text-limits.h"
#include "hooks/text-marks.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <optional>
#include <type_traits>

namespace kvfold {

static constexpr size_t max_program = max_regex_repetitions;
static constexpr size_t unbounded   = SIZE_MAX;

char_set::char_set(char_ranges given) : ranges(united(std::move(given))) {
    for (const auto & [first, last] : ranges) {
        for (uint32_t c = first; c <= std::min(last, 255u); c++) {
            low[c / 64] |= (uint64_t) 1 << c % 64;
        }
    }
}

bool char_set::has(uint32_t c) const {
    if (c < 256) {
        return low[c / 64] >> c % 64 & 1;
    }
    const auto after = std::upper_bound(ranges.begin(), ranges.end(), c, [](uint32_t c, const auto & range) { return c < range.first; });
    return after != ranges.begin() && c <= (after - 1)->second;
}

// ---- compiling ----------------------------------------------------------------------------------------------------------

namespace {

using node = regex_node;

struct compiler {
    regex & made;

    uint32_t here() const { return (uint32_t) made.program.size(); }

    uint32_t add(regex::op what, uint32_t x = 0, uint32_t y = 0) {
        if (made.program.size() >= max_program) {
            throw regex_refused("the pattern is too large");
        }
        regex::instruction one{ what, x, y };
        if (what == regex::SPAN || what == regex::SPLIT) {
            one.choice = made.choices++;
        } else if (what == regex::LOOK) {
            one.choice = made.choices;
            made.choices += 2;
        }
        made.program.push_back(one);
        return here() - 1;
    }

    uint32_t add_set(const char_ranges & ranges) {
        for (size_t i = 0; i < made.sets.size(); i++) {
            if (made.sets[i].ranges == ranges) {
                return (uint32_t) i;
            }
        }
        made.sets.emplace_back(ranges);
        return (uint32_t) made.sets.size() - 1;
    }

    // A choice between what follows and what `skip` will be set to.
    uint32_t split(bool lazy) {
        const uint32_t at = add(regex::SPLIT);
        (lazy ? made.program[at].y : made.program[at].x) = at + 1;
        return at;
    }

    void set_skip(uint32_t at, bool lazy, uint32_t to) { (lazy ? made.program[at].x : made.program[at].y) = to; }

    void compile(const node & n) {
        switch (n.what) {
            case node::EMPTY: break;
            case node::SET: add(regex::CHAR, add_set(n.set)); break;
            case node::BEGIN:        add(regex::BEGIN); break;
            case node::END:          add(regex::END); break;
            case node::WORD_EDGE:    add(regex::WORD_EDGE); break;
            case node::NO_WORD_EDGE: add(regex::NO_WORD_EDGE); break;
            case node::SEQUENCE:
                for (const node & each : n.inner) {
                    compile(each);
                }
                break;
            case node::GROUP:
                made.groups = std::max(made.groups, n.group + 1);
                add(regex::SAVE, 2 * n.group);
                compile(n.inner.front());
                add(regex::SAVE, 2 * n.group + 1);
                break;
            case node::CHOICE: {
                std::vector<uint32_t> ends;
                for (size_t i = 0; i < n.inner.size(); i++) {
                    const bool     last = i + 1 == n.inner.size();
                    const uint32_t at   = last ? 0 : split(false);
                    compile(n.inner[i]);
                    if (!last) {
                        ends.push_back(add(regex::JUMP));
                        set_skip(at, false, here());
                    }
                }
                for (const uint32_t end : ends) {
                    made.program[end].x = here();
                }
                break;
            }
            case node::LOOK: {
                const uint32_t look = add(regex::LOOK, 0, n.negative);
                const uint32_t over = add(regex::JUMP);
                made.program[look].x = here();
                compile(n.inner.front());
                add(regex::MATCH);
                made.program[over].x = here();
                break;
            }
            case node::REPEAT: repeat(n, n.inner.front()); break;
        }
    }

    void repeat(const node & n, const node & body) {
        for (size_t i = 0; i < n.least; i++) {
            compile(body);
        }
        if (n.most == unbounded && body.what == node::SET && !n.lazy) {
            add(regex::SPAN, add_set(body.set));
        } else if (n.most == unbounded) {
            const uint32_t loop = split(n.lazy);
            compile(body);
            add(regex::JUMP, loop);
            set_skip(loop, n.lazy, here());
        } else {
            std::vector<uint32_t> skips;
            for (size_t i = n.least; i < n.most; i++) {
                skips.push_back(split(n.lazy));
                compile(body);
            }
            for (const uint32_t skip : skips) {
                set_skip(skip, n.lazy, here());
            }
        }
    }
};

} // namespace

regex::regex(const std::vector<uint32_t> & text, bool keep_groups) {
    compiler all{ *this };
    all.compile(parse_regex(text, keep_groups, regex_dialect::STL));
    all.add(MATCH);
}

// ---- matching -----------------------------------------------------------------------------------------------------------

// A failed choice fails wherever the match began, so no choice is made twice at one place. Marks say where each was made.

template <typename CharT>
regex_matcher<CharT>::regex_matcher(const regex & expression, const CharT * text, size_t size, uint64_t max_steps)
    : expression(expression), text(text), words((expression.choices + 63) / 64), steps_left(max_steps),
      saved(2 * (size_t) expression.groups, SIZE_MAX) {
    if (words > 0) {
        marks = (uint64_t *) calloc(size + 1, words * sizeof(uint64_t)); // pages that nothing marks take no memory
        if (!marks) {
            throw std::bad_alloc();
        }
    }
    set_part(0, size);
}

template <typename CharT> regex_matcher<CharT>::~regex_matcher() {
    free(marks);
}

template <typename CharT> void regex_matcher<CharT>::set_part(size_t from, size_t to) {
    begin = from;
    end   = to;
    clear_row(from); // the part before ended there
}

template <typename CharT> void regex_matcher<CharT>::clear_row(size_t at) {
    std::fill_n(marks + at * words, words, 0);
}

// True if it was marked already.
template <typename CharT> bool regex_matcher<CharT>::mark(size_t at, uint32_t choice) {
    const size_t   word = at * words + choice / 64;
    const uint64_t bit  = (uint64_t) 1 << choice % 64;
    if (marks[word] & bit) {
        return true;
    }
    marks[word] |= bit;
    if (lookaheads > 0) {
        undo.push_back(word * 64 + choice % 64);
    }
    return false;
}

template <typename CharT> bool regex_matcher<CharT>::is_word(size_t at) const {
    const auto c = (std::make_unsigned_t<CharT>) text[at];
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
}

template <typename CharT> bool regex_matcher<CharT>::looks(const regex::instruction & look, size_t at) {
    uint64_t * const row  = marks + at * words;
    const auto       told = [&](uint32_t choice) { return row[choice / 64] >> choice % 64 & 1; };
    if (told(look.choice)) {
        return true;
    }
    if (told(look.choice + 1)) {
        return false;
    }
    const size_t undo_from = undo.size();
    lookaheads++;
    const bool found = run(look.x, at, false);
    lookaheads--;
    // what was tried on the way to a success has not failed
    for (size_t i = undo_from; found && i < undo.size(); i++) {
        marks[undo[i] / 64] &= ~((uint64_t) 1 << undo[i] % 64);
    }
    undo.resize(lookaheads > 0 && !found ? undo.size() : undo_from);
    const bool     holds = found != (look.y != 0);
    const uint32_t which = look.choice + !holds;
    row[which / 64] |= (uint64_t) 1 << which % 64;
    return holds;
}

template <typename CharT> bool regex_matcher<CharT>::run(uint32_t pc, size_t at, bool outer) {
    const auto   char_at = [&](size_t i) { return (uint32_t) (std::make_unsigned_t<CharT>) text[i]; };
    const size_t bottom  = jobs.size();
    while (true) {
        bool alive = true;
        kvfold_tokenizer_step();
        while (alive) {
            if (steps_left-- == 0) {
                throw regex_exhausted();
            }
            const regex::instruction & now = expression.program[pc];
            switch (now.what) {
                case regex::CHAR:
                    alive = at < end && expression.sets[now.x].has(char_at(at));
                    at++;
                    pc++;
                    break;
                case regex::SPAN: {
                    const char_set & set = expression.sets[now.x];
                    const size_t     low = at;
                    if (mark(at, now.choice)) {
                        alive = false;
                        break;
                    }
                    while (at < end && set.has(char_at(at)) && !mark(at + 1, now.choice)) {
                        at++;
                    }
                    steps_left -= std::min<uint64_t>(steps_left, at - low);
                    if (at > low) {
                        jobs.push_back({ job::RANGE, pc + 1, at - 1, low });
                    }
                    pc++;
                    break;
                }
                case regex::SPLIT:
                    alive = !mark(at, now.choice);
                    if (alive) {
                        jobs.push_back({ job::GO_ON, now.y, at, at });
                        pc = now.x;
                    }
                    break;
                case regex::JUMP: pc = now.x; break;
                case regex::SAVE:
                    jobs.push_back({ job::RESTORE, now.x, saved[now.x], 0 });
                    saved[now.x] = at;
                    pc++;
                    break;
                case regex::BEGIN: alive = at == begin; pc++; break;
                case regex::END:   alive = at == end; pc++; break;
                case regex::WORD_EDGE:
                case regex::NO_WORD_EDGE: {
                    const bool edge = (at > begin && is_word(at - 1)) != (at < end && is_word(at));
                    alive           = edge == (now.what == regex::WORD_EDGE);
                    pc++;
                    break;
                }
                case regex::LOOK:
                    alive = looks(now, at);
                    pc++;
                    break;
                case regex::MATCH:
                    if (outer && ((whole && at != end) || (not_empty && at == start))) {
                        alive = false;
                        break;
                    }
                    jobs.resize(bottom);
                    matched_end = outer ? at : matched_end;
                    return true;
            }
        }
        while (jobs.size() > bottom && jobs.back().what == job::RESTORE) {
            saved[jobs.back().pc] = jobs.back().at;
            jobs.pop_back();
        }
        if (jobs.size() == bottom) {
            return false;
        }
        job & last = jobs.back();
        at         = last.at;
        pc         = last.pc;
        if (last.what == job::GO_ON || last.at-- == last.low) {
            jobs.pop_back();
        }
    }
}

template <typename CharT> bool regex_matcher<CharT>::search(size_t from, bool to_end, bool something) {
    whole     = to_end;
    not_empty = something;
    std::fill(saved.begin(), saved.end(), SIZE_MAX);
    for (start = from; start <= end; start++) {
        kvfold_tokenizer_step();
        if (run(0, start, true)) {
            clear_row(matched_end); // nothing before is looked at again, and what was marked later did fail
            return true;
        }
        if (whole || not_empty) {
            break;
        }
    }
    return false;
}

template struct regex_matcher<char>;
template struct regex_matcher<wchar_t>;

// Two seconds. Only where digits are counted from the end of their number (superbpe) do steps grow with the square of a text.
static constexpr uint64_t most_split_steps = (uint64_t) 1 << 28;

// As unicode_regex_split_stl() does it with std::regex_iterator.
template <typename CharT>
static bool split(const std::basic_string<CharT> & text, const std::basic_string<CharT> & expression, const std::vector<size_t> & lengths,
                  std::vector<size_t> & split) {
    std::optional<regex> compiled;
    try {
        std::vector<uint32_t> code_points;
        for (const CharT c : expression) {
            code_points.push_back((std::make_unsigned_t<CharT>) c);
        }
        compiled.emplace(code_points, /*keep_groups =*/false);
    } catch (const regex_refused &) {
        return false;
    }
    regex_matcher<CharT> matcher(*compiled, text.data(), text.size(), most_split_steps + text.size() * 256);
    split.clear();
    split.reserve(lengths.size());
    size_t begin = 0;
    for (const size_t length : lengths) {
        const size_t end  = begin + length;
        size_t       last = begin; // the end of the last match
        matcher.set_part(begin, end);
        bool found = matcher.search(begin);
        while (found) {
            if (matcher.match_begin() > last) {
                split.push_back(matcher.match_begin() - last);
            }
            last             = matcher.match_end();
            const bool empty = last == matcher.match_begin();
            split.push_back(last - matcher.match_begin());
            if (!empty) {
                found = matcher.search(last);
            } else if (last == end) {
                break;
            } else {
                found = matcher.search(last, false, /*not_empty =*/true) || matcher.search(last + 1);
            }
        }
        if (last < end) {
            split.push_back(end - last);
        }
        begin = end;
    }
    return true;
}

} // namespace kvfold

bool kvfold_regex_split(const std::string & text, const std::string & regex, const std::vector<size_t> & offsets, std::vector<size_t> & split) {
    return kvfold::split(text, regex, offsets, split);
}

bool kvfold_regex_split(const std::wstring & text, const std::wstring & regex, const std::vector<size_t> & offsets, std::vector<size_t> & split) {
    return kvfold::split(text, regex, offsets, split);
}
