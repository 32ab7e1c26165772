// Plans as text: what each word of it means, and the text of a plan.

#include "kv/plan/grammar.h"

#include "kv/plan/eviction.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <vector>

namespace kvfold::plans {

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

uint32_t parse_decimal(const std::string & text, const std::string & what) {
    const size_t point = text.find('.');
    std::string  whole = text.substr(0, point);
    std::string  parts = point == std::string::npos ? "" : text.substr(point + 1);
    const auto   is_digits = [](const std::string & s) { return std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; }); };
    if (whole.empty() || whole.size() > 3 || parts.size() > 6 || !is_digits(whole) || !is_digits(parts) || (point != std::string::npos && parts.empty())) {
        fail("'" + text + "' is no " + what + " (a number from 0 to 1 with at most 6 digits after the point)");
    }
    parts.resize(6, '0');
    const uint32_t millionths = (uint32_t) std::stoul(whole)*KVFOLD_THRESHOLD_ONE + (uint32_t) std::stoul(parts);
    if (millionths > KVFOLD_THRESHOLD_ONE) {
        fail(what + " is " + text + ", allowed are 0 to 1");
    }
    return millionths;
}

std::string decimal_text(uint32_t millionths) {
    std::string digits = std::to_string(millionths % KVFOLD_THRESHOLD_ONE);
    digits.insert(0, 6 - digits.size(), '0');
    digits.erase(digits.find_last_not_of('0') + 1);
    return std::to_string(millionths/KVFOLD_THRESHOLD_ONE) + (digits.empty() ? "" : "." + digits);
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

namespace {

const char * const decide_names[] = { "early", "end", "decode" }; // by kvfold_decide

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

} // namespace kvfold::plans

using namespace kvfold::plans;

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

    bool about_automatic = false;
    std::map<std::string, std::string> seen;
    for (size_t i = 1; i < parts.size(); ++i) {
        const std::string & attribute = parts[i];
        const size_t eq = attribute.find('=');
        const std::string name  = eviction_name(attribute.substr(0, eq));
        const std::string value = eq == std::string::npos ? "" : attribute.substr(eq + 1);

        if (!seen.emplace(name, value).second) {
            fail("attribute '" + name + "' is given twice");
        }

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
        } else if (name == "lazy" && eq != std::string::npos) {
            make_automatic(plan, KVFOLD_BY_THRESHOLD);
            plan.threshold = value == "default" ? KVFOLD_THRESHOLD_DEFAULT : parse_decimal(value, "threshold");
        } else if (name == "full" && eq != std::string::npos) {
            make_automatic(plan, KVFOLD_BY_NUMBER);
            plan.n_full = parse_number(value, "number of full layers", 0, n_layer);
        } else if (name == "queries" && eq != std::string::npos) {
            plan.n_queries = parse_number(value, "number of scored queries", 1, KVFOLD_MAX_QUERIES);
        } else if (name == "decide" && eq != std::string::npos) {
            const auto found = std::find(std::begin(decide_names), std::end(decide_names), value);
            if (found == std::end(decide_names)) {
                fail("'" + value + "' is no time to decide; known are early, end and decode");
            }
            plan.decide     = (kvfold_decide) (found - std::begin(decide_names));
            about_automatic = true;
        } else if (name == "keep" && eq != std::string::npos) {
            for (const std::string & layer : split(value, '_')) {
                plan.excluded[parse_number(layer, "layer to keep full", 0, n_layer - 1)] = 1;
            }
            about_automatic = true;
        } else if (eq == std::string::npos || !is_about_eviction(name)) {
            fail("unknown attribute '" + attribute + "'; known are window=N, sinks=N, lazy=THRESHOLD, full=N, queries=N, decide=WHEN, "
                 "keep=LAYERS, evict=METHOD:BUDGET, at=WHEN, answer=N, skip=LAYERS, " + eviction_parameters() + ", strict, passes=N and exact");
        }
        if (name == "exact" || name == "passes") {
            if (plan.passes_given) {
                fail("'passes' and 'exact' exclude each other");
            }
            plan.passes_given = true;
        }
    }

    parse_eviction(plan, seen);
    about_automatic |= seen.count("queries") > 0 && !plan.evicts();
    if (about_automatic && !plan.is_automatic()) {
        fail("queries, decide and keep belong to automatic retention: lazy=THRESHOLD or full=N");
    }
    if (plan.is_automatic()) {
        if (plan.n_swa == 0) {
            plan.n_swa = plan.automatic == KVFOLD_BY_NUMBER ? KVFOLD_LIGHTTRANSFER_RECENT : KVFOLD_DEFAULT_RECENT;
        }
        if (plan.n_sinks == 0) {
            plan.n_sinks = KVFOLD_DEFAULT_SINKS;
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
    if (automatic == KVFOLD_BY_THRESHOLD) {
        text += ";lazy=" + (threshold == KVFOLD_THRESHOLD_DEFAULT ? "default" : decimal_text(threshold));
    }
    if (automatic == KVFOLD_BY_NUMBER) {
        text += ";full=" + std::to_string(n_full);
    }
    if (is_automatic() && n_queries != KVFOLD_DEFAULT_QUERIES) {
        text += ";queries=" + std::to_string(n_queries);
    }
    if (decide != KVFOLD_DECIDE_EARLY) {
        text += std::string(";decide=") + decide_names[decide];
    }
    const char * separator = ";keep=";
    for (uint32_t il = 0; il < n_layer; ++il) {
        if (excluded[il]) {
            text += separator + std::to_string(il);
            separator = "_";
        }
    }
    text += eviction_text(*this);
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
