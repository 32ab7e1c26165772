// What the operating system can still give, read from made-up /proc and /sys; and the account of what an engine has taken.

#include "../kvfold_test.h"

#include "kv/memory/gauge.h"
#include "kv/memory/page_ledger.h"
#include "kv/memory/pages.h"

#include <filesystem>
#include <random>
#include <thread>

using namespace kvfold;
using namespace kvfold_test;

static constexpr uint64_t MiB = uint64_t(1) << 20;
static constexpr uint64_t GiB = uint64_t(1) << 30;

struct made_up_system {
    std::filesystem::path root = std::filesystem::temp_directory_path() / ("kvfold-gauge-" + std::to_string(std::random_device{}()));

    ~made_up_system() { std::filesystem::remove_all(root); }

    made_up_system & file(const std::string & path, const std::string & text) {
        std::filesystem::create_directories((root / path).parent_path());
        write_file((root / path).string(), text);
        return *this;
    }

    made_up_system & machine(uint64_t total, uint64_t available) {
        return file("proc/meminfo", "MemTotal:       " + std::to_string(total/1024) + " kB\nMemFree:  12 kB\nMemAvailable:   " +
                                        std::to_string(available/1024) + " kB\nHugePages_Total:       0\n");
    }

    made_up_system & group(const std::string & path, const std::string & max, uint64_t current, const std::string & stat = "") {
        return file(path + "/memory.max", max + "\n").file(path + "/memory.current", std::to_string(current) + "\n")
            .file(path + "/memory.stat", stat);
    }

    memory_reading read() const { return read_memory(root.string()); }
};

static void the_machine_is_the_limit_where_no_group_is() {
    made_up_system s;
    CHECK_EQUAL(s.read().available, memory_reading::unknown);
    CHECK_EQUAL(s.read().total, memory_reading::unknown);
    s.machine(16*GiB, 10*GiB);
    CHECK_EQUAL(s.read().total, 16*GiB);
    CHECK_EQUAL(s.read().available, 10*GiB);
    CHECK_EQUAL(s.read().addresses, memory_reading::unknown);
}

static void the_smallest_group_up_to_the_root_counts() {
    made_up_system s;
    s.machine(16*GiB, 10*GiB).file("proc/self/cgroup", "0::/system.slice/app.service/worker\n");
    s.group("sys/fs/cgroup/system.slice/app.service/worker", "max", 3*GiB);
    CHECK_EQUAL(s.read().available, 10*GiB);
    s.group("sys/fs/cgroup/system.slice/app.service", std::to_string(4*GiB), 3*GiB);
    CHECK_EQUAL(s.read().available, 1*GiB);
    CHECK_EQUAL(s.read().total, 4*GiB);
    s.group("sys/fs/cgroup/system.slice", std::to_string(5*GiB), 4*GiB + 512*MiB);
    CHECK_EQUAL(s.read().available, 512*MiB);
    CHECK_EQUAL(s.read().total, 4*GiB);
    // what it can give back without harm
    s.group("sys/fs/cgroup/system.slice", std::to_string(5*GiB), 4*GiB + 512*MiB,
            "anon 17\ninactive_file " + std::to_string(100*MiB) + "\nactive_file " + std::to_string(28*MiB) + "\nslab_reclaimable " +
                std::to_string(72*MiB) + "\nslab 99999999\n");
    CHECK_EQUAL(s.read().available, 712*MiB);
    // more in use than allowed, as after a limit was lowered
    s.group("sys/fs/cgroup/system.slice", std::to_string(1*GiB), 2*GiB);
    CHECK_EQUAL(s.read().available, uint64_t(0));
}

static void a_container_sees_its_group_as_the_root() {
    made_up_system s;
    s.machine(16*GiB, 10*GiB).file("proc/self/cgroup", "0::/docker/0123\n").group("sys/fs/cgroup", std::to_string(2*GiB), 1*GiB);
    CHECK_EQUAL(s.read().available, 1*GiB);
    s.file("proc/self/cgroup", "0::/\n");
    CHECK_EQUAL(s.read().available, 1*GiB);
}

static void version_1_has_other_names() {
    made_up_system s;
    s.machine(16*GiB, 10*GiB).file("proc/self/cgroup", "12:cpu,cpuacct:/a\n5:hugetlb,memory:/user/a\n1:name=systemd:/user/a\n");
    const std::string folder = "sys/fs/cgroup/memory/user/a";
    s.file(folder + "/memory.limit_in_bytes", "9223372036854771712").file(folder + "/memory.usage_in_bytes", "100");
    CHECK_EQUAL(s.read().available, 10*GiB);
    CHECK_EQUAL(s.read().total, 16*GiB);
    s.file(folder + "/memory.limit_in_bytes", std::to_string(3*GiB)).file(folder + "/memory.usage_in_bytes", std::to_string(2*GiB));
    s.file(folder + "/memory.stat", "inactive_file 5\ntotal_inactive_file " + std::to_string(256*MiB) + "\n");
    CHECK_EQUAL(s.read().available, 1*GiB + 256*MiB);
    CHECK_EQUAL(s.read().total, 3*GiB);
}

static void limits_of_addresses_are_apart() {
    made_up_system s;
    s.machine(16*GiB, 10*GiB);
    s.file("proc/self/status", "Name:\ttest\nVmSize:\t 1048576 kB\nVmData:\t 524288 kB\n");
    s.file("proc/self/limits", "Limit                     Soft Limit           Hard Limit           Units\n"
                               "Max data size             unlimited            unlimited            bytes\n"
                               "Max address space         3221225472           unlimited            bytes\n");
    CHECK_EQUAL(s.read().addresses, 2*GiB);
    CHECK_EQUAL(s.read().available, 10*GiB);
    s.file("proc/self/limits", "Max data size             1073741824           unlimited            bytes\n");
    CHECK_EQUAL(s.read().addresses, 512*MiB);
}

static void this_machine_can_be_read() {
    const memory_reading reading = read_memory();
    CHECK(reading.total > 64*MiB);
    CHECK(reading.available > 0 && reading.available <= reading.total);
}

static void a_gauge_grants_what_is_there_and_reads_again() {
    memory_reading           there  = { 100*GiB, 10*GiB, memory_reading::unknown };
    int                      n_read = 0;
    gauge::clock::time_point time{};
    gauge g(1*GiB, [&] { n_read++; return there; }, [&] { return time; });
    CHECK_EQUAL(g.grantable(), 9*GiB);
    CHECK(g.take(60*MiB));
    CHECK_EQUAL(n_read, 1);
    CHECK_EQUAL(g.grantable(), 9*GiB - 60*MiB); // it is not in the reading yet
    CHECK(g.take(60*MiB));
    CHECK_EQUAL(n_read, 2); // 64 MiB are granted on one reading at most
    CHECK(!g.take(9*GiB + 1));
    CHECK_EQUAL(n_read, 3); // and nothing is refused by an old one
    there.available = 20*GiB;
    CHECK(g.take(9*GiB + 1));
    there.available = 1*GiB + 5;
    CHECK(g.grantable() > 5);
    time += gauge::max_age + std::chrono::milliseconds(1);
    CHECK_EQUAL(g.grantable(), uint64_t(5));
    CHECK(!g.take(6));
    CHECK(g.take(5));
    CHECK_EQUAL(g.grantable(), uint64_t(0));

    there = { 100*GiB, 10*GiB, 2*GiB };
    gauge bounded(1*GiB, [&] { return there; });
    CHECK_EQUAL(bounded.grantable(), 2*GiB);
    CHECK_EQUAL(bounded.addresses(), 2*GiB);
    CHECK_EQUAL(bounded.grantable(true), 9*GiB); // of addresses that are there
    bounded.keep(8*GiB);
    CHECK_EQUAL(bounded.grantable(true), 1*GiB);
    CHECK(!bounded.take(1*GiB + 1, true));

    gauge blind(1*GiB, [] { return memory_reading(); });
    CHECK(blind.take(1000*GiB));
    CHECK_EQUAL(blind.grantable(), memory_reading::unknown);

    CHECK_EQUAL(gauge::default_reserve({ 4*GiB, 0, 0 }), 256*MiB);
    CHECK_EQUAL(gauge::default_reserve({ 100*GiB, 0, 0 }), 3*GiB);
}

static void a_ledger_has_a_cap_that_nothing_passes() {
    page_ledger ledger(1000);
    CHECK_EQUAL(ledger.grantable(), uint64_t(1000));
    CHECK(ledger.take(charge::pages, 600));
    CHECK(ledger.take(charge::checkpoints, 300));
    CHECK(!ledger.take(charge::states, 101));
    CHECK(!ledger.take(charge::states, UINT64_MAX));
    CHECK_EQUAL(ledger.held(charge::states), uint64_t(0));
    CHECK(ledger.take_on_device(50));
    CHECK(ledger.take(charge::states, 50));
    CHECK_EQUAL(ledger.grantable(), uint64_t(0));
    CHECK_EQUAL(ledger.held(charge::pages), uint64_t(650));
    ledger.give(charge::pages, 650);
    CHECK_EQUAL(ledger.total(), uint64_t(350));
    ledger.set_cap(100); // what is held stays
    CHECK_EQUAL(ledger.grantable(), uint64_t(0));
    CHECK(!ledger.take(charge::pages, 1));

    memory_reading now = { 100*GiB, 2*GiB, 0 };
    page_ledger    watched(10*GiB, std::make_unique<gauge>(1*GiB, [&] { return now; }));
    CHECK(!watched.take(charge::pages, 1*GiB + 1));
    CHECK_EQUAL(watched.total(), uint64_t(0));
    CHECK(watched.take(charge::pages, 1000));
    CHECK(!watched.take(charge::states, 1)); // takes addresses as well
    CHECK(watched.take_on_device(5*GiB));    // of which the host knows nothing
    CHECK_EQUAL(watched.total(), 5*GiB + 1000);
}

// Four threads that take and give at random: the sum never passes the cap, and ends at nothing.
static void a_ledger_is_for_any_thread() {
    page_ledger              ledger(1000);
    std::atomic<int>         n_over{ 0 };
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 4; seed++) {
        threads.emplace_back([&, seed] {
            std::mt19937            rng(seed);
            std::array<uint64_t, 3> own{};
            for (int i = 0; i < 50000; i++) {
                const size_t   kind  = rng() % 3;
                const uint64_t bytes = rng() % 500;
                if (rng() % 2 && ledger.take((charge) kind, bytes)) {
                    own[kind] += bytes;
                } else {
                    const uint64_t back = std::min(own[kind], bytes);
                    own[kind] -= back;
                    ledger.give((charge) kind, back);
                }
                n_over += ledger.total() > ledger.cap();
            }
            for (size_t kind = 0; kind < 3; kind++) {
                ledger.give((charge) kind, own[kind]);
            }
        });
    }
    for (auto & thread : threads) {
        thread.join();
    }
    CHECK_EQUAL(n_over.load(), 0);
    CHECK_EQUAL(ledger.total(), uint64_t(0));
    for (const charge kind : { charge::pages, charge::checkpoints, charge::states }) {
        CHECK_EQUAL(ledger.held(kind), uint64_t(0));
    }
}

static void scopes_nest_and_are_a_threads_own() {
    const auto outer = std::make_shared<page_ledger>(), inner = std::make_shared<page_ledger>();
    CHECK(current_ledger() == nullptr);
    {
        const ledger_scope one(outer);
        CHECK(current_ledger() == outer);
        {
            const ledger_scope two(inner);
            CHECK(current_ledger() == inner);
            std::thread([] { CHECK(current_ledger() == nullptr); }).join();
        }
        CHECK(current_ledger() == outer);
    }
    CHECK(current_ledger() == nullptr);
}

struct willing_driver : page_driver {
    bool willing = true;

    size_t page_size() const override { return 4096; }
    bool   commit (void *, size_t) override { return willing; }
    bool   release(void *, size_t) override { return willing; }
};

// Pages are charged when they are committed and given back when they are released, whoever refuses on the way.
static void pages_are_charged() {
    willing_driver driver;
    const auto     ledger = std::make_shared<page_ledger>(10*4096);
    {
        page_map pages(driver, nullptr, 100*4096, ledger);
        CHECK(pages.commit(0, 8*4096));
        CHECK_EQUAL(ledger->held(charge::pages), uint64_t(8*4096));
        CHECK(!pages.commit(20*4096, 3*4096)); // beyond the cap
        CHECK_EQUAL(ledger->held(charge::pages), pages.committed());
        CHECK(pages.commit(4*4096, 6*4096)); // of these two are new
        CHECK(!pages.commit(50*4096, 1));
        CHECK(pages.release(0, 5*4096));
        CHECK_EQUAL(ledger->held(charge::pages), uint64_t(5*4096));
        driver.willing = false;
        CHECK(!pages.commit(50*4096, 1));
        CHECK(!pages.release(0, 100*4096));
        CHECK_EQUAL(ledger->held(charge::pages), uint64_t(5*4096));
        driver.willing = true;
        // the second half of a range is beyond the cap: its first half goes back
        CHECK(pages.commit(32*4096, 4096));
        CHECK(!pages.commit(30*4096, 10*4096));
        CHECK_EQUAL(ledger->held(charge::pages), uint64_t(6*4096));
        CHECK_EQUAL(pages.committed(), uint64_t(6*4096));
        CHECK(pages.commit(60*4096, 4*4096));
        pages.abandon();
        CHECK_EQUAL(ledger->total(), uint64_t(0));
        CHECK(pages.commit(0, 10*4096));
    }
    CHECK_EQUAL(ledger->total(), uint64_t(0));
}

int main() {
#if defined(__linux__)
    the_machine_is_the_limit_where_no_group_is();
    the_smallest_group_up_to_the_root_counts();
    a_container_sees_its_group_as_the_root();
    version_1_has_other_names();
    limits_of_addresses_are_apart();
#endif
    this_machine_can_be_read();
    a_gauge_grants_what_is_there_and_reads_again();
    a_ledger_has_a_cap_that_nothing_passes();
    a_ledger_is_for_any_thread();
    scopes_nest_and_are_a_threads_own();
    pages_are_charged();
    return report();
}
