#include "kv/memory/page_ledger.h"

#include <algorithm>

namespace kvfold {

bool page_ledger::reserve(charge what, uint64_t bytes) {
    uint64_t held = sum.load(std::memory_order_relaxed);
    do {
        if (bytes > cap() - std::min(cap(), held)) {
            return false;
        }
    } while (!sum.compare_exchange_weak(held, held + bytes, std::memory_order_relaxed));
    by_kind[(size_t) what].fetch_add(bytes, std::memory_order_relaxed);
    ++changes;
    return true;
}

bool page_ledger::take(charge what, uint64_t bytes) {
    if (!reserve(what, bytes)) {
        return false;
    }
    if (system && !system->take(bytes, what == charge::pages)) {
        give(what, bytes);
        return false;
    }
    return true;
}

bool page_ledger::take_on_device(uint64_t bytes) {
    return reserve(charge::pages, bytes);
}

void page_ledger::give(charge what, uint64_t bytes) {
    by_kind[(size_t) what].fetch_sub(bytes, std::memory_order_relaxed);
    sum.fetch_sub(bytes, std::memory_order_relaxed);
    ++changes;
}

uint64_t page_ledger::grantable() const {
    const uint64_t own = cap() == no_cap ? no_cap : cap() - std::min(cap(), total());
    return system ? std::min(own, system->grantable(true)) : own;
}

page_ledger::droppable_scope::droppable_scope(std::shared_ptr<page_ledger> ledger, std::function<void()> drop)
    : ledger(std::move(ledger)), drop(std::move(drop)) {
    const std::lock_guard<std::mutex> lock(this->ledger->mutex);
    this->ledger->droppable.push_back(this);
}

page_ledger::droppable_scope::~droppable_scope() {
    const std::lock_guard<std::mutex> lock(ledger->mutex);
    ledger->droppable.remove(this);
}

bool page_ledger::drop() {
    std::list<std::function<void()>> own; // one call may end the scopes of others
    {
        const std::lock_guard<std::mutex> lock(mutex);
        for (const droppable_scope * each : droppable) {
            if (each->owner == std::this_thread::get_id()) {
                own.push_back(each->drop);
            }
        }
    }
    const uint64_t before = total();
    for (const auto & call : own) {
        call();
    }
    return total() < before;
}

std::optional<ledger_charge> ledger_charge::take(std::shared_ptr<page_ledger> ledger, charge what, uint64_t bytes) {
    if (ledger && !ledger->take(what, bytes)) {
        return std::nullopt;
    }
    return ledger_charge(std::move(ledger), what, bytes);
}

ledger_charge::ledger_charge(ledger_charge && other) noexcept = default;

ledger_charge & ledger_charge::operator=(ledger_charge && other) noexcept {
    std::swap(ledger, other.ledger);
    std::swap(what, other.what);
    std::swap(bytes, other.bytes);
    return *this;
}

ledger_charge::~ledger_charge() {
    if (ledger) {
        ledger->give(what, bytes);
    }
}

static thread_local ledger_scope * innermost = nullptr;

ledger_scope::ledger_scope(std::shared_ptr<page_ledger> ledger) : ledger(std::move(ledger)), outer(innermost) {
    innermost = this;
}

ledger_scope::~ledger_scope() {
    innermost = outer;
}

std::shared_ptr<page_ledger> current_ledger() {
    return innermost ? innermost->ledger : nullptr;
}

} // namespace kvfold
