// The keys and values of one conversation outside the KV cache: taken out of a slot, put into one, kept in a file.
#pragma once

#include "kv/memory/page_ledger.h"
#include "process/error.h"

#include "llama.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

struct server_prompt;

namespace kvfold {

struct kv_state {
    // What the window-sized part of a cache held when it had fewer tokens: the way back for a prompt that departs earlier.
    struct checkpoint {
        int32_t              n_tokens = 0;
        int32_t              pos_min  = 0; // as llama-server keeps it
        std::vector<uint8_t> cells;
    };

    std::vector<llama_token> tokens;
    std::vector<uint8_t>     cells; // as llama_state_seq_get_data() writes them
    std::vector<checkpoint>  checkpoints;

    std::optional<ledger_charge> charged; // for these bytes; none where nobody counts
};

// What a state depends on, as lines "name=value". A state goes only where every line is the same.
struct state_fit {
    std::string text;
};

// Reads a sample of the model's files; throws KVFOLD_ERROR_STATE if they are gone.
state_fit describe_fit(const llama_context * context, const std::vector<std::string> & model_files);

// Why the states of this context cannot be taken out, or null.
const char * no_state_because(const llama_context * context);

// Both run on the worker thread, between two decodes.

// Throws KVFOLD_ERROR_STATE if the slot does not hold exactly its prompt. Nothing if the thread's ledger refuses a copy, of so many
// bytes, and `make_room` returns false. The slot's checkpoints are copied if there is memory for all of them at once.
std::optional<kv_state> take_state(llama_context * context, int id_slot, const server_prompt & prompt, const std::function<bool(uint64_t bytes)> & make_room);

// Replaces what the slot holds. False, and an empty slot, if there are too few free cells.
bool put_state(llama_context * context, int id_slot, server_prompt & prompt, const kv_state & state);

// A state that is written, in a file beside the one that it is for. Goes with this unless it is published.
class written_state {
public:
    written_state(std::string partial, std::string path) : partial(std::move(partial)), path(std::move(path)) {}
    written_state(written_state && other) noexcept;
    written_state & operator=(written_state &&) = delete;
    ~written_state();

    // Gives the file its name. Throws KVFOLD_ERROR_STATE.
    void publish();

private:
    std::string partial; // empty: published, or moved away
    std::string path;
};

// Only its owner may read the file. Throws KVFOLD_ERROR_STATE.
written_state write_state(const std::string & path, const state_fit & fit, const kv_state & state);

// Trusts nothing in the file; throws KVFOLD_ERROR_STATE. Nothing if the thread's ledger refuses what is in it and `make_room` returns
// false. `max_tokens` is what a slot holds.
std::optional<kv_state> read_state(
        const std::string & path, const state_fit & fit, const llama_context * context, uint32_t max_tokens,
        const std::function<bool()> & make_room);

} // namespace kvfold
