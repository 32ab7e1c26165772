// What the words of a plan's text are read with. All throw std::invalid_argument.
#pragma once

#include "hooks/kv-plan.h"
#include "kv/plan/fail.h"

#include <cstdint>
#include <string>
#include <vector>

namespace kvfold::plans {

uint32_t parse_number(const std::string & text, const std::string & what);
uint32_t parse_number(const std::string & text, const std::string & what, uint32_t min, uint32_t max);

// A decimal number from 0 to 1 with at most 6 digits after the point, in millionths; and its text.
uint32_t    parse_decimal(const std::string & text, const std::string & what);
std::string decimal_text(uint32_t millionths);

std::vector<std::string> split(const std::string & text, char separator);

void make_automatic(kvfold_plan & plan, kvfold_automatic how);

// a plan by the name that the literature gives it; false if the text is no such name
bool parse_name(kvfold_plan & plan, const std::string & text);

} // namespace kvfold::plans
