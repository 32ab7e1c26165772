// Attention under a KV plan: producers store keys and values, every layer reads those of the layer that the plan names.

#include "hooks/kv-lazy-layers.h"
#include "hooks/kv-plan-attention.h"
#include "kv/graph/prefill.h"
#include "kv/retention/retention.h"

#include "llama-cparams.h"
#include "llama-graph.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"

#include "ggml-backend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

// A query of the first position of a sequence sees no key when its own is masked; its attention is zero by definition
// (LCKV's dummy KV). Softmax over nothing is not: a sink far below every score takes the whole weight of an empty row
// and none of any other.
static constexpr float EMPTY_ROW_SINK = -1e30f;

namespace {

// Who reads what: by layer and sequence of the ubatch, and what is scored. Two ubatches with the same one have the same
// graph.
struct ubatch_reads {
    std::vector<std::vector<kv_read>> reads;  // [n_layer][n_seqs_unq]; [n_layer][1] under a plan without automatic retention
    std::vector<uint8_t>              stores; // [n_layer], STORES_*
    std::vector<uint8_t>              scores; // [n_layer]
    std::vector<uint8_t>              keeps;  // [n_layer], its queries for later scores
    size_t                            n_scored  = 0; // queries
    size_t                            n_carried = 0; // those of them that were kept from an earlier ubatch
    size_t                            n_kept    = 0; // rows whose queries are kept for a later one

    bool operator==(const ubatch_reads & other) const {
        return reads == other.reads && stores == other.stores && scores == other.scores && keeps == other.keeps &&
               n_scored == other.n_scored && n_carried == other.n_carried && n_kept == other.n_kept;
    }
};

constexpr uint8_t STORES_FULL   = 1;
constexpr uint8_t STORES_WINDOW = 2;

// Graph inputs of one of the (at most) two caches: the full one, and the window-sized one.
struct cache_inputs {
    const llama_kv_cache_context * mctx = nullptr; // null: this cache does not exist
    bool is_window = false;

    ggml_tensor * k_idxs = nullptr; // I64 [n_tokens]
    ggml_tensor * v_idxs = nullptr; // I64 [n_tokens] or [n_tokens*n_embd_v_gqa]
    ggml_tensor * k_rot  = nullptr;
    ggml_tensor * v_rot  = nullptr;

    struct mask {
        ggml_tensor * tensor; // F32/F16 [n_kv, n_tokens/n_stream, 1, n_stream]
        bool          hide_self;
        int           il;     // a layer that reads by it
    };

    std::vector<mask> masks; // made when first needed
};

bool in_use(const ggml_tensor * t) {
    return t && t->buffer;
}

// Adapts upstream's causal mask to what each row reads of this cache.
template <typename T>
void adapt_mask(
        const cache_inputs & cache,
        const cache_inputs::mask & mask,
        const llama_ubatch & ubatch,
        const kvfold_plan & plan,
        const std::vector<kv_read> & reads,
        T visible,
        T hidden) {
    const llama_kv_cache & kv = *cache.mctx->get_kv();

    const int64_t n_kv  = mask.tensor->ne[0];
    const int64_t n_tps = mask.tensor->ne[1]; // tokens per stream
    const int64_t size  = kv.get_size();

    const int64_t * idxs = (const int64_t *) cache.k_idxs->data;

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        T * row = (T *) mask.tensor->data + (i/n_tps)*n_kv*n_tps + (i%n_tps)*n_kv;

        const llama_seq_id     seq_id = ubatch.seq_id[i][0];
        const llama_kv_cells & cells  = kv.get_cells(seq_id);
        const kv_read          read   = reads.size() == 1 ? reads[0] : reads[ubatch.seq_idx[seq_id]];

        if ((read == kv_read::WINDOW) != cache.is_window) {
            std::fill(row, row + n_kv, hidden); // it reads the other cache
            continue;
        }
        for (int64_t j = 0; read != kv_read::ALL && j < n_kv; ++j) {
            if (cells.is_empty(j)) {
                continue;
            }
            const llama_pos pos = cells.pos_get(j);
            if (plan.is_sink(pos)) {
                // upstream's window mask hides the first positions once they lie behind the window
                if (cache.is_window && pos <= ubatch.pos[i] && cells.seq_has(j, seq_id)) {
                    row[j] = visible;
                }
            } else if (llama_hparams::is_masked_swa(plan.n_swa, LLAMA_SWA_TYPE_STANDARD, pos, ubatch.pos[i])) {
                row[j] = hidden;
            }
        }
        if (mask.hide_self) {
            row[idxs[i] % size] = hidden;
        }
    }
}

// Inputs of the scores: the queries, the keys that they see, and those that a lazy layer would retain. Probabilities are as
// long as the cache for each query and head, so they are computed for a few queries of each stream at once.
struct score_inputs {
    struct part {
        int64_t       first;    // of the queries of each stream
        int64_t       n;
        ggml_tensor * mask;     // F32 [n_kv, n, 1, n_stream]
        ggml_tensor * retained; // F32 [n_kv, 1, n, n_stream], 0 or 1
    };

    struct mass {
        int           il;
        int64_t       first;
        ggml_tensor * tensor; // F32 [1, n_head, n, n_stream]
    };

    ggml_tensor * rows     = nullptr; // I32 [n_scored - n_carried], of the ubatch
    ggml_tensor * order    = nullptr; // I32 [n_scored], in the carried queries and then those of the rows; null: none is carried
    ggml_tensor * mask     = nullptr; // F32 [n_kv, n_scored], part by part
    ggml_tensor * retained = nullptr; // as the mask
    std::vector<part> parts;

    std::vector<std::pair<int, ggml_tensor *>> carried; // by layer; F32 [n_embd_head*n_head, n_carried]
    std::vector<mass> masses;

    ggml_tensor * kept_rows = nullptr; // I32 [n_kept]
    std::vector<std::pair<int, ggml_tensor *>> kept; // by layer; F32 [n_embd_head*n_head, n_kept]
};

} // namespace

struct kvfold_attn_input : public llm_graph_input_attn_kv {
    kvfold_attn_input(const llm_graph_context & graph, const llama_kv_cache_context * full, const llama_kv_cache_context * window) :
        llm_graph_input_attn_kv(graph.hparams, graph.cparams, full),
        n_passes(kvfold_n_passes(graph.hparams.kv_plan, graph.cparams.kv_prefill, graph.ubatch.n_seq_tokens)),
        retention(full->get_kv()->retention.get()),
        who(reads_of(graph.ubatch)) {
        caches[0].mctx = full;
        caches[1].mctx = window;
        caches[1].is_window = true;
        for (cache_inputs & cache : caches) {
            if (cache.mctx) {
                cache.k_idxs = cache.mctx->build_input_k_idxs(graph.ctx0, graph.ubatch);
                cache.v_idxs = cache.mctx->build_input_v_idxs(graph.ctx0, graph.ubatch);
                cache.k_rot  = cache.mctx->build_input_k_rot(graph.ctx0);
                cache.v_rot  = cache.mctx->build_input_v_rot(graph.ctx0);
            }
        }
        writes.fill({});
    }

    void set_input(const llama_ubatch * ubatch) override {
        for (cache_inputs & cache : caches) {
            if (cache.mctx) {
                set_cache_input(cache, *ubatch);
            }
        }
        if (in_use(score.rows)) {
            set_score_input(*ubatch);
        }
        if (in_use(score.kept_rows)) {
            const auto rows = kept_rows(*ubatch);
            ggml_backend_tensor_set(score.kept_rows, rows.data(), 0, ggml_nbytes(score.kept_rows));
        }
        for (auto & [_, t] : sinks) {
            if (in_use(t)) {
                const std::vector<float> values(t->ne[0], EMPTY_ROW_SINK);
                ggml_backend_tensor_set(t, values.data(), 0, ggml_nbytes(t));
            }
        }
        for (auto & [_, t] : zeros) {
            if (in_use(t)) {
                ggml_backend_tensor_memset(t, 0, 0, ggml_nbytes(t));
            }
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        if (caches[1].mctx) {
            const auto * iswa = static_cast<const llama_kv_cache_iswa_context *>(params.mctx);
            caches[0].mctx = iswa->get_base();
            caches[1].mctx = iswa->get_swa();
        } else {
            caches[0].mctx = static_cast<const llama_kv_cache_context *>(params.mctx);
        }
        mctx = caches[0].mctx;

        bool res = n_passes == kvfold_n_passes(hparams.kv_plan, cparams.kv_prefill, params.ubatch.n_seq_tokens);
        for (const cache_inputs & cache : caches) {
            if (!cache.mctx) {
                continue;
            }
            res &= cache.k_idxs->ne[0] == params.ubatch.n_tokens;
            for (const cache_inputs::mask & mask : cache.masks) {
                res &= has_mask_shape(mask.tensor, cache, params.ubatch);
            }
        }
        res &= !score.rows || score.mask->ne[0] == caches[0].mctx->get_n_kv();
        return res && (!retention || who == reads_of(params.ubatch));
    }

    // The caches that some sequence of the ubatch keeps the rows of producer il in.
    std::vector<cache_inputs *> stored_in(int il) {
        std::vector<cache_inputs *> in;
        for (cache_inputs & cache : caches) {
            if (who.stores[il] & (cache.is_window ? STORES_WINDOW : STORES_FULL)) {
                in.push_back(&cache);
            }
        }
        return in;
    }

    // The caches that some sequence of the ubatch reads at layer il.
    std::vector<cache_inputs *> read_in(int il) {
        const auto & reads = who.reads[il];
        std::vector<cache_inputs *> in;
        for (cache_inputs & cache : caches) {
            if (std::any_of(reads.begin(), reads.end(), [&](kv_read read) { return (read == kv_read::WINDOW) == cache.is_window; })) {
                in.push_back(&cache);
            }
        }
        return in;
    }

    ggml_tensor * get_mask(const llm_graph_context & graph, cache_inputs & cache, bool hide_self, int il) {
        for (const cache_inputs::mask & mask : cache.masks) {
            if (mask.hide_self == hide_self && who.reads[mask.il] == who.reads[il]) {
                return mask.tensor;
            }
        }
        const int64_t n_stream = n_streams(graph.ubatch);
        // flash attention takes an f16 mask
        ggml_tensor * mask = ggml_new_tensor_4d(graph.ctx0, cparams.flash_attn ? GGML_TYPE_F16 : GGML_TYPE_F32,
                cache.mctx->get_n_kv(), graph.ubatch.n_tokens/n_stream, 1, n_stream);
        ggml_set_input(mask);
        ggml_set_name(mask, "attn_inp_kq_mask");
        cache.masks.push_back({ mask, hide_self, il });
        return mask;
    }

    score_inputs & get_score(const llm_graph_context & graph) {
        if (!score.rows) {
            const int64_t n_stream = n_streams(graph.ubatch);
            const int64_t n_scored = (int64_t) who.n_scored;
            const int64_t n_kv     = caches[0].mctx->get_n_kv();
            const int64_t n_each   = n_scored/n_stream;
            const int64_t at_once  = kvfold_scored_at_once(n_each);
            const auto    input    = [](ggml_tensor * t, const char * name) {
                ggml_set_input(t);
                ggml_set_name(t, name);
                return t;
            };
            score.rows = input(ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_I32, n_scored - (int64_t) who.n_carried), "kv_scored_rows");
            if (who.n_carried > 0) {
                score.order = input(ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_I32, n_scored), "kv_scored_order");
            }
            score.mask     = input(ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_F32, n_kv, n_scored), "kv_scored_mask");
            score.retained = input(ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_F32, n_kv, n_scored), "kv_scored_retained");
            for (int64_t first = 0; first < n_each; first += at_once) {
                const int64_t n   = std::min(at_once, n_each - first);
                const size_t  row = score.mask->nb[1], at = first*n_stream*row;
                score.parts.push_back({ first, n,
                        ggml_view_4d(graph.ctx0, score.mask,     n_kv, n, 1, n_stream, row, n*row, n*row, at),
                        ggml_view_4d(graph.ctx0, score.retained, n_kv, 1, n, n_stream, row, row,   n*row, at) });
            }
        }
        return score;
    }

    // The scored queries of layer il, given those of the whole ubatch: F32 [n_embd_head*n_head, n_scored].
    ggml_tensor * get_queries(const llm_graph_context & graph, ggml_tensor * all, int il) {
        score_inputs & in  = get_score(graph);
        ggml_tensor *  own = ggml_get_rows(graph.ctx0, all, in.rows);
        if (!in.order) {
            return own;
        }
        ggml_tensor * carried = ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_F32, all->ne[0], (int64_t) who.n_carried);
        ggml_set_input(carried);
        ggml_format_name(carried, "kv_carried_queries-%d", il);
        in.carried.push_back({ il, carried });
        return ggml_get_rows(graph.ctx0, ggml_concat(graph.ctx0, carried, own, 1), in.order);
    }

    void keep_queries(const llm_graph_context & graph, ggml_tensor * all, int il) {
        if (!score.kept_rows) {
            score.kept_rows = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_I32, (int64_t) who.n_kept);
            ggml_set_input(score.kept_rows);
            ggml_set_name(score.kept_rows, "kv_kept_rows");
        }
        ggml_tensor * kept = ggml_get_rows(graph.ctx0, all, score.kept_rows);
        graph.cb(kept, "kv_kept_queries", il);
        ggml_set_output(kept);
        ggml_build_forward_expand(graph.gf, kept);
        score.kept.push_back({ il, kept });
    }

    ggml_tensor * get_sinks(const llm_graph_context & graph, int64_t n_head) {
        ggml_tensor * & t = sinks[n_head];
        if (!t) {
            t = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_F32, n_head);
            ggml_set_input(t);
            ggml_set_name(t, "kv_empty_row_sinks");
        }
        return t;
    }

    ggml_tensor * get_zeros(const llm_graph_context & graph, int64_t n_embd_head, int64_t n_head) {
        ggml_tensor * & t = zeros[{ n_embd_head, n_head }];
        if (!t) {
            t = ggml_new_tensor_3d(graph.ctx0, GGML_TYPE_F32, n_embd_head, n_head, graph.n_tokens);
            ggml_set_input(t);
            ggml_set_name(t, "kv_zeros");
        }
        return t;
    }

    // After the ubatch was computed.
    void read_scores(const llama_ubatch & ubatch, ggml_backend_sched * sched) {
        if (!retention) {
            return;
        }
        decide(ubatch, sched);
        retention->release(true);
    }

    void decide(const llama_ubatch & ubatch, ggml_backend_sched * sched) {
        if (!score.masses.empty() || !score.kept.empty()) {
            ggml_backend_sched_synchronize(sched);
        }
        const auto                      parts   = kvfold_ubatch_parts(ubatch);
        const std::vector<kv_query>     queries = scored_queries(parts);
        std::vector<std::vector<float>> masses(queries.size(), std::vector<float>(hparams.kv_plan.n_layer));
        std::vector<float>              by_head;
        for (const score_inputs::mass & mass : score.masses) {
            by_head.resize(ggml_nelements(mass.tensor));
            ggml_backend_tensor_get(mass.tensor, by_head.data(), 0, ggml_nbytes(mass.tensor));
            const int64_t n_head = mass.tensor->ne[1];
            const int64_t n      = mass.tensor->ne[2];
            const int64_t n_each = (int64_t) queries.size()/mass.tensor->ne[3];
            for (int64_t i = 0; i < n*mass.tensor->ne[3]; ++i) {
                const float * from = &by_head[i*n_head];
                masses[i/n*n_each + mass.first + i%n][mass.il] = std::accumulate(from, from + n_head, 0.0)/n_head;
            }
        }
        size_t next_row = 0;
        for (const kv_ubatch_part & part : parts) {
            std::vector<std::vector<float>> own;
            const size_t n_own = retention->scored_queries(part, cparams.kv_prefill).size();
            for (size_t q = 0; q < queries.size() && own.size() < n_own; ++q) {
                if (queries[q].seq_id == part.seq_id) {
                    own.push_back(masses[q]);
                }
            }
            const auto rows = retention->kept_rows(part, cparams.kv_prefill);
            retention->advance(part, cparams.kv_prefill, own, kept_queries(ubatch, rows, next_row));
            next_row += rows.size();
        }
    }

    // Of `rows`, the first of which is kept row `first` of the graph.
    kv_kept_queries kept_queries(const llama_ubatch & ubatch, const std::vector<int32_t> & rows, size_t first) const {
        kv_kept_queries queries;
        if (rows.empty()) {
            return queries;
        }
        queries.values.resize(hparams.kv_plan.n_layer);
        for (const int32_t row : rows) {
            queries.pos.push_back(ubatch.pos[row]);
        }
        for (const auto & [il, tensor] : score.kept) {
            auto & values = queries.values[il];
            values.resize(rows.size()*tensor->ne[0]);
            ggml_backend_tensor_get(tensor, values.data(), first*tensor->nb[1], values.size()*sizeof(float));
        }
        return queries;
    }

    const uint32_t n_passes;

    kvfold_retention * const retention; // null: the plan says it all
    const ubatch_reads       who;

    // state while the graph is built: which pass of which group
    uint32_t pass = 0;
    bool     iterating = false; // inside a group that will be passed over again
    int      group_top = -1;

    // the nodes that last wrote the rows of this ubatch, by cache and producer; null: not yet in this graph
    struct write { ggml_tensor * k; ggml_tensor * v; };
    std::array<std::array<write, KVFOLD_MAX_LAYERS>, 2> writes;

    write & write_of(const cache_inputs & cache, int il) { return writes[cache.is_window][il]; }

private:
    int64_t n_streams(const llama_ubatch & ubatch) const {
        return cparams.kv_unified ? 1 : ubatch.n_seqs_unq;
    }

    bool has_mask_shape(const ggml_tensor * mask, const cache_inputs & cache, const llama_ubatch & ubatch) const {
        const int64_t n_stream = n_streams(ubatch);
        return mask->ne[0] == cache.mctx->get_n_kv() && mask->ne[1] == ubatch.n_tokens/n_stream && mask->ne[3] == n_stream;
    }

    // What the largest graph is reserved for: a ubatch of no sequence in particular.
    static bool is_reserve(const llama_ubatch & ubatch) {
        return ubatch.n_tokens > 0 && ubatch.n_seq_id[0] == 0;
    }

    // The scored queries of all sequences; with streams, equally many of each sequence, where the last ones fill up.
    std::vector<kv_query> scored_queries(const std::vector<kv_ubatch_part> & parts) const {
        std::vector<std::vector<kv_query>> by_part;
        size_t                             longest = 0;
        for (const kv_ubatch_part & part : parts) {
            by_part.push_back(retention->scored_queries(part, cparams.kv_prefill));
            longest = std::max(longest, by_part.back().size());
        }
        std::vector<kv_query> queries;
        for (size_t p = 0; p < parts.size(); ++p) {
            auto & own = by_part[p];
            if (!cparams.kv_unified && own.size() < longest) {
                own.resize(longest, { parts[p].seq_id, parts[p].pos.back(), parts[p].rows.back(), -1 });
            }
            queries.insert(queries.end(), own.begin(), own.end());
        }
        return queries;
    }

    std::vector<int32_t> kept_rows(const llama_ubatch & ubatch) const {
        std::vector<int32_t> rows;
        for (const kv_ubatch_part & part : kvfold_ubatch_parts(ubatch)) {
            const auto own = retention->kept_rows(part, cparams.kv_prefill);
            rows.insert(rows.end(), own.begin(), own.end());
        }
        return rows;
    }

    ubatch_reads reads_of(const llama_ubatch & ubatch) const {
        const kvfold_plan & plan = hparams.kv_plan;
        ubatch_reads        who;
        who.reads .resize(plan.n_layer);
        who.stores.resize(plan.n_layer);
        who.scores.resize(plan.n_layer);
        who.keeps .resize(plan.n_layer);
        if (!retention || is_reserve(ubatch)) {
            for (uint32_t il = 0; il < plan.n_layer; ++il) {
                who.reads[il]  = { kvfold_fixed_read(plan, (int) il) };
                who.stores[il] = plan.in_both[il] ? STORES_FULL | STORES_WINDOW : plan.in_swa[il] ? STORES_WINDOW : STORES_FULL;
                who.scores[il] = retention && plan.candidate[il];
            }
            if (retention) {
                const uint32_t n_queries = plan.decide == KVFOLD_DECIDE_DECODE ? 1 : plan.n_queries;
                who.n_scored  = std::min(n_queries, ubatch.n_seq_tokens)*ubatch.n_seqs;
                who.n_carried = 0; // they come in place of others
                who.n_kept    = plan.decide == KVFOLD_DECIDE_DECODE ? 0 : who.n_scored;
                who.keeps     = who.n_kept > 0 ? who.scores : who.keeps;
            }
            return who;
        }
        const auto parts = kvfold_ubatch_parts(ubatch);
        for (const kv_query & query : scored_queries(parts)) {
            who.n_scored++;
            who.n_carried += query.row < 0;
        }
        std::vector<llama_seq_id> scored, kept;
        for (const kv_ubatch_part & part : parts) {
            if (!retention->scored_queries(part, cparams.kv_prefill).empty()) {
                scored.push_back(part.seq_id);
            }
            if (const size_t n = retention->kept_rows(part, cparams.kv_prefill).size()) {
                kept.push_back(part.seq_id);
                who.n_kept += n;
            }
        }
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            if (!plan.in_both[il]) {
                who.stores[il] = plan.in_swa[il] ? STORES_WINDOW : STORES_FULL;
            }
            for (uint32_t s = 0; s < ubatch.n_seqs_unq; ++s) {
                const llama_seq_id seq_id = ubatch.seq_id_unq[s];
                who.reads[il].push_back(retention->read_of(seq_id, (int) il));
                if (plan.in_both[il]) {
                    who.stores[il] |= retention->needs_full  (seq_id, (int) il) ? STORES_FULL   : 0;
                    who.stores[il] |= retention->needs_window(seq_id, (int) il) ? STORES_WINDOW : 0;
                }
            }
            const auto is_undecided = [&](llama_seq_id id) { return retention->is_undecided(id, (int) il); };
            who.scores[il] = std::any_of(scored.begin(), scored.end(), is_undecided);
            who.keeps [il] = std::any_of(kept.begin(), kept.end(), is_undecided);
        }
        return who;
    }

    void set_cache_input(cache_inputs & cache, const llama_ubatch & ubatch) {
        if (in_use(cache.k_idxs)) {
            cache.mctx->set_input_k_idxs(cache.k_idxs, &ubatch);
        }
        if (in_use(cache.v_idxs)) {
            cache.mctx->set_input_v_idxs(cache.v_idxs, &ubatch);
        }
        if (in_use(cache.k_rot)) {
            cache.mctx->set_input_k_rot(cache.k_rot);
        }
        if (in_use(cache.v_rot)) {
            cache.mctx->set_input_v_rot(cache.v_rot);
        }
        for (const cache_inputs::mask & mask : cache.masks) {
            if (!in_use(mask.tensor)) {
                continue;
            }
            cache.mctx->set_input_kq_mask(mask.tensor, &ubatch, cparams.causal_attn);
            if (mask.tensor->type == GGML_TYPE_F16) {
                adapt_mask<ggml_fp16_t>(cache, mask, ubatch, hparams.kv_plan, who.reads[mask.il],
                        ggml_fp32_to_fp16(0.0f), ggml_fp32_to_fp16(-INFINITY));
            } else {
                adapt_mask<float>(cache, mask, ubatch, hparams.kv_plan, who.reads[mask.il], 0.0f, -INFINITY);
            }
        }
    }

    // Where a scored query has its row in the inputs: they are part by part, in a part stream by stream.
    int64_t row_of_query(int64_t q, int64_t n_stream) const {
        const int64_t n_each = (int64_t) who.n_scored/n_stream;
        const auto &  part   = score.parts[q%n_each/score.parts[0].n];
        return part.first*n_stream + q/n_each*part.n + q%n_each - part.first;
    }

    void set_score_input(const llama_ubatch & ubatch) {
        const kvfold_plan &    plan    = hparams.kv_plan;
        const llama_kv_cache & kv      = *caches[0].mctx->get_kv();
        const auto             queries = scored_queries(kvfold_ubatch_parts(ubatch));
        const int64_t          n_kv    = score.mask->ne[0];

        std::vector<float>   mask(n_kv*queries.size(), -INFINITY);
        std::vector<float>   retained(n_kv*queries.size(), 0.0f);
        std::vector<int32_t> rows, order;
        int32_t              n_carried = 0;
        for (size_t q = 0; q < queries.size(); ++q) {
            const kv_query &       query = queries[q];
            const llama_kv_cells & cells = kv.get_cells(query.seq_id);
            const int64_t          at    = row_of_query((int64_t) q, n_streams(ubatch))*n_kv;
            for (int64_t j = 0; j < n_kv; ++j) {
                if (cells.is_empty(j) || !cells.seq_has(j, query.seq_id) || cells.pos_get(j) > query.pos - (plan.strict ? 1 : 0)) {
                    continue;
                }
                mask[at + j]     = 0.0f;
                retained[at + j] = plan.is_sink(cells.pos_get(j)) || query.pos - cells.pos_get(j) < (llama_pos) plan.n_swa;
            }
            if (query.row < 0) {
                order.push_back(n_carried++);
            } else {
                order.push_back((int32_t) (who.n_carried + rows.size()));
                rows.push_back(query.row);
            }
        }
        ggml_backend_tensor_set(score.rows,     rows.data(),     0, ggml_nbytes(score.rows));
        ggml_backend_tensor_set(score.mask,     mask.data(),     0, ggml_nbytes(score.mask));
        ggml_backend_tensor_set(score.retained, retained.data(), 0, ggml_nbytes(score.retained));
        if (score.order) {
            ggml_backend_tensor_set(score.order, order.data(), 0, ggml_nbytes(score.order));
        }
        for (const auto & [il, tensor] : score.carried) {
            const size_t       width = tensor->ne[0];
            std::vector<float> values;
            for (const kv_query & query : queries) {
                if (query.row >= 0) {
                    continue;
                }
                const auto & kept = retention->kept_values(query.seq_id, il);
                if (kept.empty()) { // this layer of this sequence is lazy already
                    values.resize(values.size() + width);
                } else {
                    values.insert(values.end(), kept.begin() + query.kept*width, kept.begin() + (query.kept + 1)*width);
                }
            }
            ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
        }
    }

    std::array<cache_inputs, 2> caches;
    score_inputs                score;

    std::map<int64_t, ggml_tensor *> sinks;                     // by n_head; F32 [n_head]
    std::map<std::pair<int64_t, int64_t>, ggml_tensor *> zeros; // by {n_embd_head, n_head_kv}; F32 [n_embd_head, n_head_kv, n_tokens]
};

void kvfold_ubatch_done(llm_graph_result & res, const llama_ubatch & ubatch, ggml_backend_sched * sched) {
    for (const auto & input : res.inputs) {
        if (auto * own = dynamic_cast<kvfold_attn_input *>(input.get())) {
            own->read_scores(ubatch, sched);
        }
    }
}

llm_graph_input_attn_kv * kvfold_build_attn_inp(const llm_graph_context & graph) {
    std::unique_ptr<kvfold_attn_input> inp;
    if (graph.hparams.swa_type != LLAMA_SWA_TYPE_NONE) {
        const auto * iswa = static_cast<const llama_kv_cache_iswa_context *>(graph.mctx);
        inp = std::make_unique<kvfold_attn_input>(graph, iswa->get_base(), iswa->get_swa());
    } else {
        inp = std::make_unique<kvfold_attn_input>(graph, static_cast<const llama_kv_cache_context *>(graph.mctx), nullptr);
    }
    return static_cast<llm_graph_input_attn_kv *>(graph.res->add_input(std::move(inp)));
}

bool kvfold_attends_in_f32(const llm_graph_context & graph) {
    return graph.hparams.kv_plan.active() && graph.hparams.kv_plan.upward() && ggml_backend_sched_get_n_backends(graph.sched) == 1;
}

ggml_tensor * kvfold_absent_kv(const llm_graph_context & graph, int64_t n_embd_head, int64_t n_head) {
    return ggml_new_tensor_3d(graph.ctx0, GGML_TYPE_F32, n_embd_head, n_head, graph.n_tokens);
}

// Stores the keys and values of this ubatch in the rows of layer il.
static void write_kv(const llm_graph_context & graph, kvfold_attn_input & inp, cache_inputs & cache, ggml_tensor * k_cur, ggml_tensor * v_cur, int il) {
    ggml_tensor * k = cache.mctx->cpy_k(graph.ctx0, k_cur, cache.k_idxs, il);
    ggml_tensor * v = cache.mctx->cpy_v(graph.ctx0, v_cur, cache.v_idxs, il);
    ggml_build_forward_expand(graph.gf, k);
    ggml_build_forward_expand(graph.gf, v);

    inp.write_of(cache, il) = { k, v };
}

static ggml_tensor * rotate(ggml_context * ctx, ggml_tensor * t, ggml_tensor * rot) {
    return rot ? llama_mul_mat_hadamard(ctx, t, rot) : t;
}

// The view of a cache as a view of the node that last wrote to it, so that a reader depends on that node.
static ggml_tensor * read_after(ggml_context * ctx, ggml_tensor * view, ggml_tensor * write) {
    if (!write) {
        return view;
    }
    return ggml_view_4d(ctx, write, view->ne[0], view->ne[1], view->ne[2], view->ne[3], view->nb[1], view->nb[2], view->nb[3], view->view_offs);
}

// [n_embd_head, n_head, n_tokens] -> [n_embd_head*n_head, n_tokens]
static ggml_tensor * rows_of(ggml_context * ctx, ggml_tensor * q) {
    return ggml_reshape_2d(ctx, ggml_is_contiguous(q) ? q : ggml_cont(ctx, q), q->ne[0]*q->ne[1], q->ne[2]);
}

// The attention of the scored queries as a whole, and how much of it falls on what a lazy layer retains. As in
// build_attn_mha(); flash attention never writes its probabilities down.
static void build_score(
        const llm_graph_context & graph, kvfold_attn_input & inp, ggml_tensor * q, ggml_tensor * k, ggml_tensor * sinks, float kq_scale, int il) {
    ggml_context * ctx0  = graph.ctx0;
    score_inputs & score = inp.get_score(graph);

    const int64_t n_embd_head = q->ne[0];
    const int64_t n_head      = q->ne[1];
    const int64_t n_stream    = k->ne[3];
    const int64_t n_scored    = (int64_t) inp.who.n_scored;

    q = inp.get_queries(graph, rows_of(ctx0, q), il);
    q = ggml_reshape_4d(ctx0, q, n_embd_head, n_head, n_scored/n_stream, n_stream);

    k = ggml_permute(ctx0, k, 0, 2, 1, 3);
    for (const score_inputs::part & part : score.parts) {
        ggml_tensor * some = ggml_view_4d(ctx0, q, n_embd_head, n_head, part.n, n_stream, q->nb[1], q->nb[2], q->nb[3], part.first*q->nb[2]);
        ggml_tensor * kq   = ggml_mul_mat(ctx0, k, ggml_permute(ctx0, some, 0, 2, 1, 3));
        ggml_prec_set_acc(kq, GGML_PREC_F32);
        if (graph.arch == LLM_ARCH_GROK) {
            kq = ggml_tanh(ctx0, ggml_scale(ctx0, kq, graph.hparams.f_attn_out_scale / graph.hparams.f_attn_logit_softcapping));
            kq = ggml_scale(ctx0, kq, graph.hparams.f_attn_logit_softcapping);
        }
        if (graph.hparams.attn_soft_cap) {
            kq = ggml_scale(ctx0, kq, 1.0f / graph.hparams.f_attn_logit_softcapping);
            kq = ggml_scale(ctx0, ggml_tanh(ctx0, kq), graph.hparams.f_attn_logit_softcapping);
        }
        ggml_tensor * probabilities = ggml_soft_max_ext(ctx0, kq, part.mask, kq_scale, 0.0f);
        ggml_soft_max_add_sinks(probabilities, sinks);

        // [n_kv, n, n_head, n_stream] -> [1, n_head, n, n_stream]
        ggml_tensor * mass = ggml_mul_mat(ctx0, part.retained, ggml_permute(ctx0, probabilities, 0, 2, 1, 3));
        graph.cb(mass, "kv_retained_mass", il);
        ggml_set_output(mass);
        ggml_build_forward_expand(graph.gf, mass);

        score.masses.push_back({ il, part.first, mass });
    }
}

ggml_tensor * kvfold_build_attn(
        const llm_graph_context & graph,
        llm_graph_input_attn_kv * inp_attn,
        ggml_tensor * wo,
        ggml_tensor * wo_b,
        ggml_tensor * wo_s,
        ggml_tensor * q_cur,
        ggml_tensor * k_cur,
        ggml_tensor * v_cur,
        ggml_tensor * kq_b,
        ggml_tensor * sinks,
        float kq_scale,
        int il) {
    auto & inp = static_cast<kvfold_attn_input &>(*inp_attn);
    const kvfold_plan & plan = graph.hparams.kv_plan;

    ggml_context * ctx0 = graph.ctx0;
    ggml_cgraph  * gf   = graph.gf;

    const bool refresh_only = inp.iterating && il == inp.group_top;

    if (!refresh_only) {
        ggml_build_forward_expand(gf, q_cur);
    }

    if (plan.is_producer(il)) {
        for (cache_inputs * cache : inp.stored_in(il)) {
            ggml_tensor * v_rot = rotate(ctx0, v_cur, cache->v_rot);
            ggml_tensor * k_rot = rotate(ctx0, k_cur, cache->k_rot);
            ggml_build_forward_expand(gf, v_rot);
            ggml_build_forward_expand(gf, k_rot);

            write_kv(graph, inp, *cache, k_rot, v_rot, il);
        }
    }

    if (refresh_only) {
        // the pass ends here: the layers below only wait for these keys and values
        return ggml_new_tensor_2d(ctx0, GGML_TYPE_F32, graph.n_embd, graph.n_tokens);
    }

    const int  il_kv      = plan.kv[il];
    const bool masks_self = plan.masks_self(il);
    const auto read       = inp.read_in(il);

    // a row that reads one of two caches has an empty row in the other one, which adds zero
    if ((masks_self || read.size() > 1) && !sinks) {
        sinks = inp.get_sinks(graph, q_cur->ne[1]);
    }

    ggml_tensor * cur = nullptr;
    for (cache_inputs * cache : read) {
        if (plan.reads_upward(il) && !inp.write_of(*cache, il_kv).k && graph.ubatch.n_seq_tokens > 1) {
            // the first pass reads rows that nothing has computed yet: zeros, not what a former token left there
            const auto & hparams = graph.hparams;
            write_kv(graph, inp, *cache,
                    inp.get_zeros(graph, hparams.n_embd_head_k(il_kv), hparams.n_head_kv(il_kv)),
                    inp.get_zeros(graph, hparams.n_embd_head_v(il_kv), hparams.n_head_kv(il_kv)), il_kv);
        }

        ggml_tensor * q = rotate(ctx0, q_cur, cache->k_rot);
        ggml_build_forward_expand(gf, q);

        ggml_tensor * k = read_after(ctx0, cache->mctx->get_k(ctx0, il_kv), inp.write_of(*cache, il_kv).k);
        ggml_tensor * v = read_after(ctx0, cache->mctx->get_v(ctx0, il_kv), inp.write_of(*cache, il_kv).v);

        if (!cache->is_window && inp.who.scores[il] && inp.who.n_scored > 0) {
            build_score(graph, inp, q, k, sinks, kq_scale, il);
        }
        if (!cache->is_window && inp.who.keeps[il]) {
            inp.keep_queries(graph, rows_of(ctx0, q), il);
        }

        ggml_tensor * kq_mask = inp.get_mask(graph, *cache, masks_self, il);

        ggml_tensor * out = graph.build_attn_mha(q, k, v, kq_b, kq_mask, sinks, nullptr, 0, kq_scale, il);
        graph.cb(out, "kqv_out", il);

        out = rotate(ctx0, out, cache->v_rot);
        cur = cur ? ggml_add(ctx0, cur, out) : out;
    }

    if (wo) {
        cur = graph.build_lora_mm(wo, cur, wo_s);
    }
    if (wo_b) {
        cur = ggml_add(ctx0, cur, wo_b);
    }
    return cur;
}

kvfold_layer_loop::kvfold_layer_loop(const llm_graph_context & graph, llm_graph_input_attn_kv * inp_attn) {
    if (graph.hparams.kv_plan.upward()) {
        plan = &graph.hparams.kv_plan;
        inp  = static_cast<kvfold_attn_input *>(inp_attn);
    }
}

kvfold_layer_loop::kvfold_layer_loop(const llm_graph_context &, llm_graph_input_attn_no_cache *) {}

void kvfold_layer_loop::enter(int il, ggml_tensor * inpL) {
    if (!inp || group_first >= 0 || !plan->reads_upward(il)) {
        return;
    }
    group_first = il;
    group_input = inpL;

    inp->group_top = (int) plan->group_top(il);
    inp->pass      = 0;
    inp->iterating = inp->n_passes > 1;
}

void kvfold_layer_loop::leave(int & il, ggml_tensor * & inpL) {
    if (group_first < 0 || il != inp->group_top) {
        return;
    }
    if (inp->iterating) {
        inp->pass++;
        inp->iterating = inp->pass + 1 < inp->n_passes;
        inpL = group_input;
        il   = group_first - 1; // the loop's own increment comes next
    } else {
        group_first = -1;
    }
}
