// Looks at a GGUF file before llama.cpp does, so that a broken file is an error and not an abort.
#pragma once

#include <cstdint>
#include <string>

namespace kvfold {

// What has to be known of a model before it is loaded.
struct model_facts {
    std::string architecture;
    uint64_t    bytes          = 0; // tensor data, all files of a split model
    uint64_t    context_length = 0; // trained with; 0 = not stated
    uint64_t    layers         = 0;
    uint64_t    embedding      = 0;
    uint64_t    heads          = 0;
    // Elements of one token's K row and V row, summed over the layers; 0 for a model without a plain KV cache.
    uint64_t    k_elements     = 0;
    uint64_t    v_elements     = 0;
};

// Throws KVFOLD_ERROR_MODEL_NOT_FOUND or KVFOLD_ERROR_MODEL_INVALID.
model_facts check_model(const std::string & path);

} // namespace kvfold
