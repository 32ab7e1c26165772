#include "attention/attention.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

namespace kvfold::attention {

// the last of a node's parameters, of which flash_attn_ext uses five
static constexpr size_t mark_index = GGML_MAX_OP_PARAMS/sizeof(int32_t) - 1;

static bool is_marked(const ggml_tensor & op) {
    int32_t mark;
    memcpy(&mark, (const char *) op.op_params + mark_index*sizeof(mark), sizeof(mark));
    return mark != 0;
}

void mark(ggml_tensor & op, bool takes_over) {
    const int32_t mark = takes_over;
    memcpy((char *) op.op_params + mark_index*sizeof(mark), &mark, sizeof(mark));
}

// ---- kernels

const std::vector<const kernel *> & usable_kernels() {
    static const std::vector<const kernel *> list = [] {
        std::vector<const kernel *> usable;
#if defined(__GNUC__)
#    if defined(__x86_64__)
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl")) {
            usable.push_back(&avx512_kernel);
        }
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) { // no processor has AVX2 and not F16C
            usable.push_back(&avx2_kernel);
        }
#    elif defined(__aarch64__)
        usable.push_back(&neon_kernel);
#    endif
        usable.push_back(&portable_kernel);
#endif
        return usable;
    }();
    return list;
}

static const kernel *& chosen() {
    static const kernel * kernel = usable_kernels().empty() ? nullptr : usable_kernels().front();
    return kernel;
}

const kernel * chosen_kernel() {
    return chosen();
}

void choose_kernel(const kernel * kernel) {
    chosen() = kernel;
}

// ---- operands

static std::optional<storage> storage_of(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:    return storage::f32;
        case GGML_TYPE_F16:    return storage::f16;
        case GGML_TYPE_BF16:   return storage::bf16;
        case GGML_TYPE_Q8_0:   return storage::q8_0;
        case GGML_TYPE_Q5_1:   return storage::q5_1;
        case GGML_TYPE_Q5_0:   return storage::q5_0;
        case GGML_TYPE_Q4_1:   return storage::q4_1;
        case GGML_TYPE_Q4_0:   return storage::q4_0;
        case GGML_TYPE_IQ4_NL: return storage::iq4_nl;
        default:               return std::nullopt;
    }
}

static bool readable(const ggml_tensor & t) {
    return storage_of(t.type) && t.nb[0] == ggml_type_size(t.type) && t.ne[0]%ggml_blck_size(t.type) == 0;
}

bool takes_over(const ggml_tensor & op) {
    if (!chosen() || !is_marked(op)) {
        return false;
    }
    const ggml_tensor & q = *op.src[0], & k = *op.src[1], & v = *op.src[2];
    const ggml_tensor * mask = op.src[3];
    return q.type == GGML_TYPE_F32 && q.nb[0] == sizeof(float) && readable(k) && readable(v) && op.type == GGML_TYPE_F32 &&
           ggml_is_contiguous(&op) && ggml_nelements(&op) > 0 && k.ne[1] > 0 && k.ne[1] == v.ne[1] && k.ne[2] == v.ne[2] &&
           k.ne[3] == q.ne[3] && v.ne[3] == q.ne[3] && q.ne[2]%k.ne[2] == 0 &&
           (!mask || (mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(ggml_fp16_t) && mask->ne[0] >= k.ne[1]));
}

float operands::slope(int64_t head) const {
    const uint32_t n_head_log2 = 1u << (uint32_t) std::floor(std::log2((uint32_t) n_heads));
    const float    m0          = std::pow(2.0f, -max_bias/n_head_log2);
    const float    m1          = std::pow(2.0f, -(max_bias/2.0f)/n_head_log2);
    return head < n_head_log2 ? std::pow(m0, (float) (head + 1)) : std::pow(m1, (float) (2*(head - n_head_log2) + 1));
}

static rows rows_of(const ggml_tensor & t) {
    return { (const char *) t.data, t.nb[1], t.nb[2], t.nb[3] };
}

static float parameter(const ggml_tensor & op, int index) {
    float value;
    memcpy(&value, (const char *) op.op_params + index*sizeof(value), sizeof(value));
    return value;
}

static operands operands_of(const ggml_tensor & op) {
    const ggml_tensor & q = *op.src[0], & k = *op.src[1], & v = *op.src[2];
    const ggml_tensor * mask = op.src[3];

    operands o = {};
    o.q              = rows_of(q);
    o.k              = rows_of(k);
    o.v              = rows_of(v);
    o.mask           = mask ? rows_of(*mask) : rows();
    o.sinks          = op.src[4] ? (const float *) op.src[4]->data : nullptr;
    o.out            = (float *) op.data;
    o.k_type         = *storage_of(k.type);
    o.v_type         = *storage_of(v.type);
    o.d_k            = k.ne[0];
    o.d_v            = v.ne[0];
    o.n_tokens       = q.ne[1];
    o.n_kv           = k.ne[1];
    o.n_heads        = q.ne[2];
    o.n_kv_heads     = k.ne[2];
    o.n_streams      = q.ne[3];
    o.n_masks        = mask ? mask->ne[2] : 1;
    o.n_mask_streams = mask ? mask->ne[3] : 1;
    o.scale          = parameter(op, 0);
    o.max_bias       = parameter(op, 1);
    o.softcap        = parameter(op, 2);
    return o;
}

// ---- who computes what

// Query rows that stay in a core's second-level cache with their results, so that a tile is looked at once for all of them.
static constexpr int64_t resident_bytes = 1 << 20;

// Query rows of a KV head that a tile is brought into F32 for, where there are many.
static constexpr int64_t rows_per_block = 256;

// Tiles below which heads are divided rather than tiles: dividing tiles costs a barrier and a merge.
static constexpr int64_t few_tiles = 16;

struct schedule {
    // Decode and small batches: all rows go over the tiles together, which are divided into parts, and so are KV heads.
    // Otherwise: blocks of tokens of a KV head, which threads take one by one, over all tiles.
    bool    resident        = false;
    bool    whole_streams   = false; // each thread has streams of its own
    int64_t tile_parts      = 1;
    int64_t head_parts      = 1;
    int64_t tiles_per_turn  = 1;
    int64_t tokens_per_block = 1;

    size_t scratch_bytes = 0; // per thread
    size_t parts_bytes   = 0;

    int64_t heads_of_part(const operands & op, int64_t part, int64_t & first) const {
        first = op.n_kv_heads*part/head_parts;
        return op.n_kv_heads*(part + 1)/head_parts - first;
    }
};

static constexpr size_t cache_line = 64;

static size_t in_lines(size_t floats) {
    return (floats*sizeof(float) + cache_line - 1)/cache_line*cache_line;
}

static schedule schedule_for(const kernel & kernel, const operands & op, int64_t n_threads) {
    schedule s;
    const int64_t row_bytes = (op.d_k + op.d_v)*(int64_t) sizeof(float);
    s.resident = op.n_tokens == 1 || op.n_tokens*op.n_heads*row_bytes <= resident_bytes;
    if (s.resident) {
        s.tokens_per_block = op.n_tokens;
        s.whole_streams    = op.n_streams%n_threads == 0;
        if (!s.whole_streams) {
            const int64_t head_threads = std::min(op.n_kv_heads, n_threads);
            if (op.n_tiles() < few_tiles && op.n_kv_heads%head_threads == 0) {
                s.head_parts = head_threads;
                s.tile_parts = std::clamp<int64_t>(n_threads/s.head_parts, 1, op.n_tiles());
            } else {
                s.tile_parts = std::min(n_threads, op.n_tiles());
                s.head_parts = std::clamp<int64_t>(n_threads/s.tile_parts, 1, op.n_kv_heads);
            }
            s.tiles_per_turn = std::clamp<int64_t>(op.n_tiles()/(s.tile_parts*4), 1, 4);
        }
    } else {
        s.tokens_per_block = std::clamp<int64_t>(rows_per_block/op.group(), 1, op.n_tokens);
        const auto n_items = [&] { return op.n_streams*op.n_kv_heads*((op.n_tokens + s.tokens_per_block - 1)/s.tokens_per_block); };
        while (n_items() < 4*n_threads && s.tokens_per_block > 1 && s.tokens_per_block*op.group() > 32) {
            s.tokens_per_block = (s.tokens_per_block + 1)/2;
        }
    }
    const int64_t n_kv_heads = s.resident ? (op.n_kv_heads + s.head_parts - 1)/s.head_parts : 1;
    s.scratch_bytes = in_lines(kernel.scratch_floats(op, s.tokens_per_block, n_kv_heads));
    s.parts_bytes   = in_lines(partials::floats(op, s.tile_parts));
    return s;
}

size_t work_size(const ggml_tensor & op, int n_threads) {
    if (!takes_over(op)) {
        return 0;
    }
    // a pool may turn out to have fewer threads than the graph was planned for
    size_t most = 0;
    for (int n = 1; n <= n_threads; n++) {
        const schedule s = schedule_for(*chosen(), operands_of(op), n);
        most = std::max(most, n*s.scratch_bytes + s.parts_bytes + cache_line);
    }
    return most;
}

static void compute_resident(const kernel & kernel, const operands & op, const schedule & s, const team & team, float * scratch, const partials & parts) {
    if (s.whole_streams) {
        for (int64_t stream = team.index; stream < op.n_streams; stream += team.size) {
            kernel.attend(op, { stream, 0, op.n_tokens, 0, op.n_kv_heads, 0, 1, 1 }, scratch, parts);
        }
        return;
    }
    if (team.index < s.tile_parts*s.head_parts) {
        for (int64_t stream = 0; stream < op.n_streams; stream++) {
            item what = { stream, 0, op.n_tokens, 0, 0, team.index%s.tile_parts, s.tile_parts, s.tiles_per_turn };
            what.n_kv_heads = s.heads_of_part(op, team.index/s.tile_parts, what.first_kv_head);
            kernel.attend(op, what, scratch, parts);
        }
    }
    if (s.tile_parts > 1) {
        team.barrier(team.pool);
        const int64_t n_rows = op.n_streams*op.n_tokens*op.n_heads;
        for (int64_t row = n_rows*team.index/team.size; row < n_rows*(team.index + 1)/team.size; row++) {
            kernel.merge(op, row, s.tile_parts, scratch, parts);
        }
    }
}

static void compute_blocks(const kernel & kernel, const operands & op, const schedule & s, const team & team, float * scratch) {
    if (team.index == 0) {
        team.set_next(team.pool, team.size);
    }
    team.barrier(team.pool);
    const int64_t n_blocks = (op.n_tokens + s.tokens_per_block - 1)/s.tokens_per_block;
    const int64_t n_items  = op.n_streams*op.n_kv_heads*n_blocks;
    for (int64_t i = team.index; i < n_items; i = team.take_next(team.pool)) {
        // the last blocks see most, and go first
        const int64_t block   = n_blocks - 1 - i/(op.n_streams*op.n_kv_heads);
        const int64_t kv_head = i%op.n_kv_heads, stream = i/op.n_kv_heads%op.n_streams;
        const int64_t first   = block*s.tokens_per_block;
        const item    what    = { stream, first, std::min(s.tokens_per_block, op.n_tokens - first), kv_head, 1, 0, 1, 1 };
        kernel.attend(op, what, scratch, {});
    }
}

bool compute(const ggml_tensor & tensor, const team & team, void * work, size_t work_bytes) {
    const operands op = operands_of(tensor);
    const schedule s  = schedule_for(*chosen(), op, team.size);
    if (team.size*s.scratch_bytes + s.parts_bytes + cache_line > work_bytes) {
        return false;
    }
    char * const   lines   = (char *) (((uintptr_t) work + cache_line - 1)/cache_line*cache_line);
    float * const  scratch = (float *) (lines + team.index*s.scratch_bytes);
    const partials parts   = { (float *) (lines + team.size*s.scratch_bytes) };
    if (s.resident) {
        compute_resident(*chosen(), op, s, team, scratch, parts);
    } else {
        compute_blocks(*chosen(), op, s, team, scratch);
    }
    return true;
}

} // namespace kvfold::attention
