#include "kv/memory/pages.h"

#include "kv/memory/page_ledger.h"

#include <algorithm>

namespace kvfold {

page_map::page_map(page_driver & driver, void * data, size_t size, std::shared_ptr<page_ledger> ledger)
    : driver(driver), data((char *) data), n_page(driver.page_size()), n_pages(size/n_page), ledger(std::move(ledger)),
      bits((n_pages + 63)/64) {}

page_map::~page_map() {
    release(0, size());
}

void page_map::abandon() {
    give(committed());
    mark(0, n_pages, false);
    n_committed = 0;
}

bool page_map::take(uint64_t bytes) {
    const auto taken = [&] { return driver.on_device() ? ledger->take_on_device(bytes) : ledger->take(charge::pages, bytes); };
    return !ledger || taken() || (ledger->drop() && taken());
}

void page_map::give(uint64_t bytes) {
    if (ledger) {
        ledger->give(charge::pages, bytes);
    }
}

bool page_map::test(size_t page) const {
    return bits[page/64].load(std::memory_order_relaxed) >> page%64 & 1;
}

void page_map::mark(size_t first, size_t last, bool is_committed) {
    for (size_t page = first; page < last;) {
        const size_t   in_word = page%64;
        const size_t   n       = std::min(last - page, 64 - in_word);
        const uint64_t mask    = (n == 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1) << in_word;
        auto &         word    = bits[page/64];
        // only one thread writes
        word.store(is_committed ? word.load(std::memory_order_relaxed) | mask : word.load(std::memory_order_relaxed) & ~mask,
                   std::memory_order_relaxed);
        page += n;
    }
    const uint64_t n = last - first;
    n_committed.store(n_committed.load(std::memory_order_relaxed) + (is_committed ? n : -n), std::memory_order_relaxed);
}

size_t page_map::find(size_t first, size_t last, bool is_committed) const {
    const uint64_t none = is_committed ? 0 : ~uint64_t(0);
    for (size_t page = first; page < last;) {
        if (page%64 == 0 && last - page >= 64 && bits[page/64].load(std::memory_order_relaxed) == none) {
            page += 64;
        } else if (test(page) == is_committed) {
            return page;
        } else {
            ++page;
        }
    }
    return last;
}

bool page_map::commit_pages(size_t first, size_t last) {
    const size_t size = (last - first)*n_page;
    if (!take(size)) {
        return false;
    }
    if (!driver.commit(data + first*n_page, size)) {
        give(size);
        return false;
    }
    mark(first, last, true);
    return true;
}

bool page_map::commit(size_t offset, size_t size) {
    const size_t begin = offset/n_page;
    const size_t end   = std::min((offset + size + n_page - 1)/n_page, n_pages);
    std::vector<std::pair<size_t, size_t>> added;
    for (size_t first = find(begin, end, false); first < end;) {
        const size_t last = find(first, end, true);
        if (!commit_pages(first, last)) {
            for (const auto & [from, to] : added) {
                release(from*n_page, (to - from)*n_page);
            }
            return false;
        }
        added.emplace_back(first, last);
        first = find(last, end, false);
    }
    return true;
}

bool page_map::release(size_t offset, size_t size) {
    const size_t begin = (offset + n_page - 1)/n_page;
    const size_t end   = std::min((offset + size)/n_page, n_pages);
    bool         all   = true;
    for (size_t first = find(begin, end, true); first < end;) {
        const size_t last = find(first, end, false);
        if (driver.release(data + first*n_page, (last - first)*n_page)) {
            mark(first, last, false);
            give((last - first)*n_page);
        } else {
            all = false;
        }
        first = find(last, end, true);
    }
    return all;
}

uint64_t page_map::committed(size_t offset, size_t size) const {
    const size_t end = std::min((offset + size + n_page - 1)/n_page, n_pages);
    uint64_t     n   = 0;
    for (size_t page = offset/n_page; page < end; ++page) {
        n += test(page);
    }
    return n*n_page;
}

uint64_t page_map::missing(size_t offset, size_t size) const {
    const size_t begin = offset/n_page;
    const size_t end   = std::min((offset + size + n_page - 1)/n_page, n_pages);
    return size == 0 ? 0 : (end - begin)*n_page - committed(offset, size);
}

} // namespace kvfold
