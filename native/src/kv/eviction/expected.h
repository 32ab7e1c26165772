// How much queries to come will attend to the keys of a sequence, if they are as those of its prompt (ExpectedAttention, arXiv
// 2510.00636).
//
// What queries are before RoPE does not depend on where they stand: their mean and covariance over the prompt are those of queries to
// come. At a position RoPE turns both; over many positions the mean of its rotations does. Of queries with mean m and covariance C the
// expectation of exp(q.k) is exp(m.k + k.C.k/2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

struct ggml_tensor;

namespace kvfold {

// The queries of a layer before RoPE: how many, their sums, and those of their products, by head.
class query_moments {
public:
    // F32 [n][n_heads][n_embd], always as many heads of the same size.
    void add(const float * queries, size_t n, uint32_t n_heads, uint32_t n_embd);

    bool empty() const { return n == 0; }

    std::vector<float> mean      (uint32_t head) const; // [n_embd]
    std::vector<float> covariance(uint32_t head) const; // [n_embd][n_embd]

private:
    uint32_t           n_embd = 0;
    size_t             n      = 0;
    std::vector<float> origin;   // [n_heads][n_embd], the first query, of which the others differ less than of zero
    std::vector<float> sums;     // [n_heads][n_embd]
    std::vector<float> products; // [n_heads][n_embd][n_embd], of which the lower half is computed
};

// How a layer turns its queries; as it is until it is told.
class rotation {
public:
    rotation() = default;

    // As the node of a graph does that turns them (GGML_OP_ROPE).
    explicit rotation(const ggml_tensor & rope);

    // The mean over n positions from `first` on: F32 [n_embd][n_embd], row i of which has what component i of the result has of each
    // component.
    std::vector<float> mean(uint32_t n_embd, int32_t first, uint32_t n) const;

    bool operator==(const rotation & other) const { return parameters == other.parameters && factors == other.factors; }

private:
    std::vector<uint8_t> parameters;
    std::vector<float>   factors; // of frequencies; none: they are as they are
};

// The share of each row that a query to come has on average, in one head: of those from n_sinks on. keys: F32 [n][mean.size()].
std::vector<float> expected_attention(
        const std::vector<float> & mean, const std::vector<float> & covariance, const std::vector<float> & turn, const std::vector<float> & keys,
        uint32_t n_sinks, float scale);

} // namespace kvfold
