// What a model computes inside: hidden states, keys and values, how much attention falls on what a lazy layer retains, and which tokens
// stay where some are evicted. Searches for KV plans are made of these (KVSharer, arXiv 2410.18517; SimLayerKV, arXiv 2410.13846).

#include "engine/observe.h"

#include "engine/engine.h"

#include "process/at_exit.h"
#include "engine/evaluation.h"
#include "process/json_text.h"
#include "kv/eviction/evictor.h"
#include "kv/eviction/kept_tokens.h"
#include "kv/memory/caches.h"
#include "kv/memory/folded_memory.h"
#include "kv/retention/cuts.h"

#include "ggml-backend.h"
#include "llama-kv-cache.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <cstring>
#include <map>

namespace kvfold {

static int32_t read_count(const std::string & name, const json & value, int32_t min) {
    if (!value.is_number_integer() || value.get<int64_t>() < min || value.get<int64_t>() > INT32_MAX) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"" + name + "\" is " + value.dump_safe() + ", possible are " + std::to_string(min) +
                                                       " to " + std::to_string(INT32_MAX)).about_option(name);
    }
    return value.get<int32_t>();
}

observation parse_observation(const std::string & text) {
    static const std::map<std::string, observation::kind> kinds = {
        { "hidden_states",  observation::HIDDEN_STATES  },
        { "keys_values",    observation::KEYS_VALUES    },
        { "attention_mass", observation::ATTENTION_MASS },
        { "kept_tokens",    observation::KEPT_TOKENS    },
    };
    const json  object = parse_object(text, "what to observe");
    observation wanted;
    bool        named = false;
    for (const auto & [name, value] : object.items()) {
        if (name == "what" && value.is_string() && kinds.count(value.get<std::string>())) {
            wanted.what = kinds.at(value.get<std::string>());
            named       = true;
        } else if (name == "what") {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"what\" is " + value.dump_safe() +
                                                           ", known are hidden_states, keys_values, attention_mass and kept_tokens").about_option(name);
        } else if (name == "queries") {
            wanted.queries = read_count(name, value, 1);
        } else if (name == "sinks") {
            wanted.sinks = read_count(name, value, 0);
        } else if (name == "recent") {
            wanted.recent = read_count(name, value, 1);
        } else {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "unknown key \"" + name + "\", known are what, queries, sinks and recent").about_option(name);
        }
    }
    if (!named) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"what\" is missing").about_option("what");
    }
    return wanted;
}

namespace {

// The row width of keys and values if it is the same in every layer and each layer stores its own.
int64_t uniform_row(const llama_model * model) {
    const auto &  hparams = model->hparams;
    const int64_t width   = hparams.n_embd_k_gqa(0);
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (!hparams.has_kv(il) || hparams.is_mla() || hparams.n_embd_k_gqa(il) != width || hparams.n_embd_v_gqa(il) != width) {
            throw error(KVFOLD_ERROR_UNSUPPORTED, "layer " + std::to_string(il) + " does not store keys and values of " +
                                                      std::to_string(width) + " elements each, as layer 0 does");
        }
    }
    return width;
}

uint32_t most_heads(const llama_hparams & hparams) {
    uint32_t n = 0;
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        n = std::max(n, hparams.n_head_kv(il));
    }
    return n;
}

std::vector<int64_t> shape_of(const observation & wanted, const llama_model * model, int32_t n_tokens) {
    const int64_t n_layer = model->hparams.n_layer();
    switch (wanted.what) {
        case observation::HIDDEN_STATES:  return { n_tokens, llama_model_n_embd_out(model) };
        case observation::KEYS_VALUES:    return { 2, n_layer, n_tokens, uniform_row(model) };
        case observation::ATTENTION_MASS: return { n_layer };
        case observation::KEPT_TOKENS:    return { n_layer, most_heads(model->hparams), n_tokens };
    }
    return {};
}

// One row of a cache's tensor that is stored in f32: of cell `cell`, [row].
void read_row(const ggml_tensor * tensor, bool transposed, uint32_t cell, float * row) {
    if (!transposed) {
        ggml_backend_tensor_get(tensor, row, cell*tensor->nb[1], tensor->ne[0]*sizeof(float));
        return;
    }
    for (int64_t i = 0; i < tensor->ne[0]; ++i) {
        ggml_backend_tensor_get(tensor, row + i, ((size_t) i*tensor->ne[1] + cell)*sizeof(float), sizeof(float));
    }
}

void read_keys_values(const llama_context * context, int32_t n_tokens, int64_t n_layer, int64_t width, float * values) {
    for (const llama_kv_cache * cache : kv_caches_of(llama_get_memory(context))) {
        const llama_kv_cells & cells = cache->get_cells(0);
        const auto             layers = kv_tensors_of(*cache);
        int32_t                found  = 0;
        for (uint32_t cell = 0; cell < cells.size(); ++cell) {
            if (cells.is_empty(cell)) {
                continue;
            }
            found++;
            const size_t pos = cells.pos_get(cell);
            for (const kv_tensors & layer : layers) {
                float * keys = values + (layer.il*n_tokens + pos)*width;
                read_row(layer.k, false, cell, keys);
                read_row(layer.v, layer.v_transposed, cell, keys + n_layer*n_tokens*width);
            }
        }
        if (found < n_tokens && !layers.empty()) {
            throw error(KVFOLD_ERROR_UNSUPPORTED, "layer " + std::to_string(layers[0].il) + " keeps " + std::to_string(found) + " of " +
                                                      std::to_string(n_tokens) + " tokens").compares(found, n_tokens);
        }
    }
}

// Takes the attention probabilities of the last queries from the graph, layer by layer.
struct mass_reader {
    const observation & wanted;
    const llama_model * model;
    const int32_t       n_tokens;
    llama_context *     context = nullptr;
    bool                active  = false;
    std::vector<double> mass; // by layer; negative: not seen
    std::vector<float>  probabilities;

    mass_reader(const observation & wanted, const llama_model * model, int32_t n_tokens) :
        wanted(wanted), model(model), n_tokens(n_tokens), mass(model->hparams.n_layer(), -1.0) {}

    static int layer_of(const ggml_tensor * tensor) {
        static const char prefix[] = "kq_soft_max-";
        return strncmp(tensor->name, prefix, sizeof(prefix) - 1) == 0 ? atoi(tensor->name + sizeof(prefix) - 1) : -1;
    }

    static bool on_node(ggml_tensor * tensor, bool ask, void * self) {
        auto &    reader = *static_cast<mass_reader *>(self);
        const int il     = reader.active ? layer_of(tensor) : -1;
        if (!ask && il >= 0 && il < (int) reader.mass.size()) {
            reader.read(tensor, il);
        }
        return ask ? il >= 0 : true;
    }

    const llama_kv_cells * cells_of(int il) const {
        const kvfold_plan & plan  = model->hparams.kv_plan;
        const uint32_t      il_kv = plan.active() ? (uint32_t) plan.kv[il] : (uint32_t) il;
        for (const llama_kv_cache * cache : kv_caches_of(llama_get_memory(context))) {
            const auto ids = cache->get_layer_ids();
            if (std::find(ids.begin(), ids.end(), il_kv) != ids.end()) {
                return &cache->get_cells(0);
            }
        }
        return nullptr;
    }

    // tensor: [cells, queries, heads], f32
    void read(const ggml_tensor * tensor, int il) {
        const llama_kv_cells * cells = cells_of(il);
        if (!cells || tensor->type != GGML_TYPE_F32 || tensor->ne[1] != wanted.queries || !ggml_is_contiguous(tensor)) {
            return;
        }
        probabilities.resize(ggml_nelements(tensor));
        ggml_backend_tensor_get(tensor, probabilities.data(), 0, ggml_nbytes(tensor));

        double        sum  = 0.0;
        const float * row  = probabilities.data();
        for (int64_t head = 0; head < tensor->ne[2]; ++head) {
            for (int32_t q = 0; q < wanted.queries; ++q, row += tensor->ne[0]) {
                const int32_t pos = n_tokens - wanted.queries + q;
                for (int64_t j = 0; j < tensor->ne[0]; ++j) {
                    if (!cells->is_empty(j) && (cells->pos_get(j) < wanted.sinks || pos - cells->pos_get(j) < wanted.recent)) {
                        sum += row[j];
                    }
                }
            }
        }
        mass[il] = sum/((double) tensor->ne[2]*wanted.queries);
    }
};

// Which tokens stay when the prompt has ended: as the engine computes one, up to the logits of its last token.
void read_kept_tokens(evaluation & run, const llama_hparams & hparams, const int32_t * tokens, int32_t n_tokens, int32_t n_ubatch, int64_t n_heads,
                      float * values) {
    const kvfold_plan &      plan   = hparams.kv_plan;
    llama_memory_i * const   memory = llama_get_memory(run.get());
    std::vector<kept_tokens> layers;
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        layers.emplace_back(hparams.n_head_kv(il));
    }
    evictor_of(memory)->on_choice([&](llama_seq_id, uint32_t il, const std::vector<std::vector<uint32_t>> & rows, uint32_t n) {
        layers[il].choose(rows, n);
    });
    for (int32_t start = 0, end; start < n_tokens; start = end) {
        const int32_t more = std::min(n_ubatch, n_tokens - start);
        end = start + (int32_t) std::min<int64_t>(more, tokens_to_cut(run.get(), (uint32_t) start));
        run.decode(tokens, start, end, n_tokens - 1);
    }
    settle_memory(memory);

    const auto sees = [&](uint32_t il, int32_t token) {
        return !plan.in_swa[il] || plan.is_sink(token) || n_tokens - token <= (int32_t) plan.n_swa;
    };
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        const auto il_kv = (uint32_t) plan.kv[il];
        const auto kept  = layers[il_kv].at((uint32_t) n_tokens);
        float *    row   = values + il*n_heads*n_tokens;
        std::fill(row, row + n_heads*n_tokens, -1.0f);
        for (const auto & of_head : kept) {
            std::fill(row, row + n_tokens, 0.0f);
            for (const uint32_t token : of_head) {
                row[token] = sees(il_kv, (int32_t) token) ? 1.0f : 0.0f;
            }
            row += n_tokens;
        }
    }
}

} // namespace

json engine::observe(const std::string & what, const int32_t * tokens, int32_t n_tokens, float * values, size_t n_values) {
    use                 inside(*this);
    const busy_scope    busy([] {}); // the abort callback looks at process_is_exiting()
    const llama_model * model  = llama_get_model(server->get_llama_context());
    const observation   wanted = parse_observation(what);
    check_sequence(model, tokens, n_tokens);
    const kvfold_plan & plan = model->hparams.kv_plan;
    if (wanted.what == observation::KEPT_TOKENS && !plan.evicts()) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "the KV plan " + (plan.active() ? plan.str() : "standard") + " evicts no tokens; evict=METHOD:BUDGET does");
    }

    const auto shape  = shape_of(wanted, model, n_tokens);
    size_t     needed = 1;
    for (const int64_t n : shape) {
        needed *= (size_t) n;
    }
    const json answer({ { "shape", shape } });
    if (!values) {
        return answer;
    }
    if (n_values < needed) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the values need " + std::to_string(needed) + " floats but there is room for " +
                                                       std::to_string(n_values)).compares((int64_t) n_values, (int64_t) needed);
    }

    const int32_t n_ubatch = options.params.n_ubatch;
    if (wanted.what == observation::KEPT_TOKENS) {
        evaluation run(*this, model, options.params, n_tokens, [](llama_context_params & params) {
            params.n_outputs_max         = 1;
            params.n_outputs_max_per_seq = 1;
        });
        read_kept_tokens(run, model->hparams, tokens, n_tokens, n_ubatch, shape[1], values);
        return answer;
    }

    // the scored queries have a ubatch of their own
    const int32_t n_last   = wanted.what == observation::ATTENTION_MASS ? wanted.queries : 0;
    if (n_last > std::min(n_ubatch, n_tokens)) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"queries\" is " + std::to_string(n_last) + " but the sequence has " +
                                                       std::to_string(n_tokens) + " tokens and a ubatch " + std::to_string(n_ubatch))
            .compares(n_last, std::min(n_ubatch, n_tokens)).about_option("queries");
    }

    mass_reader reader(wanted, model, n_tokens);
    evaluation  run(*this, model, options.params, n_tokens, [&](llama_context_params & params) {
        params.type_k     = GGML_TYPE_F32;
        params.type_v     = GGML_TYPE_F32;
        params.embeddings = wanted.what == observation::HIDDEN_STATES;
        params.kv_prefill = KVFOLD_PREFILL_OBSERVATION;
        if (wanted.what == observation::ATTENTION_MASS) {
            params.flash_attn_type   = LLAMA_FLASH_ATTN_TYPE_DISABLED; // which never writes the probabilities down
            params.cb_eval           = mass_reader::on_node;
            params.cb_eval_user_data = &reader;
        }
    });
    reader.context = run.get();

    for (int32_t start = 0; start < n_tokens;) {
        const int32_t left = n_tokens - n_last - start; // before the scored queries
        const int32_t end  = left > 0 ? start + std::min(left, n_ubatch) : n_tokens;
        reader.active      = end == n_tokens && n_last > 0;
        run.decode(tokens, start, end);
        if (wanted.what == observation::HIDDEN_STATES) {
            const float * states = llama_get_embeddings(run.get());
            if (!states) {
                throw error(KVFOLD_ERROR_UNSUPPORTED, "this model gives no hidden states");
            }
            memcpy(values + start*shape[1], states, (size_t) (end - start)*shape[1]*sizeof(float));
        }
        start = end;
    }

    if (wanted.what == observation::KEYS_VALUES) {
        read_keys_values(run.get(), n_tokens, shape[1], shape[3], values);
    }
    if (wanted.what == observation::ATTENTION_MASS) {
        for (size_t il = 0; il < reader.mass.size(); ++il) {
            if (reader.mass[il] < 0.0) {
                throw error(KVFOLD_ERROR_UNSUPPORTED, "layer " + std::to_string(il) + " does not show its attention probabilities");
            }
            values[il] = (float) reader.mass[il];
        }
    }
    return answer;
}

} // namespace kvfold
