// What is said when there is no memory for more keys and values.
#pragma once

#include "process/error.h"

#include <cstdint>
#include <optional>
#include <string>

struct llama_memory_i;

namespace kvfold {

// There was no memory for the cells of the last batch of a memory. Its text goes through the server core as an error and is
// recognized behind it.
struct memory_refusal {
    uint64_t bytes;     // that were asked for
    uint64_t committed; // that the caches take, and with a cap all that counts against it
    uint64_t cap;       // of the ledger, if that is what refused; else 0

    std::string                          text() const;
    static std::optional<memory_refusal> parse(const std::string & text);
};

error out_of_memory(const memory_refusal & refusal);

std::optional<memory_refusal> refusal_of(const llama_memory_i * memory);

} // namespace kvfold
