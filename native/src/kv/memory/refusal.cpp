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

static const char refusal_words[] = "the system gives no memory for more keys and values: ";

std::string memory_refusal::text() const {
    return refusal_words + std::to_string(bytes) + " bytes beside the " + std::to_string(committed) + " that they take";
}

std::optional<memory_refusal> memory_refusal::parse(const std::string & text) {
    const size_t at = text.find(refusal_words);
    if (at == std::string::npos) {
        return std::nullopt;
    }
    char *         end   = nullptr;
    memory_refusal found = { strtoull(text.c_str() + at + strlen(refusal_words), &end, 10), 0 };
    found.committed = strtoull(end + strlen(" bytes beside the "), nullptr, 10);
    return found;
}

error out_of_memory(const memory_refusal & refusal) {
    return error(KVFOLD_ERROR_OUT_OF_MEMORY, refusal.text() + "; a \"kv-budget\" lets requests wait for memory")
        .compares((int64_t) (refusal.committed + refusal.bytes), (int64_t) refusal.committed)
        .about_option("kv-budget");
}

std::optional<memory_refusal> refusal_of(const llama_memory_i * memory) {
    uint64_t                                   bytes = 0, committed = 0;
    std::set<const ggml_backend_buffer *> buffers;
    for (const llama_kv_cache * cache : kv_caches_of(memory)) {
        bytes = std::max(bytes, cache->kv_memory->refused.load());
        for (const cell_area & area : cache->kv_memory->areas) {
            if (buffers.insert(area.tensor->buffer).second) {
                committed += area.pages->committed();
            }
        }
    }
    return bytes > 0 ? std::optional<memory_refusal>({ bytes, committed }) : std::nullopt;
}

} // namespace kvfold

using namespace kvfold;

void kvfold_explain_full_cache(llama_context * context, std::string & error) {
    if (const auto refusal = refusal_of(llama_get_memory(context))) {
        error = refusal->text();
    }
}
