// Which pages of a range of address space are backed by memory. Independent of llama.cpp.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace kvfold {

class page_ledger;

// How memory is put behind address space, and taken away again.
struct page_driver {
    virtual ~page_driver() = default;

    virtual size_t page_size() const = 0;

    // Whether the memory is a device's, which the host does not count.
    virtual bool on_device() const { return false; }

    // Both take whole pages. False if the system refuses; then nothing has changed.
    virtual bool commit (void * data, size_t size) = 0;
    virtual bool release(void * data, size_t size) = 0; // what was there reads as zero afterwards, or not at all

    // What to wait for before pages change, if that must not happen while something computes with them.
    virtual void synchronize_with(const std::function<void()> &) {}
};

// The pages of one range. One thread changes it; any may ask how much is committed.
class page_map {
public:
    // size: a number of whole pages, none of which is committed. What is committed is charged to the ledger, if there is one.
    page_map(page_driver & driver, void * data, size_t size, std::shared_ptr<page_ledger> ledger = nullptr);

    // Releases what is committed.
    ~page_map();

    // The memory goes in another way; forgets what is committed.
    void abandon();

    void synchronize_with(const std::function<void()> & wait) { driver.synchronize_with(wait); }

    page_map(const page_map &) = delete;
    page_map & operator=(const page_map &) = delete;

    // Makes [offset, offset + size) usable. False if the ledger or the system refuses; then no page is committed that was not.
    bool commit(size_t offset, size_t size);

    // Gives the committed pages that lie within [offset, offset + size) as a whole back. False if the system refuses some
    // of them; these stay committed and keep what they hold.
    bool release(size_t offset, size_t size);

    // What is committed counts there; null if nowhere.
    const page_ledger * account() const { return ledger.get(); }

    size_t page_size() const { return n_page; }
    size_t size()      const { return n_pages*n_page; }

    // Bytes of committed pages, all of them or those that [offset, offset + size) touches.
    uint64_t committed() const { return n_committed.load(std::memory_order_relaxed)*n_page; }
    uint64_t committed(size_t offset, size_t size) const;

    // Bytes of pages that commit(offset, size) would add.
    uint64_t missing(size_t offset, size_t size) const;

private:
    bool commit_pages(size_t first, size_t last);
    bool take(uint64_t bytes);
    void give(uint64_t bytes);

    bool test(size_t page) const;
    void mark(size_t first, size_t last, bool is_committed);

    // The first page from `first` on, but before `last`, that is committed or is not; else `last`.
    size_t find(size_t first, size_t last, bool is_committed) const;

    page_driver & driver;
    char * const  data;
    const size_t  n_page;  // bytes of a page
    const size_t  n_pages;

    const std::shared_ptr<page_ledger> ledger; // or null

    std::vector<std::atomic<uint64_t>> bits; // one per page
    std::atomic<uint64_t>              n_committed{ 0 };
};

} // namespace kvfold
