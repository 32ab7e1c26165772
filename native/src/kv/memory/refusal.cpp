#include "kv/memory/refusal.h"

#include "hooks/kv-memory.h"
#include "kv/memory/caches.h"
#include "kv/memory/cell_pages.h"

#include "llama-context.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>

namespace kvfold {

static const char refusal_words[] = "no memory for more keys and values: ";

std::string memory_refusal::text() const {
    return (cap > 0 ? "\"kv-budget\" leaves " : "the system gives ") + std::string(refusal_words) + std::to_string(bytes) +
           " bytes beside the " + std::to_string(committed) + " that they take" + (cap > 0 ? " of " + std::to_string(cap) : "");
}

std::optional<memory_refusal> memory_refusal::parse(const std::string & text) {
    const size_t at = text.find(refusal_words);
    if (at == std::string::npos) {
        return std::nullopt;
    }
    char *         end   = nullptr;
    memory_refusal found = { strtoull(text.c_str() + at + strlen(refusal_words), &end, 10), 0, 0 };
    found.committed = strtoull(end + strlen(" bytes beside the "), &end, 10);
    const char capped[] = " that they take of ";
    if (strncmp(end, capped, strlen(capped)) == 0) {
        found.cap = strtoull(end + strlen(capped), nullptr, 10);
    }
    return found;
}

error out_of_memory(const memory_refusal & refusal) {
    if (refusal.cap > 0) {
        return error(KVFOLD_ERROR_BUDGET_EXCEEDED, refusal.text())
            .compares((int64_t) (refusal.committed + refusal.bytes), (int64_t) refusal.cap)
            .about_option("kv-budget");
    }
    return error(KVFOLD_ERROR_OUT_OF_MEMORY, refusal.text() + "; a \"kv-budget\" lets requests wait for memory")
        .compares((int64_t) (refusal.committed + refusal.bytes), (int64_t) refusal.committed)
        .about_option("kv-budget");
}

std::optional<memory_refusal> refusal_of(const llama_memory_i * memory) {
    uint64_t                              bytes = 0, committed = 0, cap = 0, held = 0;
    std::set<const ggml_backend_buffer *> buffers;
    for (const llama_kv_cache * cache : kv_caches_of(memory)) {
        if (const uint64_t refused = cache->kv_memory->refused; refused > bytes) {
            bytes = refused;
            cap   = cache->kv_memory->cap;
            held  = cache->kv_memory->held;
        }
        for (const cell_area & area : cache->kv_memory->areas) {
            if (buffers.insert(area.tensor->buffer).second) {
                committed += area.pages->committed();
            }
        }
    }
    return bytes > 0 ? std::optional<memory_refusal>({ bytes, cap > 0 ? held : committed, cap }) : std::nullopt;
}

} // namespace kvfold

using namespace kvfold;

void kvfold_explain_full_cache(llama_context * context, std::string & error) {
    if (const auto refusal = refusal_of(llama_get_memory(context))) {
        error = refusal->text();
    }
}
