#include "engine/model_check.h"

#include "process/error.h"
#include "kv/plan/model_plan.h"
#include "process/kvfold_log.h"

#include "ggml-cpp.h"
#include "ggml.h"
#include "gguf.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

namespace kvfold {

namespace fs = std::filesystem;

static error invalid(const std::string & path, const std::string & why) {
    return error(KVFOLD_ERROR_MODEL_INVALID, "'" + path + "' is not a usable GGUF file: " + why).about_path(path);
}

static uint64_t check_readable(const std::string & path) {
    const fs::path  file = fs::u8path(path);
    std::error_code code;
    const auto      status = fs::status(file, code);
    if (!fs::exists(status)) {
        throw error(KVFOLD_ERROR_MODEL_NOT_FOUND, "no model file '" + path + "'").about_path(path);
    }
    if (!fs::is_regular_file(status)) {
        throw error(KVFOLD_ERROR_MODEL_NOT_FOUND, "'" + path + "' is not a file").about_path(path);
    }
    const uint64_t size = fs::file_size(file, code);
    std::ifstream  stream(file, std::ios::binary);
    if (code || !stream) {
        throw error(KVFOLD_ERROR_MODEL_NOT_FOUND, "cannot read '" + path + "': " + strerror(errno)).about_path(path);
    }
    char magic[4] = {};
    stream.read(magic, sizeof(magic));
    if (size == 0) {
        throw invalid(path, "it is empty");
    }
    if (!stream || memcmp(magic, "GGUF", sizeof(magic)) != 0) {
        throw invalid(path, "it does not start with the letters GGUF");
    }
    return size;
}

static std::optional<uint64_t> read_unsigned(const gguf_context * file, const std::string & key) {
    const int64_t id = gguf_find_key(file, key.c_str());
    if (id < 0) {
        return std::nullopt;
    }
    switch (gguf_get_kv_type(file, id)) {
        case GGUF_TYPE_UINT32: return gguf_get_val_u32(file, id);
        case GGUF_TYPE_UINT64: return gguf_get_val_u64(file, id);
        case GGUF_TYPE_UINT16: return gguf_get_val_u16(file, id);
        case GGUF_TYPE_INT32:  return gguf_get_val_i32(file, id) < 0 ? std::nullopt : std::optional<uint64_t>(gguf_get_val_i32(file, id));
        default:               return std::nullopt;
    }
}

// A value per layer: an array, or one number that holds for every layer.
static std::vector<uint64_t> read_per_layer(const gguf_context * file, const std::string & key, uint64_t n_layers, uint64_t otherwise) {
    const int64_t id = gguf_find_key(file, key.c_str());
    if (id >= 0 && gguf_get_kv_type(file, id) == GGUF_TYPE_ARRAY) {
        const auto type = gguf_get_arr_type(file, id);
        if ((type == GGUF_TYPE_UINT32 || type == GGUF_TYPE_INT32) && gguf_get_arr_n(file, id) >= n_layers) {
            const auto * values = (const uint32_t *) gguf_get_arr_data(file, id);
            return std::vector<uint64_t>(values, values + n_layers);
        }
    }
    return std::vector<uint64_t>(n_layers, read_unsigned(file, key).value_or(otherwise));
}

// llama.cpp divides by some of these numbers and sizes tables with others before it compares them with the tensors.
static void check_shape(const model_facts & facts, const gguf_context * file, const std::string & path) {
    static constexpr uint64_t max_layers = 100'000, max_size = 1u << 30;
    const std::string         prefix = facts.architecture + ".";
    if (facts.layers > max_layers) {
        throw invalid(path, prefix + "block_count is " + std::to_string(facts.layers)).compares(facts.layers, max_layers);
    }
    for (const char * name : { "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
                               "attention.key_length", "attention.value_length", "rope.dimension_count", "vocab_size" }) {
        const auto value = read_unsigned(file, prefix + name);
        if (value && *value > max_size) {
            throw invalid(path, prefix + name + " is " + std::to_string(*value)).compares(*value, max_size);
        }
    }
    const auto heads    = read_per_layer(file, prefix + "attention.head_count", facts.layers, 0);
    const auto heads_kv = read_per_layer(file, prefix + "attention.head_count_kv", facts.layers, 0);
    const auto all_kv = read_unsigned(file, prefix + "attention.head_count_kv"); // a number for all layers, not one each
    for (size_t i = 0; i < heads.size(); i++) {
        if (heads[i] != 0 && all_kv && *all_kv == 0) {
            throw invalid(path, prefix + "attention.head_count_kv is 0").compares(0, 1);
        }
        if (heads[i] != 0 && heads_kv[i] > heads[i]) {
            throw invalid(path, "layer " + std::to_string(i) + " has more KV heads than heads").compares(heads_kv[i], heads[i]);
        }
    }
    const auto rotated = read_unsigned(file, prefix + "rope.dimension_count");
    const auto length  = read_unsigned(file, prefix + "attention.key_length");
    if (rotated && (length || (!heads.empty() && heads[0] != 0))) {
        const uint64_t head = length ? *length : facts.embedding / heads[0];
        if (*rotated > head) {
            throw invalid(path, prefix + "rope.dimension_count is larger than a head").compares(*rotated, head);
        }
    }
}

// After count_kv_elements(). Queries and what attention makes of them, or both factors of a feed-forward network, beside the residual.
static void count_activations(model_facts & facts, const gguf_context * file) {
    const std::string prefix = facts.architecture + ".";
    const auto        heads  = read_per_layer(file, prefix + "attention.head_count", facts.layers, 0);
    const auto        inner  = read_per_layer(file, prefix + "feed_forward_length", facts.layers, 0);
    const uint64_t    used   = read_unsigned(file, prefix + "expert_used_count").value_or(0);
    const uint64_t    expert = read_unsigned(file, prefix + "expert_feed_forward_length").value_or(0);
    uint64_t          most   = used*(2*expert + facts.embedding);
    for (size_t il = 0; il < heads.size(); il++) {
        const uint64_t head = read_unsigned(file, prefix + "attention.key_length").value_or(heads[il] > 0 ? facts.embedding/heads[il] : 0);
        facts.heads = std::max(facts.heads, heads[il]);
        most        = std::max({ most, 2*inner[il], 2*heads[il]*head + facts.k_elements[il] + facts.v_elements[il] });
    }
    facts.activations = most + 3*facts.embedding;
}

// Whose graphs in llama.cpp have neither a cache nor logits.
static bool is_encoder(const std::string & architecture) {
    return architecture.find("bert") != std::string::npos || architecture == "gemma-embedding" || architecture == "llama-embed" ||
           architecture == "t5encoder";
}

static void count_kv_elements(model_facts & facts, const gguf_context * file) {
    const std::string prefix   = facts.architecture + ".";
    const auto        heads    = read_per_layer(file, prefix + "attention.head_count", facts.layers, 0);
    const auto        heads_kv = read_per_layer(file, prefix + "attention.head_count_kv", facts.layers, heads.empty() ? 0 : heads[0]);
    const uint64_t    head     = heads.empty() || heads[0] == 0 ? 0 : facts.embedding / heads[0];
    const uint64_t    k_length = read_unsigned(file, prefix + "attention.key_length").value_or(head);
    const uint64_t    v_length = read_unsigned(file, prefix + "attention.value_length").value_or(head);
    facts.key_length   = k_length;
    facts.value_length = v_length;
    for (uint64_t n : heads_kv) {
        facts.k_elements.push_back(n * k_length);
        facts.v_elements.push_back(n * v_length);
    }
}

static std::string read_string(const gguf_context * file, const char * key) {
    const int64_t id = gguf_find_key(file, key);
    return id >= 0 && gguf_get_kv_type(file, id) == GGUF_TYPE_STRING ? gguf_get_val_str(file, id) : "";
}

// llama.cpp calls itself once for each character of a token that a grammar looks at, and asserts that no token is there twice.
static void check_tokens(const gguf_context * file, const std::string & path) {
    static constexpr size_t max_length = 16 * 1024;
    const int64_t           id         = gguf_find_key(file, "tokenizer.ggml.tokens");
    if (id < 0 || gguf_get_kv_type(file, id) != GGUF_TYPE_ARRAY || gguf_get_arr_type(file, id) != GGUF_TYPE_STRING) {
        return;
    }
    std::unordered_map<std::string, size_t> seen;
    for (size_t i = 0; i < gguf_get_arr_n(file, id); i++) {
        std::string token = gguf_get_arr_str(file, id, i);
        if (token.size() > max_length) {
            throw invalid(path, "token " + std::to_string(i) + " has " + std::to_string(token.size()) + " bytes")
                .compares((int64_t) token.size(), (int64_t) max_length);
        }
        if (token.empty()) {
            token = "[EMPTY_" + std::to_string(i) + "]"; // as llama.cpp names it
        }
        const auto [first, added] = seen.emplace(std::move(token), i);
        if (!added) {
            throw invalid(path, "its tokens " + std::to_string(first->second) + " and " + std::to_string(i) + " are the same");
        }
    }
}

static std::vector<std::string> read_templates(const gguf_context * file) {
    std::vector<std::string> templates;
    for (const char * key : { "tokenizer.chat_template", "tokenizer.chat_template.tool_use" }) {
        const std::string text = read_string(file, key);
        if (!text.empty()) {
            templates.push_back(text);
        }
    }
    return templates;
}

struct opened_file {
    gguf_context_ptr header;
    ggml_context_ptr tensors;
    uint64_t         tensor_bytes = 0;
};

// Reads the header and compares what it promises with the size of the file.
static opened_file open_whole(const std::string & path) {
    const uint64_t   size = check_readable(path);
    error_lines      errors;
    abort_guard      guard;
    opened_file      opened;
    ggml_context *   tensors = nullptr;
    gguf_init_params params  = { /*.no_alloc =*/true, /*.ctx =*/&tensors };
    try {
        opened.header.reset(gguf_init_from_file(path.c_str(), params));
    } catch (const aborted & e) {
        throw invalid(path, e.message);
    }
    opened.tensors.reset(tensors);
    const gguf_context * header = opened.header.get();
    if (!header) {
        throw invalid(path, errors.cause("its header is damaged"));
    }
    uint64_t needed = gguf_get_data_offset(header);
    for (int64_t i = 0; i < gguf_get_n_tensors(header); i++) {
        const uint64_t bytes = gguf_get_tensor_size(header, i);
        opened.tensor_bytes += bytes;
        needed = std::max(needed, gguf_get_data_offset(header) + gguf_get_tensor_offset(header, i) + bytes);
    }
    if (needed > size) {
        throw invalid(path, "it is cut off, " + std::to_string(size) + " of at least " + std::to_string(needed) + " bytes are there")
            .compares((int64_t) size, (int64_t) needed);
    }
    return opened;
}

// The other files of a model that comes in several.
static uint64_t check_splits(const gguf_context * header, const std::string & path, model_facts & facts) {
    const uint64_t count  = read_unsigned(header, "split.count").value_or(0);
    const uint64_t number = read_unsigned(header, "split.no").value_or(0);
    char           prefix[4096];
    if (count < 2 || llama_split_prefix(prefix, sizeof(prefix), path.c_str(), (int32_t) number, (int32_t) count) <= 0) {
        return 0; // llama.cpp says what is wrong with the name
    }
    if (number > 0) {
        char first[4096];
        llama_split_path(first, sizeof(first), prefix, 0, (int32_t) count);
        throw invalid(path, "it is part " + std::to_string(number + 1) + " of " + std::to_string(count) + " of a model; open the first, '" +
                                first + "'");
    }
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < count; i++) {
        char other[4096];
        if (i != number && llama_split_path(other, sizeof(other), prefix, (int32_t) i, (int32_t) count) > 0) {
            bytes += open_whole(other).tensor_bytes;
            facts.files.push_back(other);
            facts.sizes.push_back(fs::file_size(fs::u8path(other)));
        }
    }
    return bytes;
}

void check_unchanged(const model_facts & facts) {
    for (size_t i = 0; i < facts.files.size(); i++) {
        std::error_code code;
        const uint64_t  size = fs::file_size(fs::u8path(facts.files[i]), code);
        if (!code && size < facts.sizes[i]) { // one that was deleted is still there for whoever has it open
            throw error(KVFOLD_ERROR_MODEL_INVALID, "'" + facts.files[i] + "' was cut from " + std::to_string(facts.sizes[i]) + " to " +
                                                        std::to_string(size) + " bytes since it was loaded; close the engine")
                .compares((int64_t) size, (int64_t) facts.sizes[i])
                .about_path(facts.files[i]);
        }
    }
}

void check_companion(const std::string & path) {
    if (!path.empty()) {
        open_whole(path);
    }
}

static kvfold_plan read_plan(const gguf_context * file, const std::string & architecture, uint64_t layers, const std::string & path) {
    try {
        return kvfold_plan_from_metadata(file, architecture, (uint32_t) layers);
    } catch (const std::invalid_argument & e) {
        throw error(KVFOLD_ERROR_PLAN_INVALID, "'" + path + "': " + e.what()).about_path(path);
    }
}

void check_draft_model(const std::string & path) {
    if (path.empty()) {
        return;
    }
    const opened_file opened       = open_whole(path);
    const std::string architecture = read_string(opened.header.get(), "general.architecture");
    const uint64_t    layers       = read_unsigned(opened.header.get(), architecture + ".block_count").value_or(0);
    const kvfold_plan plan         = read_plan(opened.header.get(), architecture, layers, path);
    if (plan.evict_answer > 0) {
        throw error(KVFOLD_ERROR_PLAN_INVALID, "'" + path + "' evicts tokens during its answer (answer=" + std::to_string(plan.evict_answer) +
                                                   "), which a draft model cannot, since some of its tokens are not accepted").about_path(path);
    }
}

// As llama.cpp's loader has it: of several the first, and only one of the right type.
static std::optional<uint64_t> overridden(const std::vector<llama_model_kv_override> & overrides, const std::string & key) {
    for (const auto & each : overrides) {
        if (key == each.key) {
            return each.tag == LLAMA_KV_OVERRIDE_TYPE_INT && each.val_i64 >= 0 ? std::optional<uint64_t>((uint32_t) each.val_i64) : std::nullopt;
        }
    }
    return std::nullopt;
}

model_facts check_model(const std::string & path, const std::vector<llama_model_kv_override> & overrides) {
    const opened_file        opened = open_whole(path);
    const gguf_context_ptr & file   = opened.header;

    model_facts facts;
    facts.architecture = read_string(file.get(), "general.architecture");
    if (facts.architecture.empty()) {
        throw invalid(path, "it does not name an architecture (general.architecture)");
    }
    facts.files = { path };
    facts.sizes = { fs::file_size(fs::u8path(path)) };
    facts.bytes = opened.tensor_bytes + check_splits(file.get(), path, facts);

    const std::string prefix = facts.architecture + ".";
    facts.layers             = read_unsigned(file.get(), prefix + "block_count").value_or(0);
    facts.embedding          = read_unsigned(file.get(), prefix + "embedding_length").value_or(0);
    const auto read          = [&](const std::string & name) {
        const auto given = overridden(overrides, prefix + name);
        return given ? given : read_unsigned(file.get(), prefix + name);
    };
    facts.context_length     = read("context_length").value_or(0);
    facts.pooling_type       = read("pooling_type");
    check_shape(facts, file.get(), path);
    if (const ggml_tensor * embedding = ggml_get_tensor(opened.tensors.get(), "token_embd.weight")) {
        facts.vocabulary = (uint64_t) embedding->ne[1];
    }
    check_tokens(file.get(), path);
    facts.chat_templates = read_templates(file.get());
    count_kv_elements(facts, file.get());
    count_activations(facts, file.get());
    facts.has_window = read_unsigned(file.get(), prefix + "attention.sliding_window").value_or(0) > 0;
    facts.is_encoder = is_encoder(facts.architecture);
    facts.kv_plan = read_plan(file.get(), facts.architecture, facts.layers, path);
    return facts;
}

} // namespace kvfold
