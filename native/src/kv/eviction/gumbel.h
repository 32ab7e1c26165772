// The noise that Keyformer adds to what queries are compared by (arXiv 2403.09054).
#pragma once

#include <cstdint>

namespace kvfold {

// Of Gumbel's standard distribution, always the same for the same numbers: what tokens stay depends on it, and a request that is
// computed again has to lose the same ones. Heads that read the same keys have numbers of their own.
float gumbel(uint32_t seed, uint32_t key, uint32_t query, uint32_t head);

} // namespace kvfold
