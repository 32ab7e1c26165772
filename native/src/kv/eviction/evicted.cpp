#include "kv/eviction/evicted.h"

#include "kv/eviction/method.h"

#include "llama-io.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace kvfold {

void evicted::write(llama_io_write_i & io, const kvfold_plan & plan) const {
    const auto number = [&](uint32_t value) { io.write(&value, sizeof(value)); };
    if (evicts_by_noise(plan)) {
        number((uint32_t) prompt);
    }
    number((uint32_t) points.size());
    for (size_t i = 0; i < points.size(); ++i) {
        number((uint32_t) points[i]);
        number((uint32_t) begins[i]);
        if (evicts_by_noise(plan)) {
            number((uint32_t) prompts[i]);
        }
    }
    if (!points.empty()) {
        number(n_cells);
        std::for_each(n_rows.begin(), n_rows.end(), number);
    }
}

evicted evicted::read(const kvfold_plan & plan, const std::function<uint32_t()> & next) {
    evicted    found;
    const auto next_prompt = [&](uint32_t most) {
        const uint32_t prompt = next();
        if (prompt > most) {
            throw std::runtime_error("it says that a prompt has ended at " + std::to_string(prompt) + " of " + std::to_string(most) + " tokens");
        }
        return (llama_pos) prompt;
    };
    if (evicts_by_noise(plan)) {
        found.prompt = next_prompt(INT32_MAX);
    }
    for (uint32_t n = next(); n > 0; --n) {
        const uint32_t point = next(), begin = next();
        if (point > INT32_MAX || (llama_pos) point <= found.n_compact() || begin >= point + (plan.evict_answer > 0) || (llama_pos) begin < found.n_compact()) {
            throw std::runtime_error("it says that tokens were evicted at " + std::to_string(point) + " tokens of a prompt from " +
                                     std::to_string(begin) + " on");
        }
        found.points.push_back((llama_pos) point);
        found.begins.push_back((llama_pos) begin);
        if (evicts_by_noise(plan)) {
            found.prompts.push_back(next_prompt(point));
        }
    }
    if (found.points.empty()) {
        return found;
    }
    found.n_cells = next();
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        found.n_rows.push_back(next());
    }
    const uint32_t most = *std::max_element(found.n_rows.begin(), found.n_rows.end());
    if (found.n_cells < 1 || found.n_cells > (uint32_t) found.n_compact() || found.n_cells != most) {
        throw std::runtime_error("it says that " + std::to_string(found.n_cells) + " cells are left of " + std::to_string(found.n_compact()) + " tokens");
    }
    return found;
}

} // namespace kvfold
