#include "kv/state/swap.h"

#include "kv/eviction/evictor.h"
#include "kv/memory/folded_memory.h"
#include "kv/retention/retention.h"
#include "kv/state/fit.h"
#include "kv/state/state.h"
#include "process/error.h"

#include "ggml-backend.h"
#include "llama-io.h"
#include "llama-kv-cache.h"
#include "llama-memory.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include <fcntl.h>
#if defined(_WIN32)
#    include <io.h>
#    include <process.h>
#    include <sys/stat.h>
#else
#    include <unistd.h>
#endif

namespace kvfold {

static constexpr size_t piece_bytes = 1u << 20;

// For the owner's eyes. Null, and errno, if it cannot be made.
static FILE * nameless_file(const std::string & folder) {
    static std::atomic<uint32_t> counter{ 0 };
#if defined(_WIN32)
    const int process = _getpid();
#else
    const int process = (int) getpid();
#endif
    const std::string           name = "kvfold-" + std::to_string(process) + "-" + std::to_string(counter++) + ".swap";
    const std::filesystem::path path = std::filesystem::u8path(folder)/name;
#if defined(_WIN32)
    const int descriptor = _wopen(path.c_str(), _O_RDWR | _O_CREAT | _O_EXCL | _O_BINARY | _O_TEMPORARY, _S_IREAD | _S_IWRITE);
    return descriptor < 0 ? nullptr : _fdopen(descriptor, "w+b");
#else
    const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (descriptor < 0) {
        return nullptr;
    }
    unlink(path.c_str());
    return fdopen(descriptor, "w+b");
#endif
}

namespace {

class file_writer : public llama_io_write_i {
public:
    explicit file_writer(FILE * file) : file(file) {}

    void write(const void * bytes, size_t size) override {
        if (fwrite(bytes, 1, size, file) != size) {
            throw swap_error(std::strerror(errno));
        }
        n_written += size;
    }

    void write_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        for (size_t done = 0; done < size;) {
            piece.resize(std::min(piece_bytes, size - done));
            ggml_backend_tensor_get(tensor, piece.data(), offset + done, piece.size());
            write(piece.data(), piece.size());
            done += piece.size();
        }
    }

    size_t n_bytes() override { return n_written; }

private:
    FILE * const         file;
    std::vector<uint8_t> piece;
    size_t               n_written = 0;
};

class file_reader : public llama_io_read_i {
public:
    explicit file_reader(FILE * file) : file(file) {}

    void read(void * bytes, size_t size) override {
        if (fread(bytes, 1, size, file) != size) {
            throw swap_error(ferror(file) ? std::strerror(errno) : "the file is cut off");
        }
        n_read += size;
    }

    void read_tensor(ggml_tensor * tensor, size_t offset, size_t size) override {
        for (size_t done = 0; done < size;) {
            piece.resize(std::min(piece_bytes, size - done));
            read(piece.data(), piece.size());
            ggml_backend_tensor_set(tensor, piece.data(), offset + done, piece.size());
            done += piece.size();
        }
    }

    size_t n_bytes() override { return n_read; }

private:
    FILE * const         file;
    std::vector<uint8_t> piece;
    size_t               n_read = 0;
};

} // namespace

swap_folder::swap_folder(std::string folder) : path(std::move(folder)) {
    if (path.empty()) {
        return;
    }
    const std::unique_ptr<FILE, int (*)(FILE *)> file(nameless_file(path), fclose);
    if (!file) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "no file can be made in \"swap-dir\" '" + path + "': " + std::strerror(errno))
            .about_option("swap-dir")
            .about_path(path);
    }
}

bool swap_folder::takes(llama_context * context, llama_seq_id seq_id) const {
    if (path.empty() || no_state_because(context)) {
        return false;
    }
    llama_memory_i * const         memory = llama_get_memory(context);
    const kvfold_retention * const lazy   = retention_of(memory);
    if (evictor_of(memory) || (lazy && !lazy->is_final(seq_id)) || !is_settled(memory, seq_id)) {
        return false; // what is still to be decided is in no state
    }
    const auto caches = caches_of(context);
    return std::none_of(caches.begin(), caches.end(), [&](const llama_kv_cache * each) { return each->get_cells(seq_id).get_has_shift(); });
}

swapped_sequence swap_folder::write(llama_context * context, llama_seq_id seq_id) {
    swapped_sequence made;
    try {
        made.file.reset(nameless_file(path));
        if (!made.file) {
            throw swap_error(std::strerror(errno));
        }
        llama_synchronize(context);
        file_writer to(made.file.get());
        llama_get_memory(context)->state_write(to, seq_id);
        if (fflush(made.file.get()) != 0) {
            throw swap_error(std::strerror(errno));
        }
        made.n_bytes = to.n_bytes();
    } catch (const swap_error & e) {
        const std::string folder = std::exchange(path, {});
        throw swap_error("\"swap-dir\" '" + folder + "' takes no sequence of an answer that gives its cells up: " + e.what());
    }
    return made;
}

bool swapped_sequence::read(llama_context * context, llama_seq_id seq_id) const {
    llama_memory_i * const memory = llama_get_memory(context);
    rewind(file.get());
    file_reader from(file.get());
    try {
        llama_synchronize(context);
        memory->state_read(from, seq_id);
        return true;
    } catch (const swap_error & e) {
        llama_memory_seq_rm(memory, seq_id, -1, -1);
        throw swap_error(std::string("what an answer had when it gave its cells up cannot be read again: ") + e.what());
    } catch (const std::exception &) { // as llama.cpp says that there is no room
        llama_memory_seq_rm(memory, seq_id, -1, -1);
        return false;
    }
}

} // namespace kvfold
