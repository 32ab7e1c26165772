// Context checkpoints: copies of what the windows of a slot hold, for prompts that depart from the cached one. Implemented in
// kv/state. Called on the worker thread, between two decodes.
#ifndef KVFOLD_KV_CHECKPOINTS_H
#define KVFOLD_KV_CHECKPOINTS_H

#include <array>
#include <cstdint>
#include <memory>

struct common_prompt_checkpoint;
struct llama_context;
struct server_prompt;

// How many tokens before the end of a prompt checkpoints are made: for another question about the same text, however long it was.
std::array<int32_t, 3> kvfold_checkpoint_offsets(int32_t n_ubatch);

// A checkpoint of the slot is about to be made and added to its prompt. What is returned stands for its bytes in the account
// of the engine and is to live as long as the copy; null if there is no room, and none is to be made.
//
// Checkpoints go first: when there is no memory for cells, those of all prompts are dropped.
std::shared_ptr<void> kvfold_charge_checkpoint(llama_context * ctx, llama_context * ctx_draft, int32_t seq_id, server_prompt & prompt);

// Puts back what a checkpoint of the prompt has, which stays until it is there, although this may take memory. False if memory
// is refused: then the prompt is to be computed from its beginning.
bool kvfold_restore_checkpoint(
        llama_context * ctx, llama_context * ctx_draft, int32_t seq_id, const server_prompt & prompt, const common_prompt_checkpoint & checkpoint);

#endif
