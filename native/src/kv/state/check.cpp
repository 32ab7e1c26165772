// What llama.cpp would believe: numbers of cells, their positions, and that every length fits.

#include "kv/state/check.h"

#include "kv/eviction/evicted.h"
#include "kv/eviction/method.h"
#include "kv/state/fit.h"

#include "llama-context.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace kvfold {

// Walks what llama_kv_cache::state_write() wrote. Every number is bounded before it is used.
struct cells_walk {
    const uint8_t * at;
    const uint8_t * end;

    template <typename T> T number() {
        T value;
        skip(sizeof(T));
        std::memcpy(&value, at - sizeof(T), sizeof(T));
        return value;
    }

    void skip(uint64_t bytes) {
        if (bytes > (uint64_t) (end - at)) {
            throw std::runtime_error("its cells are cut off");
        }
        at += bytes;
    }

};

// What a walk has to find: llama.cpp compares the same, and ends the process over a checkpoint that does not fit.
struct cache_shape {
    struct rows {
        ggml_type type;
        uint64_t  bytes;    // of one token
        uint32_t  elements;
    };

    uint64_t          plan_hash = 0; // none
    uint32_t          n_stream  = 0;
    uint32_t          max_cells = 0;
    uint32_t          n_sinks   = 0;     // first positions that the window does not forget
    bool              windowed  = false;
    bool              values_transposed = false;
    std::vector<rows> keys, values;
};

static cache_shape::rows rows_of(const ggml_tensor * tensor) {
    return { tensor->type, ggml_row_size(tensor->type, tensor->ne[0]), (uint32_t) tensor->ne[0] };
}

static cache_shape shape_of(const llama_kv_cache & cache, const llama_context * context, bool windowed) {
    const llama_hparams & hparams = llama_get_model(context)->hparams;
    cache_shape           shape;
    shape.plan_hash         = hparams.kv_plan.active() ? hparams.kv_plan.hash() : 0;
    shape.n_stream          = cache.get_n_stream();
    shape.max_cells         = windowed ? std::min(cache.get_size(), hparams.n_swa + hparams.kv_plan.n_sinks) : cache.get_size();
    shape.n_sinks           = windowed ? hparams.kv_plan.n_sinks : 0;
    shape.windowed          = windowed;
    shape.values_transposed = cache.is_v_trans();
    for (const uint32_t il : cache.get_layer_ids()) {
        shape.keys.push_back(rows_of(cache.get_k_storage(il)));
        shape.values.push_back(rows_of(cache.get_v_storage(il)));
    }
    return shape;
}

static void expect(const char * what, uint64_t found, uint64_t expected) {
    if (found != expected) {
        throw std::runtime_error("it has " + std::to_string(found) + " " + what + ", not " + std::to_string(expected));
    }
}

// Each position once, up to the newest, with a gap only between sinks and window; or where tokens have gone, behind the first of
// the cells that are left of them.
static void check_positions(cells_walk & walk, uint32_t count, uint32_t n_tokens, uint32_t n_sinks, const evicted & gone) {
    std::vector<llama_pos> positions;
    for (uint32_t i = 0; i < count; i++) {
        positions.push_back(walk.number<llama_pos>());
        expect("sequences in a cell", walk.number<uint32_t>(), 1);
        walk.skip(sizeof(llama_seq_id));
    }
    std::sort(positions.begin(), positions.end());
    int64_t next = n_tokens; // from the newest down
    for (auto at = positions.rbegin(); at != positions.rend(); ++at) {
        const bool behind_gone = next == gone.n_compact() - 1 && *at == (int64_t) gone.n_cells - 2;
        const bool follows     = behind_gone || *at == next - 1 || (*at < next - 1 && *at >= 0 && *at < (int64_t) n_sinks && next < n_tokens);
        if (!follows) {
            throw std::runtime_error("a cell has position " + std::to_string(*at));
        }
        next = *at;
    }
}

static void check_rows(cells_walk & walk, const std::vector<cache_shape::rows> & layers, bool transposed, uint32_t count) {
    for (const auto & layer : layers) {
        expect("as type of a layer", walk.number<uint32_t>(), layer.type);
        if (transposed) {
            expect("bytes per element", walk.number<uint32_t>(), ggml_type_size(layer.type));
            expect("elements in a row", walk.number<uint32_t>(), layer.elements);
            walk.skip((uint64_t) ggml_type_size(layer.type) * layer.elements * count);
        } else {
            expect("bytes in a row", walk.number<uint64_t>(), layer.bytes);
            walk.skip(layer.bytes * count);
        }
    }
}

static void check_cache(cells_walk & walk, const cache_shape & shape, uint32_t n_tokens, const evicted & gone) {
    if (shape.plan_hash) {
        expect("as KV plan", walk.number<uint64_t>(), shape.plan_hash);
    }
    expect("streams", walk.number<uint32_t>(), shape.n_stream);
    bool found = false;
    for (uint32_t s = 0; s < shape.n_stream; s++) {
        const auto count = walk.number<uint32_t>();
        if (count == 0) {
            continue;
        }
        // the newest tokens, all of them unless a window forgets
        const uint32_t n_left = n_tokens - ((uint32_t) gone.n_compact() - gone.n_cells);
        if (found || count > std::min(n_tokens, shape.max_cells) || (!shape.windowed && count != n_left)) {
            throw std::runtime_error("it has " + std::to_string(count) + " cells for " + std::to_string(n_tokens) + " tokens");
        }
        found = true;
        check_positions(walk, count, n_tokens, shape.n_sinks, gone);
        const bool transposed = walk.number<uint32_t>() != 0;
        expect("layers", walk.number<uint32_t>(), shape.keys.size());
        if (!shape.keys.empty()) {
            expect("as order of its values", transposed, shape.values_transposed);
        }
        check_rows(walk, shape.keys, false, count);
        check_rows(walk, shape.values, transposed, count);
    }
    if (!found) {
        throw std::runtime_error("it has no cells");
    }
}

// What kvfold_retention::write() wrote of one sequence.
struct lazy_layers {
    llama_pos            n_decisive = 0;
    std::vector<uint8_t> lazy; // by layer; empty under a plan without automatic retention

    bool operator==(const lazy_layers & other) const { return n_decisive == other.n_decisive && lazy == other.lazy; }
};

static lazy_layers check_lazy_layers(cells_walk & walk, const kvfold_plan & plan, uint32_t n_tokens) {
    lazy_layers found;
    if (!plan.is_automatic()) {
        return found;
    }
    expect("as KV plan", walk.number<uint64_t>(), plan.hash());
    expect("sequences with lazy layers", walk.number<uint32_t>(), 1);
    const auto final = walk.number<uint32_t>();
    if (final > 1) {
        throw std::runtime_error("it says neither that its lazy layers are decided nor that they are not");
    }
    found.n_decisive = walk.number<llama_pos>();
    for (uint32_t il = 0; il < plan.n_layer; il++) {
        found.lazy.push_back(walk.number<uint8_t>());
        if (found.lazy.back() > plan.candidate[il]) {
            throw std::runtime_error("it says that layer " + std::to_string(il) + " is lazy");
        }
    }
    const bool any = std::any_of(found.lazy.begin(), found.lazy.end(), [](uint8_t lazy) { return lazy; });
    const bool none_may_be = final == 1 && plan.automatic == KVFOLD_BY_THRESHOLD;
    if (found.n_decisive < 0 || found.n_decisive > (llama_pos) n_tokens || (found.n_decisive > 0 ? !any && !none_may_be : any || final == 1)) {
        throw std::runtime_error("it says that " + std::to_string(found.n_decisive) + " tokens decided its lazy layers");
    }
    return found;
}

// Of each layer that loses tokens as many votes as its heads have rows: at most one for each token, or as many as are left.
static void check_votes(cells_walk & walk, const kvfold_plan & plan, uint32_t n_tokens, const std::vector<uint32_t> & n_rows) {
    const auto n_layers = walk.number<uint32_t>();
    if (n_layers > 0) {
        expect("layers with votes", n_layers, plan.n_layer);
    }
    for (uint32_t il = 0; il < n_layers; ++il) {
        for (uint32_t n_heads = walk.number<uint32_t>(); n_heads > 0; --n_heads) {
            const auto n = walk.number<uint32_t>();
            if (n > n_tokens || (!n_rows.empty() && n != n_rows[il])) {
                throw std::runtime_error("it has votes for " + std::to_string(n) + " rows of layer " + std::to_string(il));
            }
            walk.skip((uint64_t) n*sizeof(float));
        }
    }
}

// What evictor::write() wrote of one sequence.
static evicted check_evicted(cells_walk & walk, const kvfold_plan & plan, uint32_t n_tokens) {
    if (!plan.evicts()) {
        return {};
    }
    expect("as KV plan", walk.number<uint64_t>(), plan.hash());
    const evicted gone = evicted::read(plan, [&] { return walk.number<uint32_t>(); });
    if (evict_keeps_votes(plan)) {
        check_votes(walk, plan, n_tokens, {});
        check_votes(walk, plan, (uint32_t) gone.n_compact(), gone.n_rows);
    }
    if ((uint32_t) gone.n_compact() > n_tokens) {
        throw std::runtime_error("it says that tokens were evicted at " + std::to_string(gone.n_compact()) + " of " + std::to_string(n_tokens));
    }
    return gone;
}

static lazy_layers check_cells(
        const std::vector<uint8_t> & cells, const kvfold_plan & plan, const std::vector<cache_shape> & shapes, uint32_t n_tokens) {
    cells_walk walk{ cells.data(), cells.data() + cells.size() };
    walk.skip(sizeof(uint32_t) + sizeof(llama_seq_id)); // a magic number, which llama.cpp compares, and the slot it was in
    const lazy_layers lazy = check_lazy_layers(walk, plan, n_tokens);
    const evicted     gone = shapes.front().windowed ? evicted() : check_evicted(walk, plan, n_tokens);
    for (const auto & shape : shapes) {
        check_cache(walk, shape, n_tokens, shape.windowed ? evicted() : gone);
    }
    if (walk.at != walk.end) {
        throw std::runtime_error("it goes on after its cells");
    }
    return lazy;
}

static uint32_t magic_of(const std::vector<uint8_t> & cells) {
    uint32_t magic = 0;
    std::memcpy(&magic, cells.data(), std::min(cells.size(), sizeof(magic)));
    return magic;
}

void check_state(const kv_state & state, const llama_context * context) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
    for (const llama_token token : state.tokens) {
        if (token < 0 || token >= n_vocab) { // also what stands for a piece of an image
            throw std::runtime_error("it has token " + std::to_string(token) + " of " + std::to_string(n_vocab));
        }
    }
    if (state.tokens.empty()) {
        throw std::runtime_error("it has no tokens");
    }
    std::vector<cache_shape> shapes;
    for (const llama_kv_cache * cache : caches_of(context)) {
        shapes.push_back(shape_of(*cache, context, !shapes.empty()));
    }
    const kvfold_plan & plan = llama_get_model(context)->hparams.kv_plan;
    const lazy_layers   lazy = check_cells(state.cells, plan, shapes, (uint32_t) state.tokens.size());
    if (shapes.size() == 1 && !state.checkpoints.empty()) {
        throw std::runtime_error("it has checkpoints, but no window that forgets");
    }
    for (const auto & each : state.checkpoints) {
        if (each.n_tokens <= 0 || (size_t) each.n_tokens > state.tokens.size() || each.pos_min < 0 || each.pos_min >= each.n_tokens) {
            throw std::runtime_error("it has a checkpoint at token " + std::to_string(each.n_tokens));
        }
        expect("as mark of a checkpoint", magic_of(each.cells), magic_of(state.cells));
        if (!(check_cells(each.cells, plan, { shapes.back() }, (uint32_t) each.n_tokens) == lazy)) {
            throw std::runtime_error("it has a checkpoint at token " + std::to_string(each.n_tokens) + " with other lazy layers");
        }
    }
}

} // namespace kvfold
