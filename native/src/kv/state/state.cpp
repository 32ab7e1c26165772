// The file, in the byte order of the machine:
//
//   file_head
//   fit           head.fit_bytes      text of state_fit
//   tokens        head.n_tokens * 4
//   cells         head.cells_bytes
//   checkpoints   head.n_checkpoints of: checkpoint_head, cells
//   checksum      8                   XXH3 of everything before it
//
// The checksum finds what a disk or a copy has damaged. A file that somebody made on purpose has a good one, so what
// llama.cpp would believe is checked as well: numbers of cells, their positions, and that every length fits.

#include "kv/state/state.h"

#include "kv/retention/retention.h"

#include "server-task.h"

#include "hash/hash.h"
#include "hash/xxhash/xxhash.h"
#include "llama-context.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#if defined(_WIN32)
#    include <fcntl.h>
#    include <io.h>
#    include <process.h>
#    include <sys/stat.h>
#else
#    include <fcntl.h>
#    include <sys/stat.h>
#    include <unistd.h>
#endif

namespace kvfold {

namespace fs = std::filesystem;

static constexpr char     file_magic[8]  = { 'k', 'v', 'f', 'o', 'l', 'd', 'k', 'v' };
static constexpr uint32_t file_version   = 1;
static constexpr uint32_t max_fit_bytes  = 64 * 1024;

struct file_head {
    char     magic[8];
    uint32_t version;
    uint32_t fit_bytes;
    uint32_t n_tokens;
    uint32_t n_checkpoints;
    uint64_t cells_bytes;
};

struct checkpoint_head {
    int32_t  n_tokens;
    int32_t  pos_min;
    uint64_t cells_bytes;
};

static_assert(sizeof(file_head) == 32 && sizeof(checkpoint_head) == 16, "heads have no padding");

static error bad_state(const std::string & path, const std::string & why) {
    return error(KVFOLD_ERROR_STATE, "'" + path + "': " + why).about_path(path);
}

// ---- what a state fits ------------------------------------------------------------------------------------------------

static const llama_kv_cache_iswa * windowed_cache(const llama_context * context) {
    return dynamic_cast<const llama_kv_cache_iswa *>(llama_get_memory(context));
}

// In the order in which llama.cpp writes them; empty for another kind of memory.
static std::vector<const llama_kv_cache *> caches_of(const llama_context * context) {
    if (const auto * plain = dynamic_cast<const llama_kv_cache *>(llama_get_memory(context))) {
        return { plain };
    }
    if (const auto * windowed = windowed_cache(context)) {
        return { windowed->get_base(), windowed->get_swa() };
    }
    return {};
}

const char * no_state_because(const llama_context * context) {
    const llama_hparams & hparams = llama_get_model(context)->hparams;
    if (caches_of(context).empty()) {
        return "its memory is no plain KV cache";
    }
    if (hparams.n_pos_per_embd() > 1 || hparams.ple_n_heads > 0 || hparams.is_mla()) {
        return "its cells hold more than keys and values";
    }
    return nullptr;
}

// Reading tens of gigabytes would take longer than the prefill that is to be saved. Another set of weights differs everywhere.
static void add_sample(std::string & sample, const std::string & path) {
    static constexpr uint64_t piece_bytes = 4096;
    static constexpr uint64_t n_pieces    = 256;

    std::unique_ptr<FILE, int (*)(FILE *)> file(ggml_fopen(path.c_str(), "rb"), fclose);
    std::error_code                        code;
    const uint64_t                         size = fs::file_size(fs::u8path(path), code);
    if (!file || code) {
        throw bad_state(path, "the model's file cannot be read again");
    }
    sample += std::to_string(size) + "\n";
    std::vector<char> piece(piece_bytes);
    const uint64_t    step = std::max(piece_bytes, size / n_pieces);
    for (uint64_t at = 0; at < size; at += step) {
#if defined(_WIN32)
        _fseeki64(file.get(), (int64_t) at, SEEK_SET);
#else
        fseeko(file.get(), (off_t) at, SEEK_SET);
#endif
        sample.append(piece.data(), fread(piece.data(), 1, piece.size(), file.get()));
    }
}

state_fit describe_fit(const llama_context * context, const std::vector<std::string> & model_files) {
    const llama_model *   model   = llama_get_model(context);
    const llama_cparams & cparams = context->get_cparams();
    const kvfold_plan &   plan    = model->hparams.kv_plan;
    const auto            caches  = caches_of(context);

    std::string sample;
    for (const std::string & path : model_files) {
        add_sample(sample, path);
    }
    state_fit fit;
    auto      add = [&](const char * name, const std::string & value) { fit.text += std::string(name) + "=" + value + "\n"; };
    add("model", hash_sha256_hex(sample.data(), sample.size()));
    add("kv-plan", plan.active() ? plan.str() : "standard");
    add("kv-prefill", std::to_string(plan.upward() ? cparams.kv_prefill : 0));
    for (const llama_kv_cache * cache : caches) {
        const auto layers = cache->get_layer_ids(); // none where the other cache has them all
        if (!layers.empty()) {
            add("cache-type-k", ggml_type_name(cache->get_k_storage(layers.front())->type));
            add("cache-type-v", ggml_type_name(cache->get_v_storage(layers.front())->type));
        }
    }
    add("flash-attn", cparams.flash_attn ? "on" : "off"); // values are stored transposed without it
    add("streams", std::to_string(caches.front()->get_n_stream()));
    add("rope-freq-base", std::to_string(cparams.rope_freq_base));
    add("rope-freq-scale", std::to_string(cparams.rope_freq_scale));
    add("yarn", std::to_string(cparams.n_ctx_orig_yarn) + " " + std::to_string(cparams.yarn_ext_factor) + " " +
                    std::to_string(cparams.yarn_attn_factor) + " " + std::to_string(cparams.yarn_beta_fast) + " " +
                    std::to_string(cparams.yarn_beta_slow));
    return fit;
}

// The first line that differs, in words.
static std::string difference(const std::string & saved, const std::string & own) {
    auto line_at = [](const std::string & text, size_t at) { return text.substr(at, text.find('\n', at) - at); };
    size_t at = 0;
    while (at < own.size() && at < saved.size()) {
        const std::string mine = line_at(own, at), theirs = line_at(saved, at);
        if (mine != theirs) {
            const size_t equals = mine.find('=');
            if (theirs.compare(0, equals + 1, mine, 0, equals + 1) != 0) {
                break;
            }
            return "it was saved with " + mine.substr(0, equals) + " '" + theirs.substr(equals + 1) + "', this engine has '" +
                   mine.substr(equals + 1) + "'";
        }
        at += mine.size() + 1;
    }
    return "it was saved by another version of this library";
}

// ---- cells ------------------------------------------------------------------------------------------------------------

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

// Each position once, up to the newest, with a gap only between sinks and window.
static void check_positions(cells_walk & walk, uint32_t count, uint32_t n_tokens, uint32_t n_sinks) {
    std::vector<llama_pos> positions;
    for (uint32_t i = 0; i < count; i++) {
        positions.push_back(walk.number<llama_pos>());
        expect("sequences in a cell", walk.number<uint32_t>(), 1);
        walk.skip(sizeof(llama_seq_id));
    }
    std::sort(positions.begin(), positions.end());
    int64_t next = n_tokens; // from the newest down
    for (auto at = positions.rbegin(); at != positions.rend(); ++at) {
        const bool follows = *at == next - 1 || (*at < next - 1 && *at >= 0 && *at < (int64_t) n_sinks && next < n_tokens);
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

static void check_cache(cells_walk & walk, const cache_shape & shape, uint32_t n_tokens) {
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
        if (found || count > std::min(n_tokens, shape.max_cells) || (!shape.windowed && count != n_tokens)) {
            throw std::runtime_error("it has " + std::to_string(count) + " cells for " + std::to_string(n_tokens) + " tokens");
        }
        found = true;
        check_positions(walk, count, n_tokens, shape.n_sinks);
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
    if (walk.number<uint32_t>() > 1) {
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
    if (found.n_decisive < 0 || found.n_decisive > (llama_pos) n_tokens || (found.n_decisive > 0) != any) {
        throw std::runtime_error("it says that " + std::to_string(found.n_decisive) + " tokens decided its lazy layers");
    }
    return found;
}

static lazy_layers check_cells(
        const std::vector<uint8_t> & cells, const kvfold_plan & plan, const std::vector<cache_shape> & shapes, uint32_t n_tokens) {
    cells_walk walk{ cells.data(), cells.data() + cells.size() };
    walk.skip(sizeof(uint32_t) + sizeof(llama_seq_id)); // a magic number, which llama.cpp compares, and the slot it was in
    const lazy_layers lazy = check_lazy_layers(walk, plan, n_tokens);
    for (const auto & shape : shapes) {
        check_cache(walk, shape, n_tokens);
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

// Throws std::runtime_error.
static void check_state(const kv_state & state, const llama_context * context) {
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

kv_state take_state(llama_context * context, int id_slot, const server_prompt & prompt) {
    kv_state state;
    state.tokens = prompt.tokens.get_tokens();
    state.cells.resize(llama_state_seq_get_size_ext(context, id_slot, LLAMA_STATE_SEQ_FLAGS_NONE));
    const size_t written =
        llama_state_seq_get_data_ext(context, state.cells.data(), state.cells.size(), id_slot, LLAMA_STATE_SEQ_FLAGS_NONE);
    const auto &    retention  = caches_of(context).front()->retention;
    const llama_pos n_decisive = retention ? retention->n_decisive(id_slot) : 0;
    for (const auto & each : prompt.checkpoints) {
        if (each.pos_max + 1 == each.n_tokens && each.n_tokens >= n_decisive) {
            state.checkpoints.push_back({ (int32_t) each.n_tokens, each.pos_min, each.data_tgt });
        }
    }
    try {
        if (written != state.cells.size()) {
            throw std::runtime_error("llama.cpp could not copy it");
        }
        check_state(state, context);
    } catch (const std::runtime_error & e) {
        throw error(KVFOLD_ERROR_STATE, std::string("the KV state of the conversation cannot be kept: ") + e.what());
    }
    return state;
}

bool put_state(llama_context * context, int id_slot, server_prompt & prompt, const kv_state & state) {
    llama_memory_t memory = llama_get_memory(context);
    prompt.clear();
    llama_memory_seq_rm(memory, id_slot, -1, -1);
    const size_t read =
        llama_state_seq_set_data_ext(context, state.cells.data(), state.cells.size(), id_slot, LLAMA_STATE_SEQ_FLAGS_NONE);
    if (read != state.cells.size() || llama_memory_seq_pos_max(memory, id_slot) != (llama_pos) state.tokens.size() - 1) {
        llama_memory_seq_rm(memory, id_slot, -1, -1);
        return false;
    }
    prompt.tokens = server_tokens(state.tokens, prompt.tokens.has_mtmd);
    for (const auto & each : state.checkpoints) {
        common_prompt_checkpoint & restored = prompt.checkpoints.emplace_back();
        restored.update_pos(each.n_tokens, each.pos_min, each.n_tokens - 1);
        restored.data_tgt = each.cells;
    }
    return true;
}

// ---- the file ---------------------------------------------------------------------------------------------------------

// Exclusive, and for the owner's eyes: the tokens are the conversation.
static FILE * create(const std::string & path) {
#if defined(_WIN32)
    const int descriptor = _wopen(fs::u8path(path).c_str(), _O_WRONLY | _O_CREAT | _O_EXCL | _O_BINARY, _S_IREAD | _S_IWRITE);
    return descriptor < 0 ? nullptr : _fdopen(descriptor, "wb");
#else
    const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return descriptor < 0 ? nullptr : fdopen(descriptor, "wb");
#endif
}

static bool flush_to_disk(FILE * file) {
#if defined(_WIN32)
    return fflush(file) == 0 && _commit(_fileno(file)) == 0;
#else
    return fflush(file) == 0 && fsync(fileno(file)) == 0;
#endif
}

static std::string beside(const std::string & path) {
    static std::atomic<uint32_t> counter{ 0 };
#if defined(_WIN32)
    const int process = _getpid();
#else
    const int process = (int) getpid();
#endif
    return path + "." + std::to_string(process) + "-" + std::to_string(counter++) + ".partial";
}

void write_state(const std::string & path, const state_fit & fit, const kv_state & state) {
    file_head head;
    std::memcpy(head.magic, file_magic, sizeof(file_magic));
    head.version     = file_version;
    head.fit_bytes   = (uint32_t) fit.text.size();
    head.n_tokens    = (uint32_t) state.tokens.size();
    head.n_checkpoints = (uint32_t) state.checkpoints.size();
    head.cells_bytes   = state.cells.size();

    const std::string                                    partial = beside(path);
    std::unique_ptr<FILE, int (*)(FILE *)>               file(create(partial), fclose);
    std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t *)> hash(XXH3_createState(), XXH3_freeState);
    if (!file) {
        throw bad_state(path, std::string("cannot be written: ") + std::strerror(errno));
    }
    XXH3_64bits_reset(hash.get());
    bool       written = true;
    const auto write   = [&](const void * bytes, size_t size) {
        written = written && fwrite(bytes, 1, size, file.get()) == size;
        XXH3_64bits_update(hash.get(), bytes, size);
    };
    write(&head, sizeof(head));
    write(fit.text.data(), fit.text.size());
    write(state.tokens.data(), state.tokens.size() * sizeof(llama_token));
    write(state.cells.data(), state.cells.size());
    for (const auto & each : state.checkpoints) {
        const checkpoint_head part{ each.n_tokens, each.pos_min, each.cells.size() };
        write(&part, sizeof(part));
        write(each.cells.data(), each.cells.size());
    }
    const uint64_t checksum = XXH3_64bits_digest(hash.get());
    write(&checksum, sizeof(checksum));

    written           = written && flush_to_disk(file.get());
    std::string cause = written ? "" : std::strerror(errno);
    written           = fclose(file.release()) == 0 && written;
    std::error_code code;
    if (written) {
        fs::rename(fs::u8path(partial), fs::u8path(path), code);
        if (!code) {
            return;
        }
        cause = code.message();
    }
    fs::remove(fs::u8path(partial), code);
    throw bad_state(path, "cannot be written: " + cause);
}

static uint64_t size_of(FILE * file) {
#if defined(_WIN32)
    struct _stat64 status;
    return _fstat64(_fileno(file), &status) == 0 ? (uint64_t) status.st_size : 0;
#else
    struct stat status;
    return fstat(fileno(file), &status) == 0 ? (uint64_t) status.st_size : 0;
#endif
}

struct file_reader {
    const std::string &                    path;
    std::unique_ptr<FILE, int (*)(FILE *)> file;
    XXH3_state_t *                         hash;

    void read(void * bytes, size_t size) {
        if (fread(bytes, 1, size, file.get()) != size) {
            throw bad_state(path, "it is cut off, or cannot be read");
        }
        XXH3_64bits_update(hash, bytes, size);
    }
};

kv_state read_state(const std::string & path, const state_fit & fit, const llama_context * context, uint32_t max_tokens) {
    std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t *)> hash(XXH3_createState(), XXH3_freeState);
    XXH3_64bits_reset(hash.get());
    std::error_code code;
    const bool      is_file = fs::is_regular_file(fs::u8path(path), code); // a pipe would wait for a writer
    file_reader     in{ path, { is_file ? ggml_fopen(path.c_str(), "rb") : nullptr, fclose }, hash.get() };
    if (!in.file) {
        throw bad_state(path, "it cannot be read");
    }
    const uint64_t size = size_of(in.file.get()); // not of the path, where another state may be by now
    file_head head;
    in.read(&head, sizeof(head));
    if (std::memcmp(head.magic, file_magic, sizeof(file_magic)) != 0) {
        throw bad_state(path, "it is no saved KV state");
    }
    if (head.version != file_version) {
        throw bad_state(path, "it has version " + std::to_string(head.version) + ", this library reads version " + std::to_string(file_version))
            .compares(head.version, file_version);
    }
    if (head.fit_bytes > max_fit_bytes) {
        throw bad_state(path, "its head is damaged");
    }
    std::string saved(head.fit_bytes, '\0');
    in.read(saved.data(), saved.size());
    if (saved != fit.text) {
        throw bad_state(path, difference(saved, fit.text));
    }
    if (head.n_tokens > max_tokens) {
        throw bad_state(path, "it has " + std::to_string(head.n_tokens) + " tokens but a slot holds " + std::to_string(max_tokens))
            .compares(head.n_tokens, max_tokens);
    }
    // what is left of the file; nothing that it promises is allocated before it is known to be there
    uint64_t   left   = size - std::min<uint64_t>(size, sizeof(head) + head.fit_bytes + sizeof(uint64_t));
    const auto demand = [&](uint64_t bytes) {
        if (bytes > left) {
            throw bad_state(path, "it is cut off: " + std::to_string(bytes) + " bytes should follow, " + std::to_string(left) + " do")
                .compares((int64_t) left, (int64_t) std::min<uint64_t>(bytes, INT64_MAX));
        }
        left -= bytes;
        return bytes;
    };
    kv_state state;
    state.tokens.resize(demand(head.n_tokens * sizeof(llama_token)) / sizeof(llama_token));
    in.read(state.tokens.data(), head.n_tokens * sizeof(llama_token));
    state.cells.resize(demand(head.cells_bytes));
    in.read(state.cells.data(), state.cells.size());
    for (uint32_t i = 0; i < head.n_checkpoints; i++) {
        checkpoint_head part;
        in.read(&part, demand(sizeof(part)));
        auto & each = state.checkpoints.emplace_back(kv_state::checkpoint{ part.n_tokens, part.pos_min, {} });
        each.cells.resize(demand(part.cells_bytes));
        in.read(each.cells.data(), each.cells.size());
    }
    const uint64_t checksum = XXH3_64bits_digest(hash.get());
    uint64_t       stored   = 0;
    in.read(&stored, sizeof(stored));
    if (stored != checksum || left != 0) {
        throw bad_state(path, "it is damaged: its checksum is wrong");
    }
    try {
        check_state(state, context);
    } catch (const std::runtime_error & e) {
        throw bad_state(path, e.what());
    }
    return state;
}

} // namespace kvfold
