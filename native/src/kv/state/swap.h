// Sequences that gave their cells up, in files of a folder that the user names: keys and values come back as they were, and nothing
// is computed again. Such a file has no name, so that it goes with the process, however that ends.
#pragma once

#include "llama.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

namespace kvfold {

// What the disk says.
struct swap_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class swapped_sequence {
public:
    uint64_t bytes() const { return n_bytes; }

    // Between two decodes, into a sequence without cells. False, and it still has none, if there is no room for it; throws swap_error.
    bool read(llama_context * context, llama_seq_id seq_id) const;

private:
    friend class swap_folder;

    std::unique_ptr<FILE, int (*)(FILE *)> file{ nullptr, fclose };
    uint64_t                               n_bytes = 0;
};

class swap_folder {
public:
    // Throws KVFOLD_ERROR_INVALID_ARGUMENT if no file can be made there. An empty path is no folder.
    explicit swap_folder(std::string path);

    // Whether the sequence can go and come back with all that belongs to it, now.
    bool takes(llama_context * context, llama_seq_id seq_id) const;

    // A copy of what it has, piece by piece. Throws swap_error, after which the folder takes no more.
    swapped_sequence write(llama_context * context, llama_seq_id seq_id);

private:
    std::string path;
};

} // namespace kvfold
