#include "kv/plan/eviction.h"

#include "kv/eviction/method.h"
#include "kv/plan/grammar.h"

#include <algorithm>
#include <set>

namespace kvfold::plans {

static std::string known_methods() {
    std::string names;
    for (size_t i = 1; i < evict_methods().size(); ++i) {
        names += (i == 1 ? "" : i + 1 == evict_methods().size() ? " and " : ", ") + std::string(evict_methods()[i].name);
    }
    return names;
}

static uint8_t find_method(const std::string & name) {
    const auto & all = evict_methods();
    const auto   at  = std::find_if(all.begin() + 1, all.end(), [&](const evict_method & each) { return each.name == name; });
    if (at == all.end()) {
        fail("'" + name + "' is no method of eviction; known are " + known_methods());
    }
    return (uint8_t) (at - all.begin());
}

static void parse_budget(kvfold_plan & plan, const std::string & text) {
    if (text.find('.') == std::string::npos) {
        plan.evict_budget = parse_number(text, "number of tokens to keep", 1, 999999999);
        return;
    }
    plan.evict_share = parse_decimal(text, "share of tokens to keep");
    if (plan.evict_share == 0) {
        fail("the share of tokens to keep is " + text + ", allowed are numbers above 0");
    }
}

std::string eviction_name(const std::string & attribute) {
    return attribute == "recent" ? "queries" : attribute;
}

bool is_about_eviction(const std::string & attribute) {
    const auto & all = evict_methods();
    return attribute == "evict" || attribute == "at" || attribute == "answer" || attribute == "skip" ||
           std::any_of(all.begin(), all.end(), [&](const evict_method & each) { return each.find(attribute) >= 0; });
}

std::string eviction_parameters() {
    std::set<std::string> names;
    for (const evict_method & method : evict_methods()) {
        for (const evict_parameter & each : method.parameters) {
            names.insert(each.name);
        }
    }
    names.erase("sinks");
    names.erase("queries");
    std::string list;
    for (const std::string & name : names) {
        list += (list.empty() ? "" : ", ") + name + "=N";
    }
    return list;
}

static constexpr uint32_t usual_chunk = 512, least_chunk = 16, most_chunk = 999999999;

static void parse_when(kvfold_plan & plan, const std::string & text) {
    const std::string in_chunks = "chunk:";
    if (text == "end") {
        plan.evict_chunk = 0;
    } else if (text == "chunk") {
        plan.evict_chunk = usual_chunk;
    } else if (text.compare(0, in_chunks.size(), in_chunks) == 0) {
        plan.evict_chunk = parse_number(text.substr(in_chunks.size()), "number of tokens in a chunk", least_chunk, most_chunk);
    } else {
        fail("'" + text + "' is no time to evict; known are end, chunk and chunk:TOKENS");
    }
}

// A list of names for a message.
static std::string methods_in_answers() {
    std::vector<std::string> names;
    kvfold_plan              plan;
    for (size_t i = 1; i < evict_methods().size(); ++i) {
        plan.evict = (uint8_t) i;
        if (evicts_in_answers(plan)) {
            names.push_back(evict_methods()[i].name);
        }
    }
    std::string text;
    for (size_t i = 0; i < names.size(); ++i) {
        text += (i == 0 ? "" : i + 1 == names.size() ? " and " : ", ") + names[i];
    }
    return text;
}

static void parse_answer(kvfold_plan & plan, const std::string & text) {
    if (!evicts_in_answers(plan)) {
        fail(std::string(evict_methods()[plan.evict].name) + " looks at the queries of a prompt, so it evicts nothing during the answer (answer=" + text +
             "); " + methods_in_answers() + " do");
    }
    plan.evict_answer = parse_number(text, "number of tokens of an answer between evictions", 1, most_chunk);
}

static bool has_windows(const kvfold_plan & plan) {
    return plan.is_automatic() || std::any_of(plan.window.begin(), plan.window.end(), [](uint8_t window) { return window != 0; });
}

static void check_queries(const kvfold_plan & plan) {
    const uint32_t n_queries = evict_queries_of(plan);
    if (plan.evict_chunk > 0 && plan.evict == EVICT_OBSERVED) {
        fail(std::string(evict_methods()[plan.evict].name) + " looks at all queries of a prompt, so it evicts at its end only, not with at=chunk");
    }
    if (plan.evict_chunk > 0 && plan.evict_chunk < n_queries && !evict_keeps_votes(plan)) {
        fail("a chunk has " + std::to_string(plan.evict_chunk) + " tokens, fewer than the last " + std::to_string(n_queries) + ", whose attention decides");
    }
    if (plan.evict_answer > 0 && plan.evict_answer < n_queries && !evict_keeps_votes(plan)) {
        fail("answer=" + std::to_string(plan.evict_answer) + " is fewer than the last " + std::to_string(n_queries) + " tokens, whose attention decides");
    }
    const uint32_t n_recent = evict_recent_of(plan);
    if (plan.evict_budget > 0 && plan.evict_budget <= n_recent) {
        fail("the number of tokens to keep is " + std::to_string(plan.evict_budget) + ", not more than the last " + std::to_string(n_recent) +
             ", which always stay");
    }
    if (evict_methods()[plan.evict].find("kernel") >= 0 && evict_parameter_of(plan, "kernel") % 2 == 0) {
        fail("kernel is " + std::to_string(evict_parameter_of(plan, "kernel")) + ", allowed are odd numbers");
    }
}

void parse_eviction(kvfold_plan & plan, const std::map<std::string, std::string> & attributes) {
    const auto found = attributes.find("evict");
    if (found == attributes.end()) {
        for (const auto & [name, _] : attributes) {
            if (is_about_eviction(name) && name != "sinks" && name != "queries") { // which others have as well
                fail(name + " belongs to eviction: evict=METHOD:BUDGET");
            }
        }
        return;
    }
    const size_t colon = found->second.find(':');
    if (colon == std::string::npos) {
        fail("evict=" + found->second + " needs a budget, in tokens or as a share of them, as in evict=knorm:1024 or evict=knorm:0.25");
    }
    plan.evict = find_method(found->second.substr(0, colon));
    parse_budget(plan, found->second.substr(colon + 1));

    const evict_method & method = evict_methods()[plan.evict];
    for (size_t i = 0; i < method.parameters.size(); ++i) {
        plan.evict_parameters[i] = method.parameters[i].usual;
    }
    for (const auto & [name, value] : attributes) {
        const int i = method.find(name);
        if (i >= 0) {
            plan.evict_parameters[i] = parse_number(value, name, method.parameters[i].least, method.parameters[i].most);
        } else if (name == "at") {
            parse_when(plan, value);
        } else if (name == "answer") {
            parse_answer(plan, value);
        } else if (name == "skip") {
            for (const std::string & layer : split(value, '_')) {
                plan.evict_skip[parse_number(layer, "layer to leave alone", 0, plan.n_layer - 1)] = 1;
            }
        } else if (name != "evict" && name != "sinks" && is_about_eviction(name)) {
            fail(std::string(method.name) + " has no " + name);
        }
    }
    const int i_sinks = method.find("sinks");
    if (i_sinks >= 0 && has_windows(plan) && plan.n_sinks > 0) {
        plan.evict_parameters[i_sinks] = plan.n_sinks;
    } else if (i_sinks >= 0 && has_windows(plan) && plan.evict_parameters[i_sinks] != method.parameters[i_sinks].usual) {
        fail("windows and eviction keep the same sinks, but only eviction has sinks=" + std::to_string(plan.evict_parameters[i_sinks]));
    } else if (i_sinks >= 0 && !has_windows(plan)) {
        plan.n_sinks = 0; // they are the method's alone
    }
    if (evicts_by_queries(plan)) {
        check_queries(plan);
        plan.n_queries = evict_queries_of(plan);
    }
}

void parse_eviction(kvfold_plan & plan, const std::string & text) {
    std::map<std::string, std::string> attributes;
    for (const std::string & each : split(text, ';')) {
        const size_t      eq   = each.find('=');
        const std::string name = eviction_name(each.substr(0, eq));
        if (eq == std::string::npos || !is_about_eviction(name) || !attributes.emplace(name, each.substr(eq + 1)).second) {
            fail("'" + each + "' in '" + text + "' is no attribute of eviction, or is there twice");
        }
    }
    parse_eviction(plan, attributes);
}

std::string eviction_text(const kvfold_plan & plan) {
    if (!plan.evicts()) {
        return "";
    }
    const evict_method & method = evict_methods()[plan.evict];
    std::string text = std::string(";evict=") + method.name + ":";
    text += plan.evict_budget > 0                     ? std::to_string(plan.evict_budget)
            : plan.evict_share < KVFOLD_THRESHOLD_ONE ? decimal_text(plan.evict_share)
                                                      : "1.0"; // 1 is a number of tokens
    for (size_t i = 0; i < method.parameters.size(); ++i) {
        const evict_parameter & each = method.parameters[i];
        const bool is_said = each.name == std::string("sinks") && plan.n_sinks > 0;
        if (plan.evict_parameters[i] != each.usual && !is_said) {
            text += std::string(";") + each.name + "=" + std::to_string(plan.evict_parameters[i]);
        }
    }
    if (plan.evict_chunk > 0) {
        text += ";at=chunk" + (plan.evict_chunk == usual_chunk ? "" : ":" + std::to_string(plan.evict_chunk));
    }
    if (plan.evict_answer > 0) {
        text += ";answer=" + std::to_string(plan.evict_answer);
    }
    const char * separator = ";skip=";
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.evict_skip[il]) {
            text += separator + std::to_string(il);
            separator = "_";
        }
    }
    return text;
}

} // namespace kvfold::plans
