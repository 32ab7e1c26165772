#include "kv/eviction/choice.h"

#include "kv/eviction/method.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <tuple>

namespace kvfold {

namespace {

// [n][d]
struct matrix {
    const float * data;
    uint32_t      n;
    uint32_t      d;

    matrix(const std::vector<float> & from, uint32_t n) : data(from.data()), n(n), d((uint32_t) (from.size()/n)) {}

    const float * row(uint32_t i) const { return data + (size_t) i*d; }
};

double norm(const float * x, uint32_t d) {
    return std::sqrt(std::inner_product(x, x + d, x, 0.0));
}

std::vector<float> knorm(const matrix & k) {
    std::vector<float> scores(k.n);
    for (uint32_t i = 0; i < k.n; ++i) {
        scores[i] = (float) -norm(k.row(i), k.d);
    }
    return scores;
}

std::vector<float> keydiff(const matrix & k) {
    static constexpr double least_norm = 1e-12; // of a key that points nowhere
    std::vector<double>     anchor(k.d);
    for (uint32_t i = 0; i < k.n; ++i) {
        const double length = std::max(norm(k.row(i), k.d), least_norm);
        for (uint32_t c = 0; c < k.d; ++c) {
            anchor[c] += k.row(i)[c]/length/k.n;
        }
    }
    const double       anchor_norm = std::sqrt(std::inner_product(anchor.begin(), anchor.end(), anchor.begin(), 0.0));
    std::vector<float> scores(k.n);
    for (uint32_t i = 0; i < k.n; ++i) {
        const double product = std::inner_product(anchor.begin(), anchor.end(), k.row(i), 0.0);
        scores[i] = (float) (-product/std::max(norm(k.row(i), k.d)*anchor_norm, least_norm));
    }
    return scores;
}

// The first ones of all, then the later the sooner.
std::vector<float> streaming(uint32_t n, uint32_t n_sinks) {
    std::vector<float> scores(n, 1.0f);
    for (uint32_t i = n_sinks; i < n; ++i) {
        scores[i] = (float) (i - n_sinks)/(float) (n - n_sinks);
    }
    return scores;
}

// For the tokens of a chunk: softmax over them of how unequal a token's channels are, each measured by its range in the next chunk.
std::vector<double> stand_out(const matrix & x, uint32_t first, uint32_t lag) {
    std::vector<double> low(x.d, INFINITY), high(x.d, -INFINITY);
    for (uint32_t i = first + lag; i < first + 2*lag; ++i) {
        for (uint32_t c = 0; c < x.d; ++c) {
            low[c]  = std::min<double>(low[c],  x.row(i)[c]);
            high[c] = std::max<double>(high[c], x.row(i)[c]);
        }
    }
    std::vector<double> scores(lag);
    for (uint32_t i = 0; i < lag; ++i) {
        double sum = 0, squares = 0;
        for (uint32_t c = 0; c < x.d; ++c) {
            const double range = high[c] - low[c];
            const double value = range > 0 ? (x.row(first + i)[c] - low[c])/range : 0;
            sum     += value;
            squares += value*value;
        }
        scores[i] = std::sqrt(std::max(0.0, squares - sum*sum/x.d)/std::max(1u, x.d - 1));
    }
    const double highest = *std::max_element(scores.begin(), scores.end());
    for (double & each : scores) {
        each = std::exp(each - highest);
    }
    const double all = std::accumulate(scores.begin(), scores.end(), 0.0);
    for (double & each : scores) {
        each /= all;
    }
    return scores;
}

// Ranks within each chunk. The last whole chunk and what follows it are compared with nothing, and worth as much as the sinks. Where there
// is no room for all of these the sinks and the newest stay, which the paper does not say and kvpress leaves to chance.
std::vector<float> lagkv(const matrix & k, const matrix & v, uint32_t n_sinks, uint32_t lag, uint32_t n_kept) {
    const uint32_t n_chunks = k.n < n_sinks ? 0 : (k.n - n_sinks)/lag;
    if (n_chunks < 2 || n_kept < k.n - (n_chunks - 1)*lag) {
        return streaming(k.n, std::min(n_sinks, k.n));
    }
    std::vector<float> scores(k.n, 1.0f);
    for (uint32_t first = n_sinks; first + 2*(uint64_t) lag <= k.n; first += lag) {
        const auto            of_k = stand_out(k, first, lag), of_v = stand_out(v, first, lag);
        std::vector<uint32_t> order(lag);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return of_k[a] + of_v[a] < of_k[b] + of_v[b]; });
        for (uint32_t rank = 0; rank < lag; ++rank) {
            scores[first + order[rank]] = (float) rank/(float) lag;
        }
    }
    return scores;
}

// Of all but the last n_window tokens: the mean over `kernel` of them around each one, with nothing beyond the ends. The others stay.
std::vector<float> pooled(const std::vector<float> & votes, uint32_t n_window, uint32_t kernel) {
    const int64_t      n_pooled = std::max<int64_t>(0, (int64_t) votes.size() - n_window), half = kernel/2;
    std::vector<float> scores(votes.size(), INFINITY);
    for (int64_t i = 0; i < n_pooled; ++i) {
        double sum = 0;
        for (int64_t j = std::max<int64_t>(0, i - half); j < std::min(n_pooled, i + half + 1); ++j) {
            sum += votes[j];
        }
        scores[i] = (float) (sum/kernel);
    }
    return scores;
}

std::vector<float> mean(const std::vector<std::vector<float>> & heads) {
    std::vector<float> all(heads[0].size());
    for (const auto & each : heads) {
        for (size_t i = 0; i < all.size(); ++i) {
            all[i] += each[i]/(float) heads.size();
        }
    }
    return all;
}

// Whole chunks, the last of which may be shorter: as many as the share of the tokens that are to stay, and no more than these.
std::vector<uint32_t> keep_chunks(const std::vector<float> & scores, uint32_t n_kept, uint32_t length) {
    std::vector<float> of_chunks;
    for (size_t first = 0; first < scores.size(); first += length) {
        const size_t n = std::min<size_t>(length, scores.size() - first);
        of_chunks.push_back(std::accumulate(&scores[first], &scores[first] + n, 0.0f)/(float) n);
    }
    const auto rows_of = [&](uint32_t n_chunks) {
        std::vector<uint32_t> rows;
        for (const uint32_t chunk : keep_highest(of_chunks, n_chunks)) {
            for (uint64_t i = (uint64_t) chunk*length; i < std::min<uint64_t>(((uint64_t) chunk + 1)*length, scores.size()); ++i) {
                rows.push_back((uint32_t) i);
            }
        }
        return rows;
    };
    const auto n_chunks = (uint32_t) ((uint64_t) of_chunks.size()*n_kept/scores.size());
    auto       rows     = rows_of(n_chunks);
    return rows.size() <= n_kept ? rows : rows_of(n_chunks - 1); // without the shorter one
}

} // namespace

bool evict_reads_values(const kvfold_plan & plan) {
    return plan.evict == EVICT_LAGKV || plan.evict == EVICT_EXPECTED;
}

std::vector<float> of_values(const std::vector<float> & shares, const head_rows & rows, uint32_t n_sinks) {
    const matrix       v(rows.v, rows.n);
    std::vector<float> scores(rows.n, INFINITY);
    for (uint32_t i = n_sinks; i < rows.n; ++i) {
        scores[i] = shares[i]*(float) norm(v.row(i), v.d);
    }
    return scores;
}

// How much the key of each token is like those of the others: the mean of their cosines, as shares of all tokens. A token has no part
// in its own, nor in that of the newest one that is much like it, so that of many that are alike this one is not called so.
static std::vector<double> likeness(const matrix & k) {
    static constexpr float much = 0.5f;
    std::vector<float>     unit(k.data, k.data + (size_t) k.n*k.d);
    std::vector<double>    sum(k.d), like(k.n);
    for (uint32_t i = 0; i < k.n; ++i) {
        const auto scale = (float) (1/(norm(k.row(i), k.d) + 1e-8));
        for (uint32_t c = 0; c < k.d; ++c) {
            unit[(size_t) i*k.d + c] *= scale;
            sum[c] += unit[(size_t) i*k.d + c];
        }
    }
    const auto product = [&](uint32_t a, const auto & with) { return std::inner_product(with, with + k.d, &unit[(size_t) a*k.d], 0.0); };
    for (uint32_t i = 0; i < k.n; ++i) {
        like[i] += product(i, sum.data()) - product(i, &unit[(size_t) i*k.d]);
    }
    for (uint32_t i = 0; i < k.n; ++i) {
        for (uint32_t other = k.n; other-- > 0;) {
            const double cosine = other == i ? 0 : product(i, &unit[(size_t) other*k.d]);
            if (cosine > much) {
                like[other] -= cosine;
                break;
            }
        }
    }
    const double most = *std::max_element(like.begin(), like.end());
    double       all  = 0;
    for (double & each : like) {
        each = std::exp((each - most)/k.n);
        all += each;
    }
    for (double & each : like) {
        each /= all;
    }
    return like;
}

std::vector<float> of_unlike(const kvfold_plan & plan, const std::vector<float> & votes, const head_rows & rows) {
    static constexpr double attention = 0.07; // against likeness, as in the paper
    const int64_t           n    = (int64_t) rows.n - std::min(evict_queries_of(plan), rows.n), half = evict_parameter_of(plan, "kernel")/2;
    const double            sum  = std::max(std::accumulate(votes.begin(), votes.begin() + n, 0.0), 1e-12); // of as many queries and layers as voted
    const auto              like = likeness(matrix(rows.k, rows.n));
    std::vector<float>      scores(rows.n, INFINITY);
    for (int64_t i = 0; i < n; ++i) {
        const float highest = *std::max_element(votes.begin() + std::max<int64_t>(0, i - half), votes.begin() + std::min(n, i + half + 1));
        scores[i] = (float) (attention*highest/sum - (1 - attention)*like[i]);
    }
    return scores;
}

std::vector<float> evict_scores(const kvfold_plan & plan, const head_rows & rows, uint32_t n_kept) {
    const matrix k(rows.k, rows.n);
    switch (plan.evict) {
        case EVICT_KNORM:   return knorm(k);
        case EVICT_KEYDIFF: return keydiff(k);
        case EVICT_LAGKV:   return lagkv(k, matrix(rows.v, rows.n), evict_parameter_of(plan, "sinks"), evict_parameter_of(plan, "lag"), n_kept);
        default:            return streaming(rows.n, std::min(evict_parameter_of(plan, "sinks"), rows.n));
    }
}

// A token is seen by the queries of its prompt from itself on, one of an earlier prompt by all of them.
static std::vector<float> mean_of_seen(const std::vector<float> & votes, uint32_t n_prompt) {
    std::vector<float> scores(votes.size());
    for (size_t i = 0; i < votes.size(); ++i) {
        scores[i] = votes[i]/(float) std::min<size_t>(n_prompt, votes.size() - i);
    }
    return scores;
}

std::vector<std::vector<uint32_t>> choose_by_votes(
        const kvfold_plan & plan, const std::vector<std::vector<float>> & votes, uint32_t n_prompt, uint32_t n_kept) {
    std::vector<std::vector<uint32_t>> chosen;
    if (evicts_by_sums(plan)) {
        const uint32_t n_recent = evicts_by_noise(plan) ? (uint32_t) ((uint64_t) n_kept*evict_parameter_of(plan, "recency")/100) : n_kept/2;
        for (const auto & each : votes) {
            chosen.push_back(keep_highest(pooled(each, n_recent, 1), n_kept));
        }
        return chosen;
    }
    if (evicts_by_all_queries(plan)) {
        for (const auto & each : votes) {
            chosen.push_back(keep_highest(mean_of_seen(each, n_prompt), n_kept));
        }
        return chosen;
    }
    const uint32_t n_window = evict_queries_of(plan);
    if (plan.evict == EVICT_TOVA) {
        return { votes.size(), keep_highest(pooled(mean(votes), n_window, 1), n_kept) };
    }
    const uint32_t                  kernel = evict_parameter_of(plan, "kernel");
    std::vector<std::vector<float>> scores;
    for (const auto & each : votes) {
        scores.push_back(pooled(each, n_window, kernel));
    }
    if (plan.evict == EVICT_CHUNKKV && n_kept >= evict_parameter_of(plan, "chunk")) { // else there is room for none
        return { votes.size(), keep_chunks(mean(scores), n_kept, evict_parameter_of(plan, "chunk")) };
    }
    for (const auto & each : scores) {
        chosen.push_back(keep_highest(each, n_kept));
    }
    return chosen;
}

bool is_marked(const kvfold_plan & plan, float last, uint32_t n_tokens) {
    return last > 0 && (double) last + evict_queries_of(plan) > n_tokens;
}

std::vector<std::vector<uint32_t>> choose_marked(
        const kvfold_plan & plan, const std::vector<std::vector<float>> & marks, uint32_t n_tokens, uint32_t n_most) {
    enum worth : uint8_t { UNMARKED, MARKED, RECENT };
    using row = std::tuple<worth, float, uint32_t>; // how much it is worth, among those alike, and which it is

    const size_t                  n_heads = marks.size()/2, n = marks[0].size();
    const size_t                  n_recent = std::min<size_t>(n, evict_recent_of(plan));
    std::vector<std::vector<row>> rows(n_heads);
    size_t                        n_kept = 0;
    for (size_t h = 0; h < n_heads; ++h) {
        for (size_t i = 0; i < n; ++i) {
            const float last = marks[n_heads + h][i];
            const worth of   = i + n_recent >= n ? RECENT : is_marked(plan, last, n_tokens) ? MARKED : UNMARKED;
            const float more = of == MARKED ? marks[h][i] : last;
            rows[h].push_back({ of, more > 0 ? more : 0, (uint32_t) i }); // of a saved state it may be no number
        }
        const auto is_wanted = [](const row & each) { return std::get<worth>(each) != UNMARKED; };
        n_kept = std::max(n_kept, (size_t) std::count_if(rows[h].begin(), rows[h].end(), is_wanted));
    }
    n_kept = std::min<size_t>(n_kept, n_most);
    std::vector<std::vector<uint32_t>> chosen(n_heads);
    for (size_t h = 0; h < n_heads; ++h) {
        std::partial_sort(rows[h].begin(), rows[h].begin() + (ptrdiff_t) n_kept, rows[h].end(), std::greater<>());
        for (size_t i = 0; i < n_kept; ++i) {
            chosen[h].push_back(std::get<uint32_t>(rows[h][i]));
        }
        std::sort(chosen[h].begin(), chosen[h].end());
    }
    return chosen;
}

std::vector<uint32_t> keep_highest(const std::vector<float> & scores, uint32_t n_kept) {
    std::vector<uint32_t> rows(scores.size());
    std::iota(rows.begin(), rows.end(), 0);
    if (n_kept < rows.size()) {
        const auto higher = [&](uint32_t a, uint32_t b) {
            return scores[a] > scores[b] || (std::isnan(scores[a]) && !std::isnan(scores[b]));
        };
        if (64*(uint64_t) n_kept <= rows.size()) {
            std::partial_sort(rows.begin(), rows.begin() + n_kept, rows.end(), higher);
        } else {
            std::nth_element(rows.begin(), rows.begin() + n_kept - 1, rows.end(), higher);
        }
        rows.resize(n_kept);
        std::sort(rows.begin(), rows.end());
    }
    return rows;
}

} // namespace kvfold
