// Plans by the name that the literature gives them.

#include "kv/plan/grammar.h"

#include <algorithm>

namespace kvfold::plans {

void make_automatic(kvfold_plan & plan, kvfold_automatic how) {
    if (plan.is_automatic()) {
        fail(plan.automatic == how ? "automatic retention is given twice" : "lazy layers are told by a threshold or by a number, not by both");
    }
    plan.automatic = how;
}

namespace {

void standard(kvfold_plan & plan, uint32_t from, uint32_t to) {
    for (uint32_t il = from; il < to; ++il) {
        plan.kv[il] = (int16_t) il;
    }
}

void block(kvfold_plan & plan, uint32_t first, uint32_t last, const std::string & position) {
    const uint32_t target = position == "bottom" ? first : position == "top" ? last : (first + last)/2;
    for (uint32_t il = first; il <= last; ++il) {
        plan.kv[il] = (int16_t) target;
    }
}

void need_layers(const kvfold_plan & plan, const std::string & name, uint32_t min) {
    if (plan.n_layer < min) {
        fail(name + " needs at least " + std::to_string(min) + " layers, the model has " + std::to_string(plan.n_layer));
    }
}

// CLA: groups of k, the odd group is at the bottom and smaller
void cross_layer_attention(kvfold_plan & plan, uint32_t k) {
    const uint32_t L = plan.n_layer;
    const uint32_t odd = L % k;
    for (uint32_t il = 0; il < L; ++il) {
        plan.kv[il] = (int16_t) (il < odd ? 0 : odd + (il - odd)/k*k);
    }
}

void partitioned(kvfold_plan & plan, const std::string & partition, const std::string & position, uint32_t l) {
    const uint32_t L = plan.n_layer;
    standard(plan, 0, L);
    if (partition == "pizza") {
        block(plan, l - 1, L - 1, position);
    } else if (partition == "sandwich") {
        block(plan, l/2, L - 1 - (l - 1)/2, position);
    } else {
        // near-equal groups, the smaller ones at the bottom. The first layer keeps its own keys and values in every
        // configuration of the study, so with upper targets it stands alone.
        const bool alone = position != "bottom" && l > 1;
        uint32_t first = alone ? 1 : 0;
        for (uint32_t group = alone ? l - 1 : l; group > 0; --group) {
            const uint32_t size = (L - first)/group;
            block(plan, first, first + size - 1, position);
            first += size;
        }
    }
}

// StreamingLLM: every layer retains the sinks and the most recent tokens
void streaming(kvfold_plan & plan, uint32_t n_recent) {
    standard(plan, 0, plan.n_layer);
    std::fill_n(plan.window.begin(), plan.n_layer, (uint8_t) 1);
    plan.n_swa   = n_recent;
    plan.n_sinks = KVFOLD_DEFAULT_SINKS;
}

} // namespace

bool parse_name(kvfold_plan & plan, const std::string & text) {
    const uint32_t L = plan.n_layer;

    if (text == "standard") {
        standard(plan, 0, L);
        return true;
    }
    if (text == "streaming") {
        streaming(plan, KVFOLD_DEFAULT_RECENT);
        return true;
    }
    if (text == "simlayerkv") {
        standard(plan, 0, L);
        make_automatic(plan, KVFOLD_BY_THRESHOLD);
        return true;
    }
    const size_t colon = text.find(':');
    if (colon == std::string::npos) {
        return false;
    }
    const std::string name = text.substr(0, colon);
    const std::string arg  = text.substr(colon + 1);

    if (name == "cla" && arg == "keep-ends") {
        need_layers(plan, text, 2);
        standard(plan, 0, L);
        for (int il = (int) L - 2; il >= 2; il -= 2) {
            plan.kv[il] = (int16_t) (il - 1);
        }
    } else if (name == "cla" && arg == "dense-front") {
        need_layers(plan, text, 2);
        standard(plan, 0, L);
        std::fill(plan.kv.begin() + L/2, plan.kv.begin() + L - 1, (int16_t) (L/2 - 1));
    } else if (name == "cla" && arg == "dense-back") {
        need_layers(plan, text, 2);
        standard(plan, 0, L);
        std::fill(plan.kv.begin() + 2, plan.kv.begin() + std::max(2u, L - L/2 + 1), (int16_t) 1);
    } else if (name == "cla") {
        cross_layer_attention(plan, parse_number(arg, "layers per group", 1, L));
    } else if (name == "lckv") {
        partitioned(plan, "sandwich", "top", parse_number(arg, "number of warm-up layers", 0, L - 1) + 1);
    } else if (name == "mlkv") {
        partitioned(plan, "lasagna", "bottom", parse_number(arg, "number of KV layers", 1, L));
    } else if (name == "streaming") {
        streaming(plan, parse_number(arg, "number of recent tokens", 1, 999999999));
    } else if (name == "simlayerkv") {
        standard(plan, 0, L);
        make_automatic(plan, KVFOLD_BY_THRESHOLD);
        plan.threshold = parse_decimal(arg, "threshold");
    } else if (name == "lighttransfer") {
        standard(plan, 0, L);
        make_automatic(plan, KVFOLD_BY_NUMBER);
        plan.n_full = parse_number(arg, "number of full layers", 0, L);
    } else if (name == "yoco") {
        const uint32_t half = L/2;
        need_layers(plan, text, 2);
        plan.n_swa = parse_number(arg, "window", 1, 999999999);
        standard(plan, 0, L);
        for (uint32_t il = 0; il < L; ++il) {
            if (il < half) {
                plan.window[il] = 1;
            } else {
                plan.kv[il] = (int16_t) half;
            }
        }
    } else {
        const size_t dash = name.find('-');
        const std::string partition = name.substr(0, dash);
        const std::string position  = dash == std::string::npos ? "" : name.substr(dash + 1);
        if ((partition != "pizza" && partition != "sandwich" && partition != "lasagna") ||
            (position != "bottom" && position != "middle" && position != "top")) {
            fail("unknown name '" + name + "'; known are standard, streaming, simlayerkv, lighttransfer, cla, lckv, mlkv, yoco and {pizza,sandwich,lasagna}-{bottom,middle,top}");
        }
        partitioned(plan, partition, position, parse_number(arg, "number of KV layers", 1, L));
    }
    return true;
}

} // namespace kvfold::plans
