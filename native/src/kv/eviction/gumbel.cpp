#include "kv/eviction/gumbel.h"

#include <cmath>

namespace kvfold {

// Every bit of the result depends on every bit of x, and no two x have the same one.
static uint64_t scrambled(uint64_t x) {
    x = (x ^ (x >> 32))*0xd6e8feb86659fd93u;
    x = (x ^ (x >> 32))*0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}

float gumbel(uint32_t seed, uint32_t key, uint32_t query, uint32_t head) {
    const uint64_t of_row = scrambled(((uint64_t) seed << 32 | head) + 0x9e3779b97f4a7c15u);
    const uint64_t bits   = scrambled(of_row ^ scrambled((uint64_t) query << 32 | key)) >> 40;
    const double   unit   = ((double) bits + 0.5)/(1 << 24); // above 0 and below 1
    return (float) -std::log(-std::log(unit));
}

} // namespace kvfold
