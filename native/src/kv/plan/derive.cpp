// What follows from a plan: which layers keep keys and values, in which cache, and which plans contradict themselves.

#include "kv/eviction/method.h"
#include "kv/plan/fail.h"

#include "hooks/kv-plan.h"

#include <algorithm>
#include <type_traits>

using kvfold::plans::fail;

static_assert(std::is_trivially_copyable<kvfold_plan>::value, "llama_hparams holds a plan by value");

// Which layers automatic retention decides on, and which producers it needs twice.
static void derive_automatic(kvfold_plan & plan) {
    plan.candidate.fill(0);
    plan.in_both.fill(0);
    if (!plan.is_automatic()) {
        return;
    }
    if (plan.upward()) {
        fail("automatic retention needs layers that read downward, this plan has upward readers");
    }
    uint32_t n = 0;
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        plan.candidate[il] = !plan.window[il] && !plan.excluded[il];
        n += plan.candidate[il];
    }
    if (n == 0) {
        fail("automatic retention has no layer to decide on");
    }
    if (plan.automatic == KVFOLD_BY_NUMBER && plan.n_full > n) {
        fail("full=" + std::to_string(plan.n_full) + " is more than the " + std::to_string(n) + " layers to choose from");
    }
    // a producer that some reader always needs in full is kept in full, and its lazy readers look at a part of it
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.candidate[il]) {
            plan.in_both[plan.kv[il]] = 1;
        }
    }
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (!plan.candidate[il] && !plan.window[il]) {
            plan.in_both[plan.kv[il]] = 0;
        }
    }
    if (std::none_of(plan.in_both.begin(), plan.in_both.end(), [](uint8_t in_both) { return in_both; })) {
        fail("automatic retention could free nothing: all that its layers read is read in full by layers that it leaves alone");
    }
}

// All that is read of a cache whose cells are no tokens any more, is read whole.
static void check_eviction(const kvfold_plan & plan) {
    if (!plan.evicts()) {
        return;
    }
    if (plan.is_automatic()) {
        fail("eviction cannot be combined with lazy layers that are told at run time");
    }
    if (plan.upward() && kvfold::evicts_by_queries(plan)) {
        fail("eviction by the attention of queries needs layers that read downward, this plan has upward readers");
    }
    bool any = false;
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        any |= plan.producer[il] && !plan.in_swa[il] && !plan.evict_skip[il];
        if (plan.window[il] && !plan.in_swa[plan.kv[il]]) {
            fail("layer " + std::to_string(il) + " reads through a window what layer " + std::to_string(plan.kv[il]) +
                 " keeps for others, from which eviction may take the recent tokens");
        }
    }
    if (!any) {
        fail("eviction has no layer to evict from");
    }
}

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
    any_window |= plan.is_automatic();
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
    derive_automatic(plan);
    check_eviction(plan);
}
