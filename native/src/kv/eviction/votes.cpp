#include "kv/eviction/votes.h"

#include "kv/eviction/method.h"

#include "llama-hparams.h"
#include "llama-io.h"

#include <stdexcept>
#include <string>

namespace kvfold {

uint32_t n_votes_of(const llama_hparams & hparams, uint32_t n_heads) {
    return evicts_by_marks(hparams.kv_plan) ? 2*n_heads : n_heads;
}

void write_votes(llama_io_write_i & io, const votes_by_head & votes) {
    const auto number = [&](size_t value) {
        const auto written = (uint32_t) value;
        io.write(&written, sizeof(written));
    };
    number(votes.size());
    for (const auto & heads : votes) {
        number(heads.size());
        for (const auto & each : heads) {
            number(each.size());
            io.write(each.data(), each.size()*sizeof(float));
        }
    }
}

votes_by_head read_votes(llama_io_read_i & io, const llama_hparams & hparams) {
    const auto number = [&] {
        uint32_t read = 0;
        io.read(&read, sizeof(read));
        return read;
    };
    const auto expect = [](const char * of, uint32_t found, uint32_t expected) {
        if (found != 0 && found != expected) {
            throw std::runtime_error("the saved state has the votes of " + std::to_string(found) + of);
        }
        return found;
    };
    votes_by_head votes(expect(" layers", number(), hparams.kv_plan.n_layer));
    for (uint32_t il = 0; il < votes.size(); ++il) {
        votes[il].resize(expect(" heads", number(), n_votes_of(hparams, hparams.n_head_kv(il))));
        for (auto & each : votes[il]) {
            each.resize(number());
            io.read(each.data(), each.size()*sizeof(float));
        }
    }
    return votes;
}

} // namespace kvfold
