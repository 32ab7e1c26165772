// What an engine's keys and values take, wherever they are: one account for all of its caches and for the copies beside them.
// Its cap is "kv-budget", and it holds whatever was estimated before.
#pragma once

#include "kv/memory/gauge.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

namespace kvfold {

enum class charge {
    pages,       // committed for cells
    checkpoints, // of what a window held, in host memory
    states,      // buffers of states that are saved or restored
};

// For any thread.
class page_ledger {
public:
    static constexpr uint64_t no_cap = UINT64_MAX;

    // Nothing limits what a ledger without a gauge takes but its cap.
    explicit page_ledger(uint64_t cap = no_cap, std::unique_ptr<gauge> system = nullptr) : limit(cap), system(std::move(system)) {}

    page_ledger(const page_ledger &) = delete;
    page_ledger & operator=(const page_ledger &) = delete;

    // Before memory is had, which is then to be written at once. False, and nothing is taken, beyond the cap or beyond what
    // the system can give.
    bool take(charge what, uint64_t bytes);

    // Pages that the host's gauge is not asked for, within the cap: of a device, or allocated as a whole.
    bool take_on_device(uint64_t bytes);

    void give(charge what, uint64_t bytes);

    uint64_t held(charge what) const { return by_kind[(size_t) what].load(std::memory_order_relaxed); }
    uint64_t total()           const { return sum.load(std::memory_order_relaxed); }
    uint64_t cap()             const { return limit.load(std::memory_order_relaxed); } // no_cap: none

    // How often what is held has changed, also if it is the same again.
    uint64_t n_changes() const { return changes.load(); }

    // The largest number of bytes that take() would allow now.
    uint64_t grantable() const;

    void set_cap(uint64_t bytes) { limit = bytes; }

    // Bytes of mapped files that have to stay in memory.
    void keep(uint64_t bytes) { if (system) { system->keep(bytes); } }

    // What can be dropped for the sake of cells, by the thread that made it: while one lives, drop() may call it.
    struct droppable_scope {
        droppable_scope(std::shared_ptr<page_ledger> ledger, std::function<void()> drop);
        ~droppable_scope();
        droppable_scope(const droppable_scope &)             = delete;
        droppable_scope & operator=(const droppable_scope &) = delete;

    private:
        friend class page_ledger;

        const std::shared_ptr<page_ledger> ledger;
        const std::function<void()>        drop;
        const std::thread::id              owner = std::this_thread::get_id();
    };

    // Drops what this thread can. Whether bytes came back.
    bool drop();

private:
    bool reserve(charge what, uint64_t bytes);

    std::atomic<uint64_t>                limit;
    std::atomic<uint64_t>                sum{ 0 };
    std::atomic<uint64_t>                changes{ 0 };
    std::array<std::atomic<uint64_t>, 3> by_kind{};
    const std::unique_ptr<gauge>         system;

    std::mutex                             mutex;
    std::list<const droppable_scope *>     droppable; // guarded by `mutex`
};

// Bytes that a ledger gets back at the end.
class ledger_charge {
public:
    // Nothing if the ledger refuses. One without a ledger counts nowhere.
    static std::optional<ledger_charge> take(std::shared_ptr<page_ledger> ledger, charge what, uint64_t bytes);

    ledger_charge(ledger_charge && other) noexcept;
    ledger_charge & operator=(ledger_charge && other) noexcept;
    ~ledger_charge();

private:
    ledger_charge(std::shared_ptr<page_ledger> ledger, charge what, uint64_t bytes) : ledger(std::move(ledger)), what(what), bytes(bytes) {}

    std::shared_ptr<page_ledger> ledger; // null: moved away, or none
    charge                       what;
    uint64_t                     bytes;
};

// While one lives, caches that are made on this thread charge this ledger, and so does what hooks on it copy. They nest.
class ledger_scope {
public:
    explicit ledger_scope(std::shared_ptr<page_ledger> ledger);
    ~ledger_scope();
    ledger_scope(const ledger_scope &)             = delete;
    ledger_scope & operator=(const ledger_scope &) = delete;

private:
    friend std::shared_ptr<page_ledger> current_ledger();

    const std::shared_ptr<page_ledger> ledger;
    ledger_scope * const               outer;
};

// That of the innermost scope on this thread, or null.
std::shared_ptr<page_ledger> current_ledger();

} // namespace kvfold
