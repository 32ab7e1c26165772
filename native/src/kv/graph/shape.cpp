#include "hooks/graph-shape.h"

#include "ggml/src/ggml-impl.h"

#include <unordered_map>

namespace {

class hasher {
public:
    void add(uint64_t value) {
        hash = (hash ^ value)*0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }

    uint64_t value() const { return hash; }

private:
    uint64_t hash = 0xcbf29ce484222325u;
};

bool lies_elsewhere(const ggml_tensor * t) {
    return t->data && !t->view_src;
}

} // namespace

uint64_t kvfold_graph_shape(const ggml_cgraph * graph) {
    hasher hash;
    std::unordered_map<const ggml_tensor *, uint64_t> index;
    index.reserve((size_t) graph->n_leafs + graph->n_nodes);
    const auto add_reference = [&](const ggml_tensor * t) {
        const auto found = index.find(t->view_src ? t->view_src : t);
        hash.add(found == index.end() ? 1 : found->second << 1);
        hash.add(t->view_src != nullptr);
    };
    const auto add = [&](const ggml_tensor * t) {
        hash.add(((uint64_t) t->op << 32) + ((uint64_t) (uint32_t) t->flags << 1) + lies_elsewhere(t));
        for (int i = 0; i < GGML_MAX_SRC; ++i) {
            if (t->src[i]) {
                hash.add(i);
                add_reference(t->src[i]);
            }
        }
        if (t->view_src) {
            add_reference(t);
        }
        index.emplace(t, index.size() + 1);
    };
    for (int i = 0; i < graph->n_leafs; ++i) {
        add(graph->leafs[i]);
    }
    for (int i = 0; i < graph->n_nodes; ++i) {
        add(graph->nodes[i]);
    }
    return hash.value();
}
