// How a plan is refused.
#pragma once

#include <stdexcept>
#include <string>

namespace kvfold::plans {

[[noreturn]] inline void fail(const std::string & message) {
    throw std::invalid_argument("KV plan: " + message);
}

} // namespace kvfold::plans
