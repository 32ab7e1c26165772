// How much memory the operating system can still give before it kills somebody.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

namespace kvfold {

struct memory_reading {
    static constexpr uint64_t unknown = UINT64_MAX;

    uint64_t total     = unknown; // of the machine, or of the smallest control group that this process is in
    uint64_t available = unknown; // pages of files count as available, since the system can read them again
    uint64_t addresses = unknown; // that the process may still map: RLIMIT_AS and RLIMIT_DATA
};

// The least that the machine and the control groups around this process leave: MemAvailable, and for each group up to the
// root its limit less what it uses, pages of files and reclaimable slabs aside. /proc and /sys are looked for below `root`.
// What cannot be read is unknown, which is as good as no limit.
memory_reading read_memory(const std::string & root = "");

// Grants memory out of readings, each of which is good for a while and for so much.
class gauge {
public:
    using clock = std::chrono::steady_clock;

    static constexpr std::chrono::milliseconds max_age{ 50 };
    static constexpr uint64_t                  max_granted = uint64_t(64) << 20;

    // reserve: what is never granted; 0 for default_reserve().
    explicit gauge(
            uint64_t reserve,
            std::function<memory_reading()> read = [] { return read_memory(); },
            std::function<clock::time_point()> now = clock::now);

    // Bytes of mapped files that have to stay in memory, although the system counts them as available: weights.
    void keep(uint64_t bytes);

    // The larger of 256 MiB and 3% of what there is.
    static uint64_t default_reserve(const memory_reading & reading);

    uint64_t reserve() const { return n_reserve; }

    // What may be taken now. `mapped`: it lies in addresses that are reserved already.
    uint64_t grantable(bool mapped = false);

    // Addresses that may be mapped now.
    uint64_t addresses();

    // False if that is not there. What was granted is to be written at once, so that the next reading sees it.
    bool take(uint64_t bytes, bool mapped = false);

private:
    void     refresh();
    uint64_t left(bool mapped) const;

    const std::function<memory_reading()>    read;
    const std::function<clock::time_point()> now;

    std::mutex        mutex;
    memory_reading    reading;
    clock::time_point read_at;
    uint64_t          n_reserve;
    uint64_t          n_kept    = 0;
    uint64_t          n_granted = 0; // since that reading
};

} // namespace kvfold
