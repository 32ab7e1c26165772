// Pages that hold a large number until a cell is written, and again since they were given back: whoever reads a cell that is
// not there gets a wrong answer, not one that is almost right. The number is finite in every type, for rows that are masked are
// multiplied, too, by zero.
#pragma once

#include "kv/memory/host_pages.h"
#include "kv/memory/pages.h"

#include <cstring>

struct filled_pages : kvfold::page_driver {
    size_t page_size() const override { return 4096; }

    bool commit(void * data, size_t size) override {
        memset(data, 0x5A, size);
        return true;
    }

    bool release(void * data, size_t size) override {
        memset(data, 0x5A, size);
        return true;
    }
};
