// Sequences out of a cache into a file without a name, and back.

#include "kv_test_context.h"

#include "kv/memory/page_ledger.h"
#include "kv/state/swap.h"
#include "process/error.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#if !defined(_WIN32)
#    include <csignal>
#    include <sys/resource.h>
#endif

namespace {

struct test_folder {
    std::filesystem::path path = std::filesystem::temp_directory_path() / ("kvfold-swap-" + std::to_string(std::random_device{}()));

    test_folder() { std::filesystem::create_directory(path); }
    ~test_folder() { std::filesystem::remove_all(path); }
    test_folder(const test_folder &)             = delete;
    test_folder & operator=(const test_folder &) = delete;
};

std::vector<float> go_on(tested & t, llama_pos from) {
    std::vector<float> logits;
    for (llama_pos pos = from; pos < from + 10; ++pos) {
        const auto more = t.decode(1, pos, 0, 2);
        logits.insert(logits.end(), more.begin(), more.end());
    }
    return logits;
}

} // namespace

static void comes_back_as_it_was(const char * name, const kv_test_model & spec, context_options o) {
    const test_folder  folder;
    std::vector<float> expected;
    o.n_seq    = 2;
    o.swa_full = false;
    for (const bool goes : { false, true }) {
        tested t(spec, o);
        t.prompt(150, 0, 1);
        t.decode(1, 150, 0, 2);
        if (goes) {
            swap_folder swaps(folder.path.u8string());
            check(swaps.takes(t.context.get(), 0), std::string(name) + ": it can go");
            const swapped_sequence file = swaps.write(t.context.get(), 0);
            check(file.bytes() > 0, std::string(name) + ": there is something in the file");
#if !defined(_WIN32)
            check(std::filesystem::is_empty(folder.path), std::string(name) + ": which nobody finds");
#endif
            llama_memory_seq_rm(t.memory(), 0, -1, -1);
            check(t.committed() == 0, std::string(name) + ": no memory is left");
            t.prompt(40, 1, 3);
            check(file.read(t.context.get(), 0), std::string(name) + ": it comes back among others");
        }
        const auto logits = go_on(t, 151);
        expected = goes ? expected : logits;
        check(close_to(logits, expected, 1e-4f), std::string(name) + ": and no logit is another one for it");
    }
    check(std::filesystem::is_empty(folder.path), std::string(name) + ": the folder is empty");
}

static void waits_for_room(const kv_test_model & spec, context_options o) {
    const test_folder  folder;
    const auto         ledger = std::make_shared<page_ledger>();
    const ledger_scope charged(ledger);
    o.n_seq = 2;
    tested             t(spec, o);
    swap_folder        swaps(folder.path.u8string());
    t.prompt(150, 0, 1);
    const uint64_t         needed = ledger->total();
    const swapped_sequence file   = swaps.write(t.context.get(), 0);
    const auto             before = go_on(t, 150);
    llama_memory_seq_rm(t.memory(), 0, -1, -1);
    ledger->set_cap(needed - 1);
    check(!file.read(t.context.get(), 0), "there is no memory for it");
    check(llama_memory_seq_pos_max(t.memory(), 0) < 0 && ledger->total() == 0, "and nothing of it is there");
    ledger->set_cap(page_ledger::no_cap);
    check(file.read(t.context.get(), 0), "now there is");
    check(close_to(go_on(t, 150), before, 1e-4f), "and no logit is another one for it");
}

static void says_what_the_disk_says(const kv_test_model & spec, const context_options & o) {
    const test_folder          folder;
    std::optional<std::string> refused;
    try {
        swap_folder((folder.path/"nothing").u8string());
    } catch (const error & e) {
        refused = e.message;
    }
    check(refused && refused->find("swap-dir") != std::string::npos, "a folder that is none");
    tested      t(spec, o);
    swap_folder none(std::string{});
    check(!none.takes(t.context.get(), 0), "no folder takes nothing");
#if !defined(_WIN32)
    t.prompt(150, 0, 1);
    swap_folder swaps(folder.path.u8string());
    rlimit      before;
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit small = { 10000, before.rlim_max };
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    refused.reset();
    try {
        swaps.write(t.context.get(), 0);
    } catch (const swap_error & e) {
        refused = e.what();
    }
    setrlimit(RLIMIT_FSIZE, &before);
    check(refused && refused->find(folder.path.u8string()) != std::string::npos, "a file that cannot be written");
    check(!swaps.takes(t.context.get(), 0), "after which nothing else is tried there");
    check(!t.decode(1, 150, 0, 2).empty(), "and the sequence goes on");
#endif
}

int main() {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    kv_test_model small = wide_model();
    small.n_layer = 2;
    kv_test_model windows = wide_model("0s_1;window=64;sinks=4");
    windows.n_layer = 2;
    context_options plain, q8, transposed, streams, lazy;
    q8.type               = GGML_TYPE_Q8_0;
    transposed.flash_attn = false;
    streams.unified       = false;
    lazy.kv_plan          = "standard;lazy=0;window=16;sinks=4;queries=8";
    comes_back_as_it_was("standard", small, plain);
    comes_back_as_it_was("q8_0", small, q8);
    comes_back_as_it_was("transposed values", small, transposed);
    comes_back_as_it_was("cells of their own", small, streams);
    comes_back_as_it_was("windows", windows, plain);
    comes_back_as_it_was("lazy layers", small, lazy);
    waits_for_room(small, plain);
    says_what_the_disk_says(small, plain);
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed ? 1 : 0;
}
