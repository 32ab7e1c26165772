// Which tokens the rows of a layer are, whose cells do not say that once some have gone.
#pragma once

#include <cstdint>
#include <vector>

namespace kvfold {

// Of one sequence.
class kept_tokens {
public:
    explicit kept_tokens(uint32_t n_heads) : by_head(n_heads) {}

    // When the sequence has n_tokens each head keeps these of its rows, in ascending order.
    void choose(const std::vector<std::vector<uint32_t>> & rows, uint32_t n_tokens);

    // [head], with n_tokens, of which those after the last choice are all there; in ascending order.
    std::vector<std::vector<uint32_t>> at(uint32_t n_tokens) const;

private:
    std::vector<std::vector<uint32_t>> by_head;
    uint32_t                           n_chosen_from = 0;
};

} // namespace kvfold
