// Decimal numbers between two bounds as a rule of llama.cpp's grammars. They are written without an exponent, and with so few digits that
// whoever reads them as doubles sees them on the same side of a bound.
#pragma once

#include <optional>
#include <string>

namespace kvfold {

struct decimal_bound {
    bool        negative = false;
    std::string whole;    // its digits, "0" for none
    std::string fraction; // without zeros at the end
    bool        excluded = false;

    // Nothing for what has an exponent or more than fifteen digits.
    static std::optional<decimal_bound> parse(double value, bool excluded);
};

// At most `fraction_digits` digits behind the point. An empty rule if no number is left; nothing where a bound has too many digits.
std::optional<std::string> decimal_range(const std::optional<decimal_bound> & low, const std::optional<decimal_bound> & high, size_t fraction_digits = 15);

} // namespace kvfold
