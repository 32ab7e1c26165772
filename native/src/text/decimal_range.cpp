#include "text/decimal_range.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace kvfold {

static constexpr size_t max_digits = 15; // of a number, which a double holds whatever they are

std::optional<decimal_bound> decimal_bound::parse(double value, bool excluded) {
    if (!(std::abs(value) < 1e15)) {
        return std::nullopt;
    }
    char text[64];
    int  digits = 0; // the fewest that tell it
    do {
        snprintf(text, sizeof(text), "%.*f", digits, std::abs(value));
    } while (strtod(text, nullptr) != std::abs(value) && digits++ < (int) max_digits);
    if (strtod(text, nullptr) != std::abs(value)) {
        return std::nullopt;
    }
    decimal_bound bound;
    const std::string all   = text;
    const size_t      point = std::min(all.find('.'), all.size());
    bound.negative          = value < 0;
    bound.whole             = all.substr(0, point);
    bound.fraction          = point < all.size() ? all.substr(point + 1) : "";
    bound.excluded          = excluded;
    if ((bound.whole == "0" ? 0 : bound.whole.size()) + bound.fraction.size() > max_digits) {
        return std::nullopt;
    }
    return bound;
}

namespace {

// Rules of some alternatives, none of which is there where nothing fits.
using choices = std::vector<std::string>;

std::string joined(const choices & all) {
    std::string text;
    for (const auto & each : all) {
        text += (text.empty() ? "" : " | ") + each;
    }
    return all.size() > 1 ? "(" + text + ")" : text;
}

std::string digit(char from, char to) {
    return from == to ? std::string("\"") + from + "\"" : std::string("[") + from + "-" + to + "]";
}

std::string digits(size_t least, size_t most) {
    return most == 0 ? "" : " [0-9]{" + std::to_string(least) + "," + std::to_string(most) + "}";
}

std::string zeros(size_t least, size_t most) {
    return most == 0 ? "\"\"" : "\"0\"{" + std::to_string(least) + "," + std::to_string(most) + "}";
}

void add(choices & all, const std::string & first, const choices & rest) {
    if (!rest.empty()) {
        all.push_back(first + " " + joined(rest));
    }
}

// Digits behind a point, at least `least` and at most `room`, that are not less than those of a bound, or greater.
choices not_less(const std::string & bound, bool excluded, size_t least, size_t room) {
    choices all;
    if (bound.empty()) {
        if (!excluded) {
            all.push_back(room == 0 ? "\"\"" : digits(least, room));
        } else if (room > 0) {
            all.push_back("[1-9]" + digits(0, room - 1));
            add(all, "\"0\"", not_less(bound, excluded, 1, room - 1));
        }
        return all;
    }
    if (room == 0) {
        return all;
    }
    if (bound[0] < '9') {
        all.push_back(digit((char) (bound[0] + 1), '9') + digits(0, room - 1));
    }
    add(all, digit(bound[0], bound[0]), not_less(bound.substr(1), excluded, 0, room - 1));
    return all;
}

// Those that are not greater, or less.
choices not_greater(const std::string & bound, bool excluded, size_t least, size_t room) {
    choices all;
    if (bound.empty()) {
        if (!excluded && least <= room) {
            all.push_back(zeros(least, room));
        }
        return all;
    }
    if (least == 0) {
        all.push_back("\"\"");
    }
    if (room == 0) {
        return all;
    }
    if (bound[0] > '0') {
        all.push_back(digit('0', (char) (bound[0] - 1)) + digits(0, room - 1));
    }
    add(all, digit(bound[0], bound[0]), not_greater(bound.substr(1), excluded, 0, room - 1));
    return all;
}

choices between(const std::string & low, bool low_excluded, const std::string & high, bool high_excluded, size_t least, size_t room) {
    if (high.empty()) {
        return low.empty() && !low_excluded ? not_greater(high, high_excluded, least, room) : choices();
    }
    choices all;
    if (least == 0 && low.empty() && !low_excluded) {
        all.push_back("\"\"");
    }
    if (room == 0) {
        return all;
    }
    const char        from = low.empty() ? '0' : low[0], to = high[0];
    const std::string after_low = low.empty() ? low : low.substr(1), after_high = high.substr(1);
    if (from == to) {
        add(all, digit(from, from), between(after_low, low_excluded, after_high, high_excluded, 0, room - 1));
    } else if (from < to) {
        add(all, digit(from, from), not_less(after_low, low_excluded, 0, room - 1));
        if (from + 1 < to) {
            all.push_back(digit((char) (from + 1), (char) (to - 1)) + digits(0, room - 1));
        }
        add(all, digit(to, to), not_greater(after_high, high_excluded, 0, room - 1));
    }
    return all;
}

// Numbers of as many digits as both bounds have.
choices of_length(const std::string & low, const std::string & high) {
    if (low.empty()) {
        return { "\"\"" };
    }
    const std::string after_low = low.substr(1), after_high = high.substr(1);
    const bool        any = after_low == std::string(after_low.size(), '0') && after_high == std::string(after_high.size(), '9');
    choices           all;
    if (any) {
        all.push_back(digit(low[0], high[0]) + digits(after_low.size(), after_low.size()));
    } else if (low[0] == high[0]) {
        add(all, digit(low[0], low[0]), of_length(after_low, after_high));
    } else {
        add(all, digit(low[0], low[0]), of_length(after_low, std::string(after_low.size(), '9')));
        if (low[0] + 1 < high[0]) {
            all.push_back(digit((char) (low[0] + 1), (char) (high[0] - 1)) + digits(after_low.size(), after_low.size()));
        }
        add(all, digit(high[0], high[0]), of_length(std::string(after_high.size(), '0'), after_high));
    }
    return all;
}

choices wholes(int64_t low, int64_t high) {
    choices all;
    size_t  full  = 0; // the fewest digits of which all numbers are within
    int64_t first = 0, last = 9;
    for (size_t n = 1; n <= max_digits; n++, first = last + 1, last = first * 10 - 1) {
        const int64_t from = std::max(low, first), to = std::min(high, last);
        if (n > 1 && from == first && to == last) {
            full = full == 0 ? n : full;
            continue;
        }
        if (full > 0) {
            all.push_back("[1-9]" + digits(full - 1, n - 2));
            full = 0;
        }
        if (from <= to) {
            const choices some = of_length(std::to_string(from), std::to_string(to));
            all.insert(all.end(), some.begin(), some.end());
        }
    }
    if (full > 0) {
        all.push_back("[1-9]" + digits(full - 1, max_digits - 1));
    }
    return all;
}

// Numbers of one sign by their size; the lower bound is there, if only as 0.
std::optional<choices> sizes(const decimal_bound & low, const std::optional<decimal_bound> & high, size_t most) {
    const size_t whole_digits = std::max(low.whole.size(), high ? high->whole.size() : 1);
    const size_t room         = std::min(most, max_digits - std::min(whole_digits, max_digits));
    if (room < std::min(most, std::max(low.fraction.size(), high ? high->fraction.size() : 0))) {
        return std::nullopt;
    }
    choices       all;
    const int64_t from = std::stoll(low.whole), to = high ? std::stoll(high->whole) : (int64_t) 1e15;
    const auto    with = [&](int64_t whole, bool alone, const choices & behind) {
        const std::string digits = "\"" + std::to_string(whole) + "\"";
        if (alone) {
            all.push_back(digits);
        }
        add(all, digits + " \".\"", room > 0 ? behind : choices());
    };
    if (from > to) {
        return all;
    }
    if (from == to) {
        const bool alone = low.fraction.empty() && !low.excluded && (!high->fraction.empty() || !high->excluded);
        with(from, alone, between(low.fraction, low.excluded, high->fraction, high->excluded, 1, room));
        return all;
    }
    with(from, low.fraction.empty() && !low.excluded, not_less(low.fraction, low.excluded, 1, room));
    const choices middle = wholes(from + 1, to - 1);
    add(all, joined(middle), middle.empty() ? choices() : choices{ room > 0 ? "(\".\"" + digits(1, room) + ")?" : "\"\"" });
    if (high) {
        with(to, !high->fraction.empty() || !high->excluded, not_greater(high->fraction, high->excluded, 1, room));
    }
    return all;
}

} // namespace

std::optional<std::string> decimal_range(const std::optional<decimal_bound> & low, const std::optional<decimal_bound> & high, size_t fraction_digits) {
    const size_t  most    = std::min(fraction_digits, max_digits);
    decimal_bound nothing;
    nothing.whole         = "0";
    choices all;
    if (!high || !high->negative) {
        const auto above = sizes(low && !low->negative ? *low : nothing, high, most);
        if (!above) {
            return std::nullopt;
        }
        all = *above;
    }
    if (!low || low->negative) {
        decimal_bound least = high && high->negative ? *high : nothing; // -0 is no way to write 0
        least.excluded      = least.excluded || !(high && high->negative);
        const auto below    = sizes(least, low, most);
        if (!below) {
            return std::nullopt;
        }
        add(all, "\"-\"", *below);
    }
    return joined(all);
}

} // namespace kvfold
