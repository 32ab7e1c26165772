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
}

uint64_t page_ledger::grantable() const {
    const uint64_t own = cap() == no_cap ? no_cap : cap() - std::min(cap(), total());
    return system ? std::min(own, system->grantable(true)) : own;
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
