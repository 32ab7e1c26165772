// KV memory of a CUDA device against a stand-in for CUDA's driver that keeps its rules: memory is undefined at first, a
// mapping has no access until it is given, only whole mappings are taken away, and not under a kernel. The addresses are
// real ones of the host, so that what writes to memory that is not there, or only read, ends the test.

#include "kv_test_context.h"

#include "kv/memory/cuda.h"

#include "ggml-cpp.h"
#include "ggml/src/ggml-backend-impl.h"

#include <cstdlib>
#include <functional>
#include <map>
#include <set>

#include <sys/mman.h>
#include <unistd.h>

static constexpr size_t granule = 65536;

static std::string warnings;

struct fake_cuda : cuda_device {
    struct physical {
        int  file;
        int  n_mappings = 0;
        bool released   = false;
    };
    struct mapping {
        allocation what;
        int        access = 0; // 1: read, 2: write
    };

    std::map<address, size_t>      reserved;
    std::map<allocation, physical> memory;
    std::map<address, mapping>     mapped;
    std::vector<std::string>       calls;
    std::vector<std::string>       mistakes;

    allocation  next      = 1;
    size_t      left      = SIZE_MAX; // granules that can still be had
    int         fail_in   = -1;       // calls until one fails, -1: none does
    const char * fails    = nullptr;  // calls of this name fail
    bool        running   = false;    // a kernel
    bool        read_only = true;     // whether it can map for reading alone

    ~fake_cuda() override { check(is_empty(), "the end gives everything back"); }

    bool is_empty() const { return reserved.empty() && memory.empty() && mapped.empty(); }

    // Granules of memory, that of zeros included.
    size_t taken() const { return memory.size(); }

    void must(bool ok, const char * what) {
        if (!ok) {
            mistakes.push_back(what);
        }
    }

    bool fail(const char * call) {
        if (calls.size() < 1000) {
            calls.push_back(call);
        }
        return (fails && strcmp(fails, call) == 0) || (fail_in >= 0 && fail_in-- == 0);
    }

    void drop(allocation what) {
        physical & of = memory.at(what);
        if (of.released && of.n_mappings == 0) {
            close(of.file);
            memory.erase(what);
            left += left != SIZE_MAX;
        }
    }

    int granularity(size_t * size) override {
        *size = granule;
        return 0;
    }

    int reserve(address * at, size_t size) override {
        must(size % granule == 0 && size > 0, "reserves whole granules");
        if (fail("reserve")) {
            return 2;
        }
        char * const area = (char *) mmap(nullptr, size + granule, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        *at = ((address) (uintptr_t) area + granule - 1)/granule*granule;
        munmap(area, *at - (address) (uintptr_t) area);
        munmap((void *) (*at + size), (address) (uintptr_t) area + granule - *at);
        reserved[*at] = size;
        return 0;
    }

    int unreserve(address at, size_t size) override {
        must(reserved.count(at) && reserved[at] == size, "frees what was reserved");
        for (const auto & [where, _] : mapped) {
            must(where < at || where >= at + size, "frees addresses that nothing is mapped to");
        }
        munmap((void *) at, size);
        reserved.erase(at);
        return 0;
    }

    int create(allocation * made, size_t size) override {
        must(size == granule, "creates a granule");
        if (fail("create") || left == 0) {
            return 2;
        }
        left -= left != SIZE_MAX;
        const int file = memfd_create("granule", 0);
        must(file >= 0 && ftruncate(file, granule) == 0, "has files");
        const std::vector<unsigned char> noise(granule, 0xff); // NaN
        must(write(file, noise.data(), granule) == (ssize_t) granule, "has room");
        memory[*made = next++] = { file };
        return 0;
    }

    int release(allocation what) override {
        const auto found = memory.find(what);
        must(found != memory.end() && !found->second.released, "releases once what there is");
        if (fail("release")) {
            return 2;
        }
        found->second.released = true;
        drop(what);
        return 0;
    }

    int map(address at, size_t size, allocation what) override {
        must(size == granule && at % granule == 0, "maps a granule");
        must(!mapped.count(at), "maps where nothing is mapped");
        must(memory.count(what) && !memory.at(what).released, "maps memory that is there");
        bool inside = false;
        for (const auto & [from, bytes] : reserved) {
            inside = inside || (at >= from && at + size <= from + bytes);
        }
        must(inside, "maps to addresses that are reserved");
        if (fail("map")) {
            return 2;
        }
        mmap((void *) at, size, PROT_NONE, MAP_SHARED | MAP_FIXED, memory.at(what).file, 0);
        mapped[at] = { what };
        memory.at(what).n_mappings++;
        return 0;
    }

    int unmap(address at, size_t size) override {
        must(size == granule && mapped.count(at), "takes one whole mapping away");
        must(!running, "takes no mapping away under a kernel");
        if (fail("unmap")) {
            return 2;
        }
        mmap((void *) at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        const allocation what = mapped.at(at).what;
        mapped.erase(at);
        memory.at(what).n_mappings--;
        drop(what);
        return 0;
    }

    int allow(address at, size_t size, bool write) override {
        for (address granule_at = at; granule_at < at + size; granule_at += granule) {
            must(mapped.count(granule_at), "gives access to whole mappings");
        }
        if (fail("allow") || (!write && !read_only)) {
            return 801;
        }
        mprotect((void *) at, size, write ? PROT_READ | PROT_WRITE : PROT_READ);
        for (address granule_at = at; granule_at < at + size; granule_at += granule) {
            mapped[granule_at].access = write ? 2 : 1;
        }
        return 0;
    }

    int synchronize() override {
        if (fail("synchronize")) {
            return 700;
        }
        running = false;
        return 0;
    }

    int fill(address at, uint8_t value, size_t size) override {
        if (fail("fill")) {
            return 2;
        }
        memset((void *) at, value, size);
        return 0;
    }

    int upload(address to, const void * from, size_t size) override {
        if (fail("upload")) {
            return 2;
        }
        memcpy((void *) to, from, size);
        return 0;
    }

    int download(void * to, address from, size_t size) override {
        if (fail("download")) {
            return 2;
        }
        memcpy(to, (void *) from, size);
        return 0;
    }

    int copy(address to, address from, size_t size) override {
        if (fail("copy")) {
            return 2;
        }
        memmove((void *) to, (void *) from, size);
        return 0;
    }

    const char * name_of(int) override { return "CUDA_ERROR_OF_THE_TEST"; }
};

static void expect_calls(fake_cuda & cuda, const std::vector<std::string> & expected, const char * what) {
    std::string text;
    for (const auto & call : cuda.calls) {
        text += " " + call;
    }
    check(cuda.calls == expected, std::string(what) + ", in this order:" + text);
    cuda.calls.clear();
}

static void expect_rules(const fake_cuda & cuda, const std::string & when) {
    for (const auto & each : cuda.mistakes) {
        check(false, when + ": the driver expects that it " + each);
    }
    check(cuda.mistakes.empty(), when + ": CUDA's rules are kept");
}

static bool is_zero(const char * data, size_t size) {
    return std::all_of(data, data + size, [](char c) { return c == 0; });
}

static void test_calls() {
    fake_cuda cuda;
    {
        const auto pages = cuda_pages::reserve(cuda, 3*granule + 1);
        check(pages && pages->size() == 4*granule && pages->page_size() == granule, "a range of whole granules");
        expect_calls(cuda, { "reserve", "create", "map", "allow", "fill", "unmap", "map", "map", "map", "map", "allow" },
                "granules share one of zeros");
        char * const data = (char *) pages->base();
        check(is_zero(data, pages->size()) && cuda.taken() == 1, "everything reads as zero, for one granule of memory");

        cuda.running = true;
        check(pages->commit(data + granule, 2*granule), "two granules");
        expect_calls(cuda, { "create", "create", "synchronize", "unmap", "map", "unmap", "map", "allow", "fill" }, "are made, mapped and cleared");
        check(is_zero(data, pages->size()) && cuda.taken() == 3, "and read as zero");
        memset(data + granule, 7, 2*granule);

        cuda.running = true;
        check(pages->release(data + 2*granule, granule), "one goes back");
        expect_calls(cuda, { "synchronize", "unmap", "map", "allow", "release" }, "which takes its memory");
        check(is_zero(data + 2*granule, granule) && data[granule] == 7 && cuda.taken() == 2, "it reads as zero, the other one stays");

        cuda.running = true;
        int waited = 0;
        pages->synchronize_with([&] {
            cuda.running = false;
            waited++;
        });
        check(pages->commit(data + 3*granule, granule) && pages->release(data + 3*granule, granule) && waited == 2, "a context that computes is waited for");
        check(std::count(cuda.calls.begin(), cuda.calls.end(), "synchronize") == 0, "and the device is not");
    }
    expect_rules(cuda, "one range");
    check(cuda.is_empty(), "a range gives everything back");

    cuda.read_only = false;
    {
        const auto pages = cuda_pages::reserve(cuda, 4*granule);
        check(pages && is_zero((char *) pages->base(), 4*granule), "a driver that cannot map for reading alone maps for writing");
        check(pages && pages->commit(pages->base(), granule) && pages->release(pages->base(), granule), "and goes on so");
    }
    expect_rules(cuda, "without mappings for reading alone");
    check(cuda.is_empty(), "and gives everything back");
}

// Each call of a scene fails in turn.
static void test_failures() {
    int scenes = 0;
    for (int n = 0;; ++n) {
        fake_cuda cuda;
        cuda.fail_in = n;
        const auto pages = cuda_pages::reserve(cuda, 4*granule);
        if (!pages) {
            check(cuda.is_empty(), "a range that cannot be made leaves nothing, failing at call " + std::to_string(n));
            expect_rules(cuda, "making, failing at call " + std::to_string(n));
            continue;
        }
        const bool reached = cuda.fail_in < 0;
        if (!reached) {
            break;
        }
        scenes++; // of read-only mappings that are refused
    }
    for (int n = 0;; ++n, ++scenes) {
        const std::string at = ", failing at call " + std::to_string(n);
        fake_cuda         cuda;
        auto              pages = cuda_pages::reserve(cuda, 4*granule);
        char * const      data  = (char *) pages->base();
        pages->commit(data, granule);
        memset(data, 5, granule);
        const size_t before = cuda.taken();
        cuda.fail_in = n;
        const bool done = pages->commit(data + granule, 3*granule);
        const bool over = cuda.fail_in >= 0;
        cuda.fail_in = -1;
        check(is_zero(data + granule, 3*granule) && data[0] == 5, "what could be had or not reads as zero" + at);
        check(done == over && (done || cuda.taken() == before), "what could not be had took nothing" + at);
        check(done || pages->commit(data + granule, 3*granule), "and may be had later" + at);
        memset(data + granule, 6, 3*granule);
        pages.reset();
        expect_rules(cuda, "committing" + at);
        check(cuda.is_empty(), "nothing is left" + at);
        if (over) {
            break;
        }
    }
    for (int n = 0;; ++n, ++scenes) {
        const std::string at = ", failing at call " + std::to_string(n);
        fake_cuda         cuda;
        auto              pages = cuda_pages::reserve(cuda, 4*granule);
        char * const      data  = (char *) pages->base();
        pages->commit(data, 4*granule);
        memset(data, 5, 4*granule);
        cuda.fail_in = n;
        const bool done = pages->release(data + granule, 3*granule);
        const bool over = cuda.fail_in >= 0;
        cuda.fail_in = -1;
        check(std::all_of(data, data + granule, [](char c) { return c == 5; }), "the others stay" + at);
        check(done ? is_zero(data + granule, 3*granule) : std::all_of(data, data + 4*granule, [](char c) { return c == 5; }),
                "what was not taken back keeps what it holds" + at);
        check(done || pages->release(data + granule, 3*granule), "and may be taken back later" + at);
        pages.reset();
        expect_rules(cuda, "releasing" + at);
        // memory that cuMemRelease() refuses to take is lost
        check(cuda.is_empty() || (done && !over), "nothing is left" + at);
        cuda.memory.clear();
        if (over) {
            break;
        }
    }
    check(scenes > 15, std::to_string(scenes) + " calls failed");
}

static void test_out_of_memory() {
    fake_cuda cuda;
    cuda.left = 6;
    const auto pages = cuda_pages::reserve(cuda, 8*granule);
    page_map   map(*pages, pages->base(), pages->size());
    check(map.commit(0, 3*granule), "three of the five that are left");
    check(!map.commit(0, 7*granule) && map.committed() == 3*granule && cuda.taken() == 4, "four more cannot be had, and none is taken");
    check(map.release(granule, granule) && map.commit(4*granule, 3*granule), "one that goes back makes room");
    map.abandon();
    expect_rules(cuda, "a device that is full");
}

// ---- buffers

static void test_buffers() {
    fake_cuda cuda;
    set_cuda_device(ggml_backend_cpu_buffer_type(), &cuda);
    ggml_backend_buffer_type_t const type = cuda_buffer_type_for(ggml_backend_cpu_buffer_type());
    check(type != ggml_backend_cpu_buffer_type() && committed_as_it_fills(ggml_backend_cpu_buffer_type()), "a type of its own");
    check(std::string(ggml_backend_buft_name(type)) == ggml_backend_buft_name(ggml_backend_cpu_buffer_type()) &&
            ggml_backend_buft_get_device(type) == ggml_backend_buft_get_device(ggml_backend_cpu_buffer_type()), "of the name and the device");
    {
        ggml_context_ptr context{ ggml_init({ ggml_tensor_overhead()*8, nullptr, true }) };
        ggml_tensor *    large = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 8*granule/4 - 32);
        ggml_tensor *    other = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 8*granule/4);
        ggml_tensor *    small = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 100);
        check(ggml_backend_buft_get_alloc_size(type, large) == 8*granule, "a large tensor ends with a granule");
        check(ggml_backend_buft_get_alloc_size(type, small) == 400, "a small one shares granules");
        ggml_backend_buffer_ptr buffer{ ggml_backend_alloc_ctx_tensors_from_buft(context.get(), type) };
        check(cuda_pages_of(buffer.get()) && committed_bytes(buffer.get()) == 0, "a buffer without memory");
        check(((char *) other->data - (char *) large->data) % granule == 0, "large tensors begin with a granule");
        ggml_backend_buffer_clear(buffer.get(), 0);
        check(cuda.taken() == 1, "clearing it takes none");

        page_map & pages = *cuda_pages_of(buffer.get());
        pages.commit(0, 2*granule);
        pages.commit(8*granule, 2*granule);
        std::vector<float> values(1000), back(1000);
        for (size_t i = 0; i < values.size(); ++i) {
            values[i] = (float) i;
        }
        ggml_backend_tensor_set(large, values.data(), 64, 4000);
        ggml_backend_tensor_get(large, back.data(), 64, 4000);
        check(values == back, "what is written is read");
        ggml_tensor * const from = ggml_view_1d(context.get(), large, 1000, 64);
        ggml_tensor * const to   = ggml_view_1d(context.get(), other, 1000, 128);
        ggml_backend_view_init(from);
        ggml_backend_view_init(to);
        cuda.calls.clear();
        check(ggml_backend_buffer_copy_tensor(from, to), "a copy"); // ggml_backend_tensor_copy() sees that it is the host's
        expect_calls(cuda, { "copy" }, "it is copied on the device");
        ggml_backend_tensor_get(other, back.data(), 128, 4000);
        check(values == back, "as it is");
        ggml_backend_tensor_memset(large, 0, 64, 4000);
        ggml_backend_tensor_get(large, back.data(), 64, 4000);
        check(std::all_of(back.begin(), back.end(), [](float f) { return f == 0; }), "and cleared");
        cuda.fails = "download";
        bool thrown = false;
        try {
            ggml_backend_tensor_get(large, back.data(), 64, 4000);
        } catch (const std::runtime_error & e) {
            thrown = std::string(e.what()).find("CUDA_ERROR_OF_THE_TEST") != std::string::npos;
        }
        cuda.fails = nullptr;
        check(thrown, "a device that fails is an exception");
        ggml_backend_buffer_clear(buffer.get(), 0);
        check(cuda.taken() == 1 && committed_bytes(buffer.get()) == 0, "clearing it gives all back");
        ggml_backend_buffer_clear(buffer.get(), 1);
        check(((const char *) small->data)[399] == 1, "clearing it to another value takes all");
    }
    expect_rules(cuda, "a buffer");
    check(cuda.is_empty(), "a buffer gives everything back");
    {
        ggml_context_ptr context{ ggml_init({ ggml_tensor_overhead()*8, nullptr, true }) };
        ggml_tensor *    tensor = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 8*granule);
        cuda.fails = "reserve";
        warnings.clear();
        ggml_backend_buffer_ptr buffer{ ggml_backend_alloc_ctx_tensors_from_buft(context.get(), type) };
        cuda.fails = nullptr;
        check(buffer && !cuda_pages_of(buffer.get()) && page_size_of(tensor) == 0, "without addresses a buffer is there as a whole");
        check(warnings.find("are allocated as a whole") != std::string::npos, "and says so: " + warnings);
    }
    set_cuda_device(ggml_backend_cpu_buffer_type(), nullptr);
}

// ---- caches

// All that a cache is asked for; every logit on the way.
static std::vector<float> use(tested & t, const context_options & o) {
    std::vector<float> all;
    const auto keep = [&](const std::vector<float> & logits) {
        check(!logits.empty(), "it computes");
        all.insert(all.end(), logits.begin(), logits.end());
    };
    const llama_memory_t memory = t.memory();
    for (llama_seq_id seq = 0; seq < (llama_seq_id) o.n_seq; ++seq) {
        keep(t.prompt(300 + 100*seq, seq, 1 + seq));
    }
    for (llama_pos i = 0; i < 40; ++i) {
        for (llama_seq_id seq = 0; seq < (llama_seq_id) o.n_seq; ++seq) {
            keep(t.decode(1, 300 + 100*seq + i, seq, 9));
        }
    }
    std::vector<uint8_t> state(llama_state_seq_get_size(t.context.get(), 0));
    check(llama_state_seq_get_data(t.context.get(), state.data(), state.size(), 0) == state.size(), "it is saved");
    llama_memory_seq_rm(memory, 0, -1, -1);
    if (o.n_seq > 1) {
        keep(t.decode(1, 440, 1, 5));
        llama_memory_seq_cp(memory, 1, 0, -1, -1); // of a stream of its own, all cells
        keep(t.decode(1, 441, 0, 5));
        llama_memory_seq_rm(memory, 0, -1, -1);
    }
    check(llama_state_seq_set_data(t.context.get(), state.data(), state.size(), 0) == state.size(), "and restored");
    keep(t.decode(1, 340, 0, 6));
    if (llama_memory_can_shift(memory)) {
        llama_memory_seq_rm (memory, 0, 10, 110);
        llama_memory_seq_add(memory, 0, 110, -1, -100);
        keep(t.decode(1, 241, 0, 7));
    }
    llama_memory_clear(memory, true);
    keep(t.prompt(100, 0, 8));
    return all;
}

static void test_cache(const context_options & o) {
    const std::string name = std::string(o.kv_plan ? o.kv_plan : "") + (o.unified ? ", one pool" : ", a stream each") +
                             (o.flash_attn ? "" : ", transposed") + ", " + ggml_type_name(o.type) + ", " + std::to_string(o.n_seq) + " sequences";
    std::vector<float> expected;
    {
        tested plain(wide_model(), o);
        expected = use(plain, o);
    }
    fake_cuda cuda;
    set_cuda_device(ggml_backend_cpu_buffer_type(), &cuda);
    {
        tested t(wide_model(), o);
        check(t.committed() == 0, name + ": nothing is committed before the first token");
        check(use(t, o) == expected, name + ": the logits are those of memory of the host, bit for bit");
        llama_memory_clear(t.memory(), false);
        size_t n_zeros = 0;
        std::set<const ggml_backend_buffer *> buffers;
        t.each([&](const llama_kv_cache &, const ggml_tensor * tensor) { n_zeros += buffers.insert(tensor->buffer).second; });
        check(t.committed() == 0 && cuda.taken() == n_zeros, name + ": a cleared cache has granules of zeros only, " + std::to_string(cuda.taken()));

        check(!t.prompt(100, 0, 1).empty(), name + ": a prompt");
        const uint64_t before = t.committed();
        cuda.left = 0;
        check(t.prompt(200, o.n_seq - 1, 2).empty() || o.unified || o.n_seq == 1 || t.committed() == before, name + ": one without memory fails");
        cuda.left = SIZE_MAX;
        llama_memory_clear(t.memory(), false);
        check(!t.prompt(200, o.n_seq - 1, 2).empty(), name + ": and is computed when there is some");
    }
    set_cuda_device(ggml_backend_cpu_buffer_type(), nullptr);
    expect_rules(cuda, name);
    check(cuda.is_empty(), name + ": the end gives everything back");
}

int main() {
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_WARN) {
            warnings += text;
        }
    }, nullptr);
    llama_backend_init();
    test_calls();
    test_failures();
    test_out_of_memory();
    test_buffers();
    for (const char * plan : { "standard", "cla:2", "0_1s_2_3s;window=100;sinks=4", "standard;window=60;sinks=4;full=2;queries=8",
                               "standard;window=60;sinks=4;lazy=0.3;queries=8;decide=end" }) {
        for (const bool unified : { true, false }) {
            for (const bool flash : { true, false }) {
                test_cache({ 2, unified, flash, plan, GGML_TYPE_F32 });
            }
            test_cache({ 1, unified, true, plan, GGML_TYPE_Q8_0 });
        }
    }
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed ? 1 : 0;
}
