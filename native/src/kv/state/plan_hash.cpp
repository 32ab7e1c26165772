#include "kv/state/plan_hash.h"

#include "hooks/kv-plan-state.h"

#include "llama-hparams.h"
#include "llama-io.h"

#include <stdexcept>

void kvfold_plan_hash_write(const kvfold_plan & plan, llama_io_write_i & io) {
    const uint64_t hash = plan.hash();
    io.write(&hash, sizeof(hash));
}

void kvfold_plan_hash_read(const kvfold_plan & plan, llama_io_read_i & io) {
    uint64_t hash = 0;
    io.read(&hash, sizeof(hash));
    if (hash != plan.hash()) {
        throw std::runtime_error("the saved state belongs to another KV plan than " + plan.str());
    }
}

void kvfold_state_write(const llama_hparams & hparams, llama_io_write_i & io) {
    if (hparams.kv_plan.active()) {
        kvfold_plan_hash_write(hparams.kv_plan, io);
    }
}

void kvfold_state_read(const llama_hparams & hparams, llama_io_read_i & io) {
    if (hparams.kv_plan.active()) {
        kvfold_plan_hash_read(hparams.kv_plan, io);
    }
}
