// The plan that a model file carries in its metadata.

#include "kv/plan/eviction.h"
#include "kv/plan/fail.h"
#include "kv/plan/model_plan.h"

#include "gguf.h"

using kvfold::plans::fail;

namespace {

struct metadata {
    const gguf_context * file;
    std::string          arch;

    std::string key(const char * pattern) const {
        std::string name = pattern;
        return name.replace(name.find("%s"), 2, arch);
    }
};

// id of the key, or -1; throws if it holds another type
int64_t find_key(const metadata & meta, const char * key, gguf_type type, gguf_type array_type = GGUF_TYPE_COUNT) {
    const std::string name = meta.key(key);
    const int64_t id = gguf_find_key(meta.file, name.c_str());
    if (id < 0) {
        return id;
    }
    const gguf_type found = gguf_get_kv_type(meta.file, id);
    if (found != type) {
        fail(name + " has type " + gguf_type_name(found) + ", expected is " + gguf_type_name(type));
    }
    if (type == GGUF_TYPE_ARRAY && gguf_get_arr_type(meta.file, id) != array_type) {
        fail(name + " is an array of " + gguf_type_name(gguf_get_arr_type(meta.file, id)) + ", expected is " + gguf_type_name(array_type));
    }
    return id;
}

template <typename T>
const T * array_data(const metadata & meta, int64_t id, uint32_t n_layer) {
    const size_t n = gguf_get_arr_n(meta.file, id);
    if (n != n_layer) {
        fail(std::string(gguf_get_key(meta.file, id)) + " has " + std::to_string(n) + " elements, the model has " +
             std::to_string(n_layer) + " layers");
    }
    return (const T *) gguf_get_arr_data(meta.file, id);
}

} // namespace

kvfold_plan kvfold_plan_from_metadata(const gguf_context * file, const std::string & arch, uint32_t n_layer) {
    const metadata meta { file, arch };
    kvfold_plan plan;

    const int64_t id_map    = find_key(meta, KVFOLD_KEY_LAYER_MAP,       GGUF_TYPE_ARRAY, GGUF_TYPE_INT32);
    const int64_t id_strict = find_key(meta, KVFOLD_KEY_STRICT_DIAGONAL, GGUF_TYPE_BOOL);
    const int64_t id_passes = find_key(meta, KVFOLD_KEY_PREFILL_PASSES,  GGUF_TYPE_UINT32);
    const int64_t id_layers = find_key(meta, KVFOLD_KEY_WINDOW_LAYERS,   GGUF_TYPE_ARRAY, GGUF_TYPE_BOOL);
    const int64_t id_sinks  = find_key(meta, KVFOLD_KEY_WINDOW_SINKS,    GGUF_TYPE_UINT32);
    const int64_t id_evict  = find_key(meta, KVFOLD_KEY_EVICTION,        GGUF_TYPE_STRING);

    if (id_map < 0) {
        for (const int64_t id : { id_strict, id_passes, id_layers, id_sinks, id_evict }) {
            if (id >= 0) {
                fail(std::string(gguf_get_key(file, id)) + " is there, but " + meta.key(KVFOLD_KEY_LAYER_MAP) + " is missing");
            }
        }
        return plan;
    }

    if (n_layer > KVFOLD_MAX_LAYERS) {
        fail("the model has " + std::to_string(n_layer) + " layers, a plan can have " + std::to_string(KVFOLD_MAX_LAYERS));
    }
    const int32_t * map = array_data<int32_t>(meta, id_map, n_layer);
    plan.n_layer = n_layer;
    for (uint32_t il = 0; il < n_layer; ++il) {
        if (map[il] < 0 || map[il] >= (int32_t) n_layer) {
            fail("layer " + std::to_string(il) + " reads layer " + std::to_string(map[il]) +
                 ", but the layers are 0 to " + std::to_string(n_layer - 1));
        }
        plan.kv[il] = (int16_t) map[il];
    }
    if (id_strict >= 0) {
        plan.strict = gguf_get_val_bool(file, id_strict);
    }
    if (id_passes >= 0) {
        plan.n_passes = gguf_get_val_u32(file, id_passes);
        plan.passes_given = true;
    }
    if (id_layers >= 0) {
        const int8_t * window = array_data<int8_t>(meta, id_layers, n_layer);
        bool any = false;
        for (uint32_t il = 0; il < n_layer; ++il) {
            plan.window[il] = window[il] != 0;
            any |= window[il] != 0;
        }
        const int64_t id_window = find_key(meta, KVFOLD_KEY_WINDOW, GGUF_TYPE_UINT32);
        if (any && id_window < 0) {
            fail(meta.key(KVFOLD_KEY_WINDOW_LAYERS) + " names layers, but " + meta.key(KVFOLD_KEY_WINDOW) + " is missing");
        }
        if (any) {
            plan.n_swa = gguf_get_val_u32(file, id_window);
        }
    }
    if (id_sinks >= 0) {
        plan.n_sinks = gguf_get_val_u32(file, id_sinks);
        if (plan.n_sinks > (uint32_t) INT32_MAX) {
            fail(std::string(gguf_get_key(file, id_sinks)) + " is " + std::to_string(plan.n_sinks) + ", at most " +
                 std::to_string(INT32_MAX) + " are allowed");
        }
    }
    if (id_evict >= 0) {
        kvfold::plans::parse_eviction(plan, std::string(gguf_get_val_str(file, id_evict)));
    }
    kvfold_plan_derive(plan);
    return plan;
}
