#include "kv/graph/scores.h"

#include "hooks/kv-lazy-layers.h"
#include "kv/eviction/evictor.h"
#include "kv/eviction/gumbel.h"
#include "kv/eviction/method.h"
#include "kv/graph/attn_input.h"
#include "kv/retention/retention.h"

#include "llama-cparams.h"
#include "llama-hparams.h"
#include "llama-kv-cache.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

using namespace kvfold;

score_inputs & kvfold_attn_input::get_score(const llm_graph_context & graph) {
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
        const int64_t n_planes = n_noises();
        score.mask     = input(ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_F32, n_kv, n_scored*n_planes), "kv_scored_mask");
        score.retained = input(ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_F32, n_kv, n_scored), "kv_scored_retained");
        if (evicts_by_noise(hparams.kv_plan) || evicts_by_marks(hparams.kv_plan)) {
            score.of_query = input(ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_F32, n_scored, 2), "kv_scored_numbers");
        }
        const auto    groups = who.groups.empty() ? std::vector<size_t> { (size_t) n_each } : who.groups; // with streams there is one
        int64_t       first  = 0, end = 0;
        for (size_t group = 0; group < groups.size(); ++group) {
            end += (int64_t) groups[group];
            for (int64_t n; first < end; first += n) {
                n = std::min(at_once, end - first);
                const size_t row = score.mask->nb[1], at = first*n_stream*row, size = sizeof(float);
                const auto   of_query = [&](size_t which, int64_t ne1, int64_t ne2) {
                    return score.of_query ? ggml_view_3d(graph.ctx0, score.of_query, 1, ne1, ne2, size, size, which*score.of_query->nb[1] + first*size) : nullptr;
                };
                score.parts.push_back({ first, n, group,
                        ggml_view_4d(graph.ctx0, score.mask,     n_kv, n, n_planes, n_stream, row, n*row, n*n_planes*row, at*n_planes),
                        of_query(0, 1, n), of_query(0, n, 1), of_query(1, n, 1),
                        ggml_view_4d(graph.ctx0, score.retained, n_kv, 1, n, n_stream, row, row,   n*row, at) });
            }
        }
    }
    return score;
}

ggml_tensor * kvfold_attn_input::get_queries(const llm_graph_context & graph, ggml_tensor * all, int il) {
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

void kvfold_attn_input::keep_queries(const llm_graph_context & graph, ggml_tensor * all, int il) {
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

int64_t kvfold_attn_input::n_noises() const {
    uint32_t most = 1;
    for (uint32_t il = 0; evicts_by_noise(hparams.kv_plan) && il < hparams.kv_plan.n_layer; ++il) {
        most = std::max(most, hparams.n_head(il)/std::max(1u, hparams.n_head_kv(hparams.kv_plan.kv[il])));
    }
    return most;
}

std::vector<kv_query> kvfold_attn_input::scored_queries(const std::vector<kv_ubatch_part> & parts) const {
    std::vector<std::vector<kv_query>> by_part;
    size_t                             longest = 0;
    for (const kv_ubatch_part & part : parts) {
        by_part.push_back(judge->scored_queries(part, cparams.kv_prefill));
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

std::vector<int32_t> kvfold_attn_input::kept_rows(const llama_ubatch & ubatch) const {
    std::vector<int32_t> rows;
    for (const kv_ubatch_part & part : kvfold_ubatch_parts(ubatch)) {
        const auto own = judge->kept_rows(part, cparams.kv_prefill);
        rows.insert(rows.end(), own.begin(), own.end());
    }
    return rows;
}

const score_inputs::part & kvfold_attn_input::part_of_query(int64_t q, int64_t n_stream) const {
    const int64_t n_each = (int64_t) who.n_scored/n_stream;
    return *std::prev(std::upper_bound(score.parts.begin(), score.parts.end(), q%n_each,
            [](int64_t at, const score_inputs::part & each) { return at < each.first; }));
}

int64_t kvfold_attn_input::row_of_query(int64_t q, int64_t n_stream) const {
    const int64_t n_each = (int64_t) who.n_scored/n_stream;
    const auto &  part   = part_of_query(q, n_stream);
    return n_noises()*part.first*n_stream + q/n_each*part.n + q%n_each - part.first;
}

void kvfold_attn_input::set_score_input(const llama_ubatch & ubatch) {
    const kvfold_plan &    plan    = hparams.kv_plan;
    const llama_kv_cache & kv      = *caches[0].mctx->get_kv();
    const auto             parts   = kvfold_ubatch_parts(ubatch);
    const auto             queries = scored_queries(parts);
    const int64_t          n_kv    = score.mask->ne[0];
    const int64_t          n_noise = evicts_by_noise(plan) ? n_noises() : 0;
    const uint32_t         seed    = evicts_by_noise(plan) ? evict_parameter_of(plan, "seed") : 0;

    std::vector<float>   mask(ggml_nelements(score.mask), -INFINITY);
    std::vector<float>   retained(in_use(score.retained) ? mask.size() : 0); // where something may be lazy
    std::vector<float>   of_query(2*queries.size());
    std::vector<int32_t> rows, order;
    int32_t              n_carried = 0;
    std::map<llama_seq_id, llama_pos> ends; // behind the tokens that have a part
    for (size_t q = 0; q < queries.size(); ++q) {
        const kv_query &       query = queries[q];
        const llama_kv_cells & cells = kv.get_cells(query.seq_id);
        const int64_t          at    = row_of_query((int64_t) q, n_streams(ubatch))*n_kv;
        const int64_t          apart = part_of_query((int64_t) q, n_streams(ubatch)).n*n_kv; // a head's noise and that of the next
        const auto             part  = std::find_if(parts.begin(), parts.end(), [&](const kv_ubatch_part & each) { return each.seq_id == query.seq_id; });
        // a little less than the average, so that rounding does not leave out what has just as much
        const float            scale = n_noise > 0 ? 1/evictor->temperature(*part, cparams.kv_prefill, query.pos) : (1 - 1e-6f)/(float) (query.pos + 1);
        of_query[q]                  = scale;
        of_query[queries.size() + q] = (float) (query.pos + 1);
        if (evicts_by_highest(plan) && ends.count(query.seq_id) == 0) {
            ends[query.seq_id] = evictor->first_of_last(query.seq_id, evict_queries_of(plan));
        }
        for (int64_t j = 0; j < n_kv; ++j) {
            if (cells.is_empty(j) || !cells.seq_has(j, query.seq_id) || cells.pos_get(j) > query.pos - (plan.strict ? 1 : 0)) {
                continue;
            }
            if (evicts_by_highest(plan) && cells.pos_get(j) >= ends[query.seq_id]) {
                continue;
            }
            mask[at + j]     = 0.0f;
            for (int64_t h = 0; h < n_noise; ++h) {
                mask[at + h*apart + j] = scale*gumbel(seed, (uint32_t) cells.pos_get(j), (uint32_t) query.pos, (uint32_t) h);
            }
            if (!retained.empty()) {
                retained[at + j] = plan.is_sink(cells.pos_get(j)) || query.pos - cells.pos_get(j) < (llama_pos) plan.n_swa;
            }
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
    if (in_use(score.retained)) {
        ggml_backend_tensor_set(score.retained, retained.data(), 0, ggml_nbytes(score.retained));
    }
    if (in_use(score.of_query)) {
        ggml_backend_tensor_set(score.of_query, of_query.data(), 0, ggml_nbytes(score.of_query));
    }
    if (score.order) {
        ggml_backend_tensor_set(score.order, order.data(), 0, ggml_nbytes(score.order));
    }
    for (const auto & [il, tensor] : score.hidden) {
        std::vector<float> hidden(n_kv);
        for (const kv_query & query : queries) {
            const llama_kv_cells & cells = kv.get_cells(query.seq_id);
            for (int64_t j = 0; j < n_kv; ++j) {
                if (!cells.is_empty(j) && cells.seq_has(j, query.seq_id) && evictor->hides(query.seq_id, plan.kv[il], cells.pos_get(j))) {
                    hidden[j] = -INFINITY;
                }
            }
        }
        ggml_backend_tensor_set(tensor, hidden.data(), 0, ggml_nbytes(tensor));
    }
    for (const auto & [il, tensor] : score.carried) {
        const size_t       width = tensor->ne[0];
        std::vector<float> values;
        for (const kv_query & query : queries) {
            if (query.row >= 0) {
                continue;
            }
            const auto & kept = judge->kept_values(query.seq_id, il);
            if (kept.empty()) { // this layer of this sequence is lazy already
                values.resize(values.size() + width);
            } else {
                values.insert(values.end(), kept.begin() + query.kept*width, kept.begin() + (query.kept + 1)*width);
            }
        }
        ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
    }
}

void kvfold_attn_input::read_scores(const llama_ubatch & ubatch, ggml_backend_sched * sched) {
    if (!score.masses.empty() || !score.votes.empty() || !score.kept.empty()) {
        ggml_backend_sched_synchronize(sched);
    }
    if (evictor) {
        evict(ubatch);
        if (evictor->is_due()) {
            ggml_backend_sched_synchronize(sched);
        }
    }
    if (retention) {
        decide(ubatch);
        retention->release(true);
    }
}

void kvfold_attn_input::evict(const llama_ubatch & ubatch) {
    const auto                          parts = kvfold_ubatch_parts(ubatch);
    std::vector<const kv_ubatch_part *> scored;
    for (const kv_ubatch_part & part : parts) {
        if (!score.votes.empty() && !evictor->scored_queries(part, cparams.kv_prefill).empty()) {
            scored.push_back(&part);
        }
    }
    std::vector<float> votes;
    for (const score_inputs::vote & vote : score.votes) {
        votes.resize(ggml_nelements(vote.tensor));
        ggml_backend_tensor_get(vote.tensor, votes.data(), 0, ggml_nbytes(vote.tensor));
        for (size_t i = 0; i < scored.size(); ++i) {
            if (who.groups.empty() || i == vote.group) {
                evictor->vote(*scored[i], vote.il, votes.data(), vote.tensor->ne[1]);
            }
        }
    }
    size_t next_row = 0;
    for (const kv_ubatch_part & part : parts) {
        const auto rows = evictor->kept_rows(part, cparams.kv_prefill);
        evictor->advance(part, cparams.kv_prefill, kept_queries(ubatch, rows, next_row));
        next_row += rows.size();
    }
}

void kvfold_attn_input::decide(const llama_ubatch & ubatch) {
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

kv_kept_queries kvfold_attn_input::kept_queries(const llama_ubatch & ubatch, const std::vector<int32_t> & rows, size_t first) const {
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

void kvfold_ubatch_done(llm_graph_result & res, const llama_ubatch & ubatch, ggml_backend_sched * sched) {
    for (const auto & input : res.inputs) {
        if (auto * own = dynamic_cast<kvfold_attn_input *>(input.get())) {
            own->read_scores(ubatch, sched);
        }
    }
}

ggml_tensor * kvfold::rows_of(ggml_context * ctx, ggml_tensor * q) {
    return ggml_reshape_2d(ctx, ggml_is_contiguous(q) ? q : ggml_cont(ctx, q), q->ne[0]*q->ne[1], q->ne[2]);
}

static ggml_tensor * higher(ggml_context * ctx, ggml_tensor * a, ggml_tensor * b) {
    return a ? ggml_add(ctx, a, ggml_relu(ctx, ggml_sub(ctx, b, a))) : b;
}

// [n_kv, n, n_head] -> [n_kv, n, n_head_kv]: of the heads that read one the highest.
static ggml_tensor * highest_of_alike(ggml_context * ctx, ggml_tensor * kq, int64_t n_head_kv) {
    const int64_t n_alike = kq->ne[2]/n_head_kv;
    ggml_tensor * most    = nullptr;
    for (int64_t i = 0; i < n_alike; ++i) {
        ggml_tensor * each = ggml_cont(ctx, ggml_view_3d(ctx, kq, kq->ne[0], kq->ne[1], n_head_kv, kq->nb[1], n_alike*kq->nb[2], i*kq->nb[2]));
        most = higher(ctx, most, each);
    }
    return most;
}

// [n_kv, n, n_head] -> [1, n_kv, n_head_kv]: over queries and heads that read one the highest.
static ggml_tensor * highest_of_all(ggml_context * ctx, ggml_tensor * marks, int64_t n_head_kv) {
    const int64_t n_kv = marks->ne[0], n_rows = marks->ne[1]*marks->ne[2]/n_head_kv;
    ggml_tensor * most = ggml_pool_2d(ctx, ggml_reshape_3d(ctx, marks, n_kv, n_rows, n_head_kv), GGML_OP_POOL_MAX, 1, (int) n_rows, 1, (int) n_rows, 0, 0);
    return ggml_reshape_3d(ctx, most, 1, n_kv, n_head_kv);
}

// What heads that read one have of a part's noise, in a layer where these are fewer than in another.
static ggml_tensor * noise_of(ggml_context * ctx, ggml_tensor * mask, int64_t n_alike) {
    return mask->ne[2] == n_alike ? mask : ggml_view_3d(ctx, mask, mask->ne[0], mask->ne[1], n_alike, mask->nb[1], mask->nb[2], 0);
}

// As in build_attn_mha(); flash attention never writes its probabilities down.
void kvfold::build_score(
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

    ggml_tensor * hidden = nullptr;
    if (inp.evictor && inp.evictor->hides_any()) {
        hidden = ggml_new_tensor_1d(ctx0, GGML_TYPE_F32, score.mask->ne[0]);
        ggml_set_input(hidden);
        ggml_format_name(hidden, "kv_scored_hidden-%d", il);
        score.hidden.push_back({ il, hidden });
    }
    const kvfold_plan & plan      = graph.hparams.kv_plan;
    const bool          highest   = evicts_by_highest(plan), noise = evicts_by_noise(plan), marks = evicts_by_marks(plan);
    const bool          is_capped = graph.arch == LLM_ARCH_GROK || graph.hparams.attn_soft_cap; // which comes before the noise

    std::vector<ggml_tensor *> votes(score.parts.back().group + 1), lasts(votes.size());
    for (const score_inputs::part & part : score.parts) {
        ggml_tensor * those = ggml_view_4d(ctx0, q, n_embd_head, n_head, part.n, n_stream, q->nb[1], q->nb[2], q->nb[3], part.first*q->nb[2]);
        if (noise && !is_capped) {
            those = ggml_mul(ctx0, those, part.scale);
        }
        ggml_tensor * kq   = ggml_mul_mat(ctx0, k, ggml_permute(ctx0, those, 0, 2, 1, 3));
        ggml_prec_set_acc(kq, GGML_PREC_F32);
        if (graph.arch == LLM_ARCH_GROK) {
            kq = ggml_tanh(ctx0, ggml_scale(ctx0, kq, graph.hparams.f_attn_out_scale / graph.hparams.f_attn_logit_softcapping));
            kq = ggml_scale(ctx0, kq, graph.hparams.f_attn_logit_softcapping);
        }
        if (graph.hparams.attn_soft_cap) {
            kq = ggml_scale(ctx0, kq, 1.0f / graph.hparams.f_attn_logit_softcapping);
            kq = ggml_scale(ctx0, ggml_tanh(ctx0, kq), graph.hparams.f_attn_logit_softcapping);
        }
        kq = noise && is_capped ? ggml_mul(ctx0, kq, ggml_reshape_2d(ctx0, part.scale, 1, part.n)) : kq;
        kq = highest ? highest_of_alike(ctx0, kq, k->ne[2]) : kq;
        kq = hidden ? ggml_add(ctx0, kq, hidden) : kq;
        ggml_tensor * mask          = noise ? noise_of(ctx0, part.mask, n_head/k->ne[2]) : part.mask;
        ggml_tensor * probabilities = ggml_soft_max_ext(ctx0, kq, mask, kq_scale, 0.0f);
        ggml_soft_max_add_sinks(probabilities, highest ? nullptr : sinks);
        if (marks) {
            probabilities = ggml_step(ctx0, ggml_sub(ctx0, probabilities, part.average));
            lasts[part.group] = higher(ctx0, lasts[part.group], highest_of_all(ctx0, ggml_mul(ctx0, probabilities, part.number), k->ne[2]));
        }

        if (inp.evictor) {
            // [n_kv, n, n_head] -> [n*n_head/n_head_kv, n_kv, n_head_kv] -> [1, n_kv, n_head_kv]
            const int64_t n_kv = k->ne[1], n_head_kv = k->ne[2];
            ggml_tensor * of_head = ggml_reshape_3d(ctx0, probabilities, n_kv, part.n*probabilities->ne[2]/n_head_kv, n_head_kv);
            ggml_tensor * some    = ggml_sum_rows(ctx0, ggml_cont(ctx0, ggml_transpose(ctx0, of_head)));
            ggml_tensor * & sum = votes[part.group];
            sum = sum ? ggml_add(ctx0, sum, some) : some;
            continue;
        }

        // [n_kv, n, n_head, n_stream] -> [1, n_head, n, n_stream]
        ggml_tensor * mass = ggml_mul_mat(ctx0, part.retained, ggml_permute(ctx0, probabilities, 0, 2, 1, 3));
        graph.cb(mass, "kv_retained_mass", il);
        ggml_set_output(mass);
        ggml_build_forward_expand(graph.gf, mass);

        score.masses.push_back({ il, part.first, mass });
    }
    for (size_t group = 0; group < votes.size() && votes[group]; ++group) {
        votes[group] = marks ? ggml_concat(ctx0, votes[group], lasts[group], 2) : votes[group];
        graph.cb(votes[group], "kv_votes", il);
        ggml_set_output(votes[group]);
        ggml_build_forward_expand(graph.gf, votes[group]);
        score.votes.push_back({ il, group, votes[group] });
    }
}
