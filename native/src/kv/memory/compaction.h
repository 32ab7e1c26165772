// Cells that lie alone on pages are moved onto others that stay, so that memory follows what is held, whoever has gone.
#pragma once

#include <cstdint>

struct llama_memory_i;

namespace kvfold {

// Between two batches. Where sequences share the cells of a pool and more pages are filled in part than there are sequences, each
// of which may have one that it goes on filling, and more than a sixteenth of all pages is free, the cells of the emptiest go into
// the fullest of them; if memory is wanted, any cells that leave a page to others, or all to the front. A cell keeps its position and
// its sequences. Nothing is moved where tokens are evicted, where rows of a cell are those of several tokens, and while keys wait to be
// shifted. Looks when cells have become fewer, or if memory is `wanted`. Whether anything was moved; if memory is wanted, whether some
// has been given back.
bool compact(llama_memory_i * memory, bool wanted = false);

// For who asks for memory until it is there, in vain perhaps: what is tried in between takes some for a few layers, which compaction
// gives back and the next try takes again.
class tries_of_compaction {
public:
    bool helps(llama_memory_i * memory); // leaves less in use than ever

private:
    uint64_t least = UINT64_MAX;
};

} // namespace kvfold
