// Looks at a GGUF file before llama.cpp does, so that a broken file is an error and not an abort.
#pragma once

#include "hooks/kv-plan.h"

#include "llama.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kvfold {

// What has to be known of a model before it is loaded.
struct model_facts {
    std::string architecture;
    std::vector<std::string> files; // several for a split model
    std::vector<uint64_t>    sizes; // of the files, in bytes
    std::vector<std::string> chat_templates;
    uint64_t    bytes          = 0; // tensor data, all files of a split model
    uint64_t    context_length = 0; // trained with; 0 = not stated
    std::optional<uint64_t> pooling_type; // enum llama_pooling_type, where the file says it
    uint64_t    layers         = 0;
    uint64_t    embedding      = 0;
    uint64_t    heads          = 0; // of the layer with most
    uint64_t    activations    = 0; // elements that one token has at once while a layer is computed, at most
    bool        has_window     = false; // layers that see a window only, by the architecture
    bool        is_encoder     = false; // without a KV cache, and nothing but vectors comes out
    uint64_t    vocabulary     = 0; // rows of the token embedding; 0 = not here
    // Elements of one token's K row and V row per layer; 0 where the model has no plain KV cache.
    std::vector<uint64_t> k_elements;
    std::vector<uint64_t> v_elements;
    uint64_t key_length   = 0; // elements of a head's key and value; 0 = not stated
    uint64_t value_length = 0;
    kvfold_plan           kv_plan; // from the metadata
};

// What `overrides` ("override-kv") say of context_length and pooling_type takes the place of what the file says. Throws
// KVFOLD_ERROR_MODEL_NOT_FOUND, KVFOLD_ERROR_MODEL_INVALID or KVFOLD_ERROR_PLAN_INVALID.
model_facts check_model(const std::string & path, const std::vector<llama_model_kv_override> & overrides = {});

// Throws KVFOLD_ERROR_MODEL_INVALID if a file has become shorter. To touch what a mapped file has lost would end the process.
void check_unchanged(const model_facts & facts);

// As check_model() for a file that goes with a model: a projector, a draft model, an adapter. An empty path is none.
void check_companion(const std::string & path);

// As check_companion() for a draft model, which loses no tokens of its drafts: some of them are not accepted.
void check_draft_model(const std::string & path);

} // namespace kvfold
