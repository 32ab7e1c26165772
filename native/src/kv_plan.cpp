#include "hooks/kv_plan.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>
#include <vector>

static_assert(std::is_trivially_copyable<kvfold_plan>::value, "llama_hparams holds a plan by value");

namespace {

[[noreturn]] void fail(const std::string & message) {
    throw std::invalid_argument("KV plan: " + message);
}

std::vector<std::string> split(const std::string & text, char separator) {
    std::vector<std::string> parts;
    size_t from = 0;
    for (;;) {
        const size_t to = text.find(separator, from);
        parts.push_back(text.substr(from, to - from));
        if (to == std::string::npos) {
            return parts;
        }
        from = to + 1;
    }
}

uint32_t parse_number(const std::string & text, const std::string & what) {
    if (text.empty() || text.size() > 9 || !std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
        fail("'" + text + "' is no " + what + " (a number of at most 9 digits)");
    }
    return (uint32_t) std::stoul(text);
}

uint32_t parse_number(const std::string & text, const std::string & what, uint32_t min, uint32_t max) {
    const uint32_t n = parse_number(text, what);
    if (n < min || n > max) {
        fail(what + " is " + text + ", allowed are " + std::to_string(min) + " to " + std::to_string(max));
    }
    return n;
}

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

// a plan by the name that the literature gives it; false if the text is no such name
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
            fail("unknown name '" + name + "'; known are standard, streaming, cla, lckv, mlkv, yoco and {pizza,sandwich,lasagna}-{bottom,middle,top}");
        }
        partitioned(plan, partition, position, parse_number(arg, "number of KV layers", 1, L));
    }
    return true;
}

void parse_map(kvfold_plan & plan, const std::string & text) {
    uint32_t il = 0;
    for (std::string token : split(text, '_')) {
        const std::string whole = token;
        uint32_t count = 1;
        if (const size_t x = token.find('x'); x != std::string::npos) {
            count = parse_number(token.substr(x + 1), "repeat count in '" + whole + "'", 1, KVFOLD_MAX_LAYERS);
            token.resize(x);
        }
        const bool window = !token.empty() && token.back() == 's';
        if (window) {
            token.pop_back();
        }
        const uint32_t kv = parse_number(token, "layer in '" + whole + "'");
        for (uint32_t c = 0; c < count; ++c, ++il) {
            if (il >= plan.n_layer) {
                fail("the map has more than " + std::to_string(plan.n_layer) + " layers, the model's number");
            }
            if (kv >= plan.n_layer) {
                fail("layer " + std::to_string(il) + " reads layer " + std::to_string(kv) +
                     ", but the layers are 0 to " + std::to_string(plan.n_layer - 1));
            }
            plan.kv[il]     = (int16_t) kv;
            plan.window[il] = window;
        }
    }
    if (il != plan.n_layer) {
        fail("the map has " + std::to_string(il) + " layers, the model has " + std::to_string(plan.n_layer));
    }
}

} // namespace

void kvfold_plan_derive(kvfold_plan & plan) {
    plan.producer.fill(0);
    plan.in_swa.fill(1);
    bool any_window = false;
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        plan.producer[plan.kv[il]] = 1;
        if (!plan.window[il]) {
            plan.in_swa[plan.kv[il]] = 0;
        }
        any_window |= plan.window[il];
    }
    for (uint32_t il = 0; il < KVFOLD_MAX_LAYERS; ++il) {
        plan.in_swa[il] = plan.in_swa[il] && il < plan.n_layer && plan.producer[il];
    }
    if (any_window && plan.n_swa == 0) {
        fail("a layer reads through a sliding window, but no window is given");
    }
    if (!any_window && plan.n_sinks != 0) {
        fail("sinks=" + std::to_string(plan.n_sinks) + " is given, but no layer reads through a sliding window");
    }
    if (!any_window && plan.n_swa != 0) {
        fail("window=" + std::to_string(plan.n_swa) + " is given, but no layer reads through a sliding window");
    }
}

kvfold_plan kvfold_plan_parse(const std::string & text, uint32_t n_layer) {
    if (n_layer == 0 || n_layer > KVFOLD_MAX_LAYERS) {
        fail("a model of " + std::to_string(n_layer) + " layers, allowed are 1 to " + std::to_string(KVFOLD_MAX_LAYERS));
    }

    kvfold_plan plan;
    plan.n_layer = n_layer;

    const auto parts = split(text, ';');
    if (!parse_name(plan, parts[0])) {
        parse_map(plan, parts[0]);
    }

    std::vector<std::string> seen;
    for (size_t i = 1; i < parts.size(); ++i) {
        const std::string & attribute = parts[i];
        const size_t eq = attribute.find('=');
        const std::string name  = attribute.substr(0, eq);
        const std::string value = eq == std::string::npos ? "" : attribute.substr(eq + 1);

        if (std::find(seen.begin(), seen.end(), name) != seen.end()) {
            fail("attribute '" + name + "' is given twice");
        }
        seen.push_back(name);

        if (name == "strict" && eq == std::string::npos) {
            plan.strict = true;
        } else if (name == "exact" && eq == std::string::npos) {
            plan.n_passes = 0;
        } else if (name == "passes" && eq != std::string::npos) {
            plan.n_passes = parse_number(value, "number of prefill passes", 1, 999999999);
        } else if (name == "window" && eq != std::string::npos) {
            if (plan.n_swa != 0) {
                fail("the window is given twice, " + std::to_string(plan.n_swa) + " and " + value);
            }
            plan.n_swa = parse_number(value, "window", 1, 999999999);
        } else if (name == "sinks" && eq != std::string::npos) {
            if (plan.n_sinks != 0) {
                fail("the sinks are given twice, " + std::to_string(plan.n_sinks) + " and " + value);
            }
            plan.n_sinks = parse_number(value, "number of sinks", 1, 999999999);
        } else {
            fail("unknown attribute '" + attribute + "'; known are window=N, sinks=N, strict, passes=N and exact");
        }
        if (name == "exact" || name == "passes") {
            if (plan.passes_given) {
                fail("'passes' and 'exact' exclude each other");
            }
            plan.passes_given = true;
        }
    }

    kvfold_plan_derive(plan);
    return plan;
}

std::string kvfold_plan::str() const {
    std::string text;
    for (uint32_t il = 0; il < n_layer; ++il) {
        text += (il ? "_" : "") + std::to_string(kv[il]) + (window[il] ? "s" : "");
    }
    if (n_swa) {
        text += ";window=" + std::to_string(n_swa);
    }
    if (n_sinks) {
        text += ";sinks=" + std::to_string(n_sinks);
    }
    if (strict) {
        text += ";strict";
    }
    if (passes_given) {
        text += n_passes ? ";passes=" + std::to_string(n_passes) : ";exact";
    }
    return text;
}

uint64_t kvfold_plan::hash() const {
    // FNV-1a; std::hash may change between two builds, a saved state may not
    uint64_t h = 1469598103934665603ull;
    for (const char c : str()) {
        h = (h ^ (unsigned char) c)*1099511628211ull;
    }
    return h;
}
