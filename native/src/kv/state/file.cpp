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

#include "kv/state/account.h"
#include "kv/state/check.h"
#include "kv/state/fit.h"
#include "kv/state/state.h"

#include "ggml.h"
#include "hash/xxhash/xxhash.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

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

written_state::written_state(written_state && other) noexcept
    : partial(std::exchange(other.partial, {})), path(std::move(other.path)) {}

written_state::~written_state() {
    if (!partial.empty()) {
        std::error_code code;
        fs::remove(fs::u8path(partial), code);
    }
}

void written_state::publish() {
    std::error_code code;
    fs::rename(fs::u8path(partial), fs::u8path(path), code);
    if (code) {
        throw bad_state(path, "cannot be written: " + code.message());
    }
    partial.clear();
}

written_state write_state(const std::string & path, const state_fit & fit, const kv_state & state) {
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
    written_state made(partial, path);
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
    if (fclose(file.release()) != 0 && written) {
        cause = std::strerror(errno);
    }
    if (!cause.empty()) {
        throw bad_state(path, "cannot be written: " + cause);
    }
    return made;
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

std::optional<kv_state> read_state(
        const std::string & path, const state_fit & fit, const llama_context * context, uint32_t max_tokens,
        const std::function<bool()> & make_room) {
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
    while (!(state.charged = charge_state(left))) {
        if (!make_room()) {
            return std::nullopt;
        }
    }
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
