#include "engine/quantize.h"

#include "process/error.h"
#include "process/json_text.h"
#include "process/kvfold_log.h"
#include "engine/model_check.h"

#include "llama.h"

#include <algorithm>
#include <filesystem>
#include <optional>

namespace kvfold {

namespace fs = std::filesystem;

// "Q4_K - Medium" is asked for as "q4_k_m", "all F32" as "f32".
static std::string short_name(llama_ftype type) {
    std::string name = llama_ftype_name(type);
    if (name == "all F32") {
        return "f32";
    }
    const size_t dash = name.find(" - ");
    if (dash != std::string::npos) {
        const char size = name[dash + 3];
        name.erase(dash);
        if (size == 'S' || size == 'M' || size == 'L') {
            name += std::string("_") + size;
        }
    }
    std::replace(name.begin(), name.end(), ' ', '_');
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return (char) tolower(c); });
    return name;
}

static llama_ftype find_type(const std::string & wanted) {
    std::string                known;
    std::optional<llama_ftype> medium; // "q2_k" is "Q2_K - Medium", as there is no other
    for (int i = 0; i < LLAMA_FTYPE_GUESSED && i < 256; i++) {
        const std::string name = short_name((llama_ftype) i);
        if (name.find("unknown") != std::string::npos) {
            continue;
        }
        if (name == wanted) {
            return (llama_ftype) i;
        }
        if (name == wanted + "_m") {
            medium = (llama_ftype) i;
        }
        known += (known.empty() ? "" : ", ") + name;
    }
    if (medium) {
        return *medium;
    }
    throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "unknown type \"" + wanted + "\", known are " + known).about_option("type");
}

static llama_model_quantize_params read_options(const std::string & text) {
    const json object = parse_object(text, "the options");
    llama_model_quantize_params params = llama_model_quantize_default_params();
    bool                        typed  = false;
    for (const auto & [name, value] : object.items()) {
        if (name == "type" && value.is_string()) {
            params.ftype = find_type(value.get<std::string>());
            typed        = true;
        } else if (name == "threads" && value.is_number_integer()) {
            params.nthread = value.get<int>();
        } else if (name == "allow_requantize" && value.is_boolean()) {
            params.allow_requantize = value.get<bool>();
        } else if (name == "type" || name == "threads" || name == "allow_requantize") {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"" + name + "\" cannot be " + value.dump_safe()).about_option(name);
        } else {
            throw error(KVFOLD_ERROR_UNKNOWN_OPTION, "unknown option \"" + name + "\"").about_option(name);
        }
    }
    if (!typed) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"type\" is required").about_option("type");
    }
    return params;
}

void quantize(const std::string & path_in, const std::string & path_out, const std::string & options) {
    const llama_model_quantize_params params = read_options(options);
    check_model(path_in);

    std::error_code code;
    if (fs::equivalent(fs::u8path(path_in), fs::u8path(path_out), code)) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "input and output are the same file").about_path(path_out);
    }
    // written beside its place and moved there when it is complete
    const std::string partial = path_out + ".partial";
    const error_lines errors;
    uint32_t          result = 1;
    std::string       cause;
    try {
        const abort_guard guard;
        result = llama_model_quantize(path_in.c_str(), partial.c_str(), &params);
        cause  = errors.cause("llama.cpp could not quantise it");
    } catch (const std::exception & e) {
        cause = e.what();
    }
    if (result == 0) {
        fs::rename(fs::u8path(partial), fs::u8path(path_out), code);
        if (!code) {
            return;
        }
        cause = "cannot write '" + path_out + "': " + code.message();
    }
    fs::remove(fs::u8path(partial), code);
    throw error(KVFOLD_ERROR_UNSUPPORTED, "'" + path_in + "': " + cause).about_path(path_in);
}

} // namespace kvfold
