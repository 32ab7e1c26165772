#include "text/limits.h"

#include "hooks/text-limits.h"
#include "process/error.h"

#include "llama-grammar.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__APPLE__)
#    include <malloc/malloc.h>
#else
#    include <malloc.h>
#endif

namespace kvfold {

// A look at a variable takes thirty allocations, and a million of them tenths of a second. A long chat takes more, so what it brings counts.
static constexpr int64_t base_steps           = 2'000'000;
static constexpr int64_t base_allocations     = 6'000'000;
static constexpr int64_t steps_per_byte       = 16;
static constexpr int64_t allocations_per_byte = 100;
static constexpr int64_t max_moves            = (int64_t) 8 << 30; // a second or two
static constexpr int     max_depth            = 20'000; // a level takes a kilobyte of stack, deep_thread has 256 MiB
static constexpr int64_t max_held             = 256 << 20;

// What smaller allocations add is noticed by the next step.
static constexpr size_t large = 1 << 20;

static thread_local int             depth = 0; // nodes that run inside each other; what is allocated counts while there are any
static thread_local template_budget budget{ base_steps, base_allocations, max_moves, 0, false };

static thread_local std::function<bool()> * stop_now = nullptr;

template_scope::template_scope(size_t input_bytes, std::function<bool()> asked) : outer(budget), stop(std::move(asked)), outer_stop(stop_now) {
    const int64_t bytes = (int64_t) std::min<size_t>(input_bytes, 1u << 30);
    budget              = { base_steps + bytes * steps_per_byte, base_allocations + bytes * allocations_per_byte, max_moves, 0, false };
    stop_now            = stop ? &stop : nullptr;
}

template_scope::~template_scope() {
    budget   = outer;
    stop_now = outer_stop;
}

bool template_scope::exceeded() const {
    return budget.exceeded;
}

// What it is ended with.
static const std::string & exceeds(const std::string & why) {
    budget.exceeded = true;
    return why;
}

static size_t block_size(void * block) {
#if defined(__APPLE__)
    return malloc_size(block);
#elif defined(_WIN32)
    return _msize(block);
#else
    return malloc_usable_size(block);
#endif
}

// What an allocation function may throw.
struct allocation_refused : std::bad_alloc {
    const char * const message;

    explicit allocation_refused(const char * message) : message(message) {}

    const char * what() const noexcept override { return message; }
};

static const std::string holds_too_much = "the chat template holds more than " + std::to_string(max_held >> 20) + " MiB";
static const std::string takes_too_long = "the chat template takes too long";

// A loop without a body takes no steps.
static void count_allocation(size_t size) {
    static constexpr int64_t way_out = 100'000; // which may allocate in its turn
    if (budget.allocations-- <= 0) {
        budget.allocations += way_out;
        throw allocation_refused(exceeds(takes_too_long).c_str());
    }
    if (size >= large && budget.held + (int64_t) size > max_held) {
        throw allocation_refused(exceeds(holds_too_much).c_str());
    }
}

// Work of a grammar for one token, in nanoseconds or so: elements copied into stacks and sorted, stacks compared with each other, and
// candidates looked at. An enumeration of a thousand texts over a vocabulary of 150,000 tokens takes four fifths of it.
static constexpr int64_t    work_of_element   = 64;
static constexpr int64_t    work_of_stack     = 8;
static constexpr int64_t    work_of_candidate = 3;
static constexpr int64_t    max_work          = (int64_t) 1 << 29;
static constexpr size_t     max_elements    = 1 << 20; // of all stacks between two tokens
static thread_local int     grammar_depth   = 0;
static thread_local int64_t grammar_work    = 0;
static thread_local int64_t grammar_copies  = 0;
static thread_local bool    grammar_takes   = false; // a token: all stacks that come of it are compared with each other

static void work(int64_t amount) {
    grammar_work += amount;
    if (grammar_depth > 0 && grammar_work > max_work) {
        throw limit_exceeded("the grammar has too many ways to go on, so that a token takes too long");
    }
}

} // namespace kvfold

using namespace kvfold;

// ---- templates ----------------------------------------------------------------------------------------------------------

kvfold_template_step::kvfold_template_step() {
    if (depth >= max_depth) {
        throw limit_exceeded(exceeds("the chat template calls itself more than " + std::to_string(max_depth) + " levels deep"));
    }
    if (budget.steps-- <= 0) {
        throw limit_exceeded(exceeds(takes_too_long));
    }
    if (budget.steps % 1024 == 0 && stop_now && (*stop_now)()) {
        throw limit_exceeded(exceeds("the request was ended while its chat template ran"));
    }
    if (budget.held > max_held) {
        throw limit_exceeded(exceeds(holds_too_much));
    }
    depth++;
}

kvfold_template_step::~kvfold_template_step() {
    depth--;
}

void kvfold_template_moves(size_t n_bytes) {
    budget.moves -= (int64_t) n_bytes;
    if (budget.moves < 0) {
        throw limit_exceeded(exceeds(takes_too_long));
    }
}

// Of this library alone: the linker binds them here and exports nothing, libstdc++ is linked in, and what either side of its border frees
// is malloc's. There is no other place that sees what a function of a template is about to take: range(1000000000) is one step.
void * operator new(size_t size) {
    if (depth > 0) {
        count_allocation(size);
    }
    void * block;
    while (!(block = malloc(std::max<size_t>(size, 1)))) {
        const std::new_handler handler = std::get_new_handler();
        if (!handler) {
            throw std::bad_alloc();
        }
        handler();
    }
    if (depth > 0) {
        budget.held += (int64_t) block_size(block);
    }
    return block;
}

// What a sanitizer has in the place of this one does not come from the one above.
void * operator new(size_t size, const std::nothrow_t &) noexcept {
    try {
        return operator new(size);
    } catch (...) {
        return nullptr;
    }
}

void operator delete(void * block) noexcept {
    if (depth > 0 && block) {
        budget.held -= (int64_t) block_size(block);
    }
    free(block);
}

void operator delete(void * block, size_t) noexcept {
    operator delete(block);
}

// ---- grammars -----------------------------------------------------------------------------------------------------------

kvfold_grammar_scope::kvfold_grammar_scope(const llama_grammar & grammar) {
    size_t elements = 0;
    for (const auto & stack : grammar.stacks) {
        elements += 1 + stack.size();
    }
    if (elements > max_elements) {
        throw limit_exceeded("the grammar has too many ways to go on, " + std::to_string(grammar.stacks.size()) + " after what is written");
    }
    if (grammar_depth++ == 0) {
        grammar_work = grammar_copies = 0;
        grammar_takes = !grammar.stacks.empty();
    }
    outer_guard = abort_guard::set(true);
}

kvfold_grammar_scope::~kvfold_grammar_scope() {
    abort_guard::set(outer_guard);
    grammar_depth--;
}

void kvfold_grammar_copies(size_t n_elements, size_t n_stacks) {
    const int64_t compared = grammar_takes ? grammar_copies++ : (int64_t) n_stacks;
    work((1 + (int64_t) n_elements) * work_of_element + compared * work_of_stack);
}

void kvfold_grammar_looks_at(size_t n_candidates) {
    grammar_takes = false; // before it takes one it looks
    work((1 + (int64_t) n_candidates) * work_of_candidate);
}

void kvfold_grammar_redirect(const llama_grammar & from, llama_grammar & to) {
    std::vector<std::pair<const llama_grammar_element *, size_t>> rules;
    for (size_t i = 0; i < from.rules.size(); i++) {
        rules.emplace_back(from.rules[i].data(), i);
    }
    std::sort(rules.begin(), rules.end());
    for (auto & stack : to.stacks) {
        for (const llama_grammar_element *& element : stack) {
            const auto after = std::upper_bound(rules.begin(), rules.end(), std::make_pair(element, SIZE_MAX));
            const auto [data, i] = *(after - 1);
            element = to.rules[i].data() + (element - data);
        }
    }
}
