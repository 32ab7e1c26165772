// Checkpoints and copies of states in the account of an engine.
#pragma once

#include "kv/memory/page_ledger.h"

#include <cstdint>
#include <memory>
#include <optional>

struct server_prompt;

namespace kvfold {

// For a checkpoint of so many bytes that is added to the prompt; as kvfold_charge_checkpoint().
std::shared_ptr<void> charge_checkpoint(uint64_t bytes, server_prompt & prompt);

// For a copy of a state. Nothing if there is no memory for it, whatever can be dropped: the checkpoints of all prompts.
std::optional<ledger_charge> charge_state(uint64_t bytes);

} // namespace kvfold
