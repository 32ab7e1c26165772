#include "kv/eviction/expected.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace kvfold {

void query_moments::add(const float * queries, size_t n_more, uint32_t n_heads, uint32_t size) {
    if (n_more == 0) {
        return;
    }
    const size_t width = (size_t) n_heads*size;
    if (n == 0) {
        n_embd = size;
        origin.assign(queries, queries + width);
        sums.assign(width, 0.0f);
        products.assign(width*size, 0.0f);
    }
    n += n_more;
    std::vector<float> x(size);
    for (uint32_t h = 0; h < n_heads; ++h) {
        const float * from = &origin[(size_t) h*size];
        float *       sum  = &sums[(size_t) h*size];
        for (size_t q = 0; q < n_more; ++q) {
            const float * query = queries + q*width + (size_t) h*size;
            for (uint32_t i = 0; i < size; ++i) {
                x[i]    = query[i] - from[i];
                sum[i] += x[i];
            }
            for (uint32_t i = 0; i < size; ++i) {
                float * row = &products[((size_t) h*size + i)*size];
                for (uint32_t j = 0; j <= i; ++j) {
                    row[j] += x[i]*x[j];
                }
            }
        }
    }
}

std::vector<float> query_moments::mean(uint32_t head) const {
    std::vector<float> values(n_embd);
    for (uint32_t i = 0; i < n_embd; ++i) {
        const size_t at = (size_t) head*n_embd + i;
        values[i] = origin[at] + sums[at]/(float) n;
    }
    return values;
}

std::vector<float> query_moments::covariance(uint32_t head) const {
    const float *      sum = &sums[(size_t) head*n_embd];
    std::vector<float> values((size_t) n_embd*n_embd);
    for (uint32_t i = 0; i < n_embd; ++i) {
        for (uint32_t j = 0; j <= i; ++j) {
            const double product = products[((size_t) head*n_embd + i)*n_embd + j];
            const double value   = product/(double) n - (double) sum[i]/(double) n*(sum[j]/(double) n);
            values[(size_t) i*n_embd + j] = values[(size_t) j*n_embd + i] = (float) value;
        }
    }
    return values;
}

rotation::rotation(const ggml_tensor & rope) : parameters(sizeof(rope.op_params)) {
    std::memcpy(parameters.data(), rope.op_params, parameters.size());
    if (const ggml_tensor * of = rope.src[2]) {
        factors.resize(ggml_nelements(of));
        ggml_backend_tensor_get(of, factors.data(), 0, ggml_nbytes(of));
    }
}

// Of a few positions at a time, since of each one every unit vector is turned.
std::vector<float> rotation::mean(uint32_t n_embd, int32_t first, uint32_t n) const {
    static constexpr uint32_t at_once = 16;
    const size_t              size    = (size_t) n_embd*n_embd;
    std::vector<float>        turn(size);
    if (parameters.empty()) {
        for (uint32_t i = 0; i < n_embd; ++i) {
            turn[(size_t) i*n_embd + i] = 1;
        }
        return turn;
    }
    for (uint32_t done = 0; done < n; done += at_once) {
        const uint32_t         n_now = std::min(at_once, n - done);
        const ggml_context_ptr ctx { ggml_init({ 3*size*n_now*sizeof(float) + (size_t(1) << 20), nullptr, false }) };
        ggml_tensor *          unit  = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, n_embd, n_embd, n_now);
        ggml_tensor *          at    = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n_now);
        ggml_tensor *          by    = nullptr;
        if (!factors.empty()) {
            by = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, (int64_t) factors.size());
            std::memcpy(by->data, factors.data(), ggml_nbytes(by));
        }
        ggml_set_zero(unit);
        for (uint32_t p = 0; p < n_now; ++p) {
            ((int32_t *) at->data)[p] = first + (int32_t) (done + p);
            for (uint32_t i = 0; i < n_embd; ++i) {
                ((float *) unit->data)[p*size + (size_t) i*n_embd + i] = 1;
            }
        }
        const auto    parameter = [&](size_t i) { int32_t value; std::memcpy(&value, &parameters[i*sizeof(value)], sizeof(value)); return value; };
        ggml_tensor * turned    = ggml_rope_ext(ctx.get(), unit, at, by, parameter(1), parameter(2), 0, 1, 1, 0, 1, 0, 0);
        std::memcpy(turned->op_params, parameters.data(), parameters.size());
        ggml_cgraph * graph = ggml_new_graph(ctx.get());
        ggml_build_forward_expand(graph, turned);
        ggml_graph_compute_with_ctx(ctx.get(), graph, 1);
        for (uint32_t p = 0; p < n_now; ++p) {
            const float * of = (const float *) turned->data + p*size; // unit vector j has become row j
            for (uint32_t j = 0; j < n_embd; ++j) {
                for (uint32_t i = 0; i < n_embd; ++i) {
                    turn[(size_t) i*n_embd + j] += of[(size_t) j*n_embd + i]/(float) n;
                }
            }
        }
    }
    return turn;
}

// [rows][n] x [m][n], transposed
static std::vector<float> times_transposed(const std::vector<float> & a, const std::vector<float> & b, size_t n) {
    const size_t       rows = a.size()/n, m = b.size()/n;
    std::vector<float> product(rows*m);
    for (size_t i = 0; i < rows; ++i) {
        for (size_t j = 0; j < m; ++j) {
            product[i*m + j] = std::inner_product(&a[i*n], &a[i*n] + n, &b[j*n], 0.0f);
        }
    }
    return product;
}

std::vector<float> expected_attention(
        const std::vector<float> & mean, const std::vector<float> & covariance, const std::vector<float> & turn, const std::vector<float> & keys,
        uint32_t n_sinks, float scale) {
    const size_t             d = mean.size(), n = keys.size()/d;
    const std::vector<float> m = times_transposed(mean, turn, d);
    const std::vector<float> c = times_transposed(turn, times_transposed(turn, covariance, d), d); // which is symmetric
    std::vector<float>       shares(n);
    float                    highest = -INFINITY;
    std::vector<float>       ck(d);
    for (size_t i = n_sinks; i < n; ++i) {
        const float * k = &keys[i*d];
        std::fill(ck.begin(), ck.end(), 0.0f);
        for (size_t row = 0; row < d; ++row) {
            for (size_t j = 0; j < d; ++j) {
                ck[j] += k[row]*c[row*d + j];
            }
        }
        shares[i] = std::inner_product(k, k + d, m.begin(), 0.0f)*scale + std::inner_product(k, k + d, ck.begin(), 0.0f)*scale*scale/2;
        highest   = std::max(highest, shares[i]);
    }
    double sum = 0;
    for (size_t i = n_sinks; i < n; ++i) {
        shares[i] = std::exp(shares[i] - highest);
        sum      += shares[i];
    }
    for (size_t i = n_sinks; i < n; ++i) {
        shares[i] = (float) (shares[i]/sum);
    }
    return shares;
}

} // namespace kvfold
