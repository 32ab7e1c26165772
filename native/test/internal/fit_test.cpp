// Pool, budget and context of an engine as they are chosen before a model is loaded, on machines that are made up.

#include "../kvfold_test.h"

#include "engine/fit.h"

using namespace kvfold_test;
using kvfold::describe_fit_to_memory;
using kvfold::engine_options;
using kvfold::error;
using kvfold::fit_to_memory;
using kvfold::memory_places;
using kvfold::model_facts;
using kvfold::weights_on_host;

static constexpr uint64_t MiB = uint64_t(1) << 20;
static constexpr uint64_t GiB = uint64_t(1) << 30;

// Llama-3.1-8B: 32 layers of 8 heads of 128, 131,072 tokens, 128 KiB of F16 for each.
static model_facts llama_8b() {
    model_facts facts;
    facts.layers = 32, facts.heads = 32, facts.embedding = 4096, facts.vocabulary = 128256;
    facts.context_length = 131072;
    facts.bytes          = 4692*MiB;
    facts.k_elements.assign(32, 1024);
    facts.v_elements.assign(32, 1024);
    return facts;
}

static engine_options with_slots(int32_t n) {
    engine_options options;
    options.params.n_parallel = n;
    options.params.kv_unified = true;
    return options;
}

static memory_places host(uint64_t bytes) {
    memory_places places;
    places.host = bytes;
    return places;
}

static void fit(engine_options & options, const memory_places & places, const char * plan = "standard") {
    fit_to_memory(options, llama_8b(), kvfold_plan_parse(plan, 32), places);
}

template <typename F> static error refused(F && f) {
    try {
        f();
    } catch (const error & e) {
        return e;
    }
    failures++;
    fprintf(stderr, "nothing was refused\n");
    return error(KVFOLD_OK, "");
}

static void a_large_machine_holds_the_trained_context_of_each_slot() {
    engine_options o = with_slots(4);
    fit(o, host(256*GiB));
    CHECK_EQUAL(o.params.kv_unified_per_slot, 131072);
    CHECK_EQUAL(o.params.n_ctx, 4*131072);
    CHECK_EQUAL(o.params.n_ubatch, 512);
    CHECK(o.kv_budget > 140*GiB && o.kv_budget < 152*GiB); // 60% of 256 GiB less weights and buffers
    CHECK(!o.kv_budget_given);
}

static void a_smaller_one_holds_fewer_in_its_pool_and_still_one_whole() {
    engine_options o = with_slots(4);
    fit(o, host(48*GiB));
    CHECK_EQUAL(o.params.kv_unified_per_slot, 131072);
    CHECK(o.params.n_ctx > 131072 && o.params.n_ctx < 4*131072 && o.params.n_ctx % 256 == 0);
    CHECK((uint64_t) o.params.n_ctx*(128 << 10) <= o.kv_budget);
}

static void where_not_even_one_fits_a_request_gets_what_does() {
    engine_options o = with_slots(4);
    fit(o, host(12*GiB));
    CHECK(o.params.kv_unified_per_slot > 20000 && o.params.kv_unified_per_slot < 40000);
    CHECK(o.params.n_ctx >= o.params.kv_unified_per_slot && o.params.n_ctx <= o.params.kv_unified_per_slot + 256);
    CHECK(describe_fit_to_memory(o, llama_8b(), kvfold_plan_parse("standard", 32)).find("60% of what is free") != std::string::npos);
}

static void where_tokens_are_evicted_on_the_way_a_request_may_be_longer_than_what_fits() {
    engine_options at_end = with_slots(4), in_chunks = with_slots(4), by_share = with_slots(4);
    fit(at_end, host(12*GiB), "standard;evict=knorm:1024");
    fit(in_chunks, host(12*GiB), "standard;evict=knorm:1024;at=chunk");
    fit(by_share, host(12*GiB), "standard;evict=knorm:0.5;at=chunk");
    CHECK(at_end.params.kv_unified_per_slot < 40000);
    CHECK_EQUAL(in_chunks.params.kv_unified_per_slot, 131072);
    CHECK(by_share.params.kv_unified_per_slot > 2*at_end.params.kv_unified_per_slot - 2048);
    CHECK(by_share.params.kv_unified_per_slot < 2*at_end.params.kv_unified_per_slot);
}

static void a_context_that_was_asked_for_is_what_a_request_gets() {
    engine_options o = with_slots(4);
    o.params.n_ctx = 65536;
    fit(o, host(12*GiB)); // holds about half of it
    CHECK_EQUAL(o.params.kv_unified_per_slot, 65536);
    CHECK_EQUAL(o.params.n_ctx, 65536);

    o = with_slots(3);
    o.params.n_ctx = 1000;
    fit(o, host(12*GiB));
    CHECK_EQUAL(o.params.kv_unified_per_slot, 1000);
    CHECK_EQUAL(o.params.n_ctx, 3072); // padded

    o = with_slots(3);
    o.params.n_ctx      = 1000;
    o.params.kv_unified = false;
    fit(o, host(12*GiB));
    CHECK_EQUAL(o.params.kv_unified_per_slot, 1000);
    CHECK_EQUAL(o.params.n_ctx, 3*1024); // a stream for each

    o = with_slots(3);
    o.params.n_ctx               = 1500; // with llama-server's name for a request's, the pool
    o.params.kv_unified_per_slot = 1000;
    fit(o, host(12*GiB));
    CHECK_EQUAL(o.params.kv_unified_per_slot, 1000);
    CHECK_EQUAL(o.params.n_ctx, 1500);
}

static void a_given_budget_sizes_the_pool() {
    engine_options o = with_slots(4);
    o.kv_budget       = 2*GiB;
    o.kv_budget_given = true;
    o.params.n_ctx    = 8192;
    fit(o, host(64*GiB));
    CHECK_EQUAL(o.kv_budget, 2*GiB);
    CHECK_EQUAL(o.params.kv_unified_per_slot, 8192);
    CHECK(o.params.n_ctx > 16000 && o.params.n_ctx <= 16384); // 128 KiB each, and their cells
}

static void windows_and_shared_layers_make_the_pool_larger() {
    engine_options standard = with_slots(8), shared = with_slots(8), windows = with_slots(8);
    for (engine_options * o : { &standard, &shared, &windows }) {
        o->params.n_ctx = 32768;
    }
    fit(standard, host(16*GiB));
    fit(shared, host(16*GiB), "cla:2");
    fit(windows, host(16*GiB), "streaming:1024");
    CHECK(shared.params.n_ctx > 19*standard.params.n_ctx/10);
    CHECK_EQUAL(windows.params.n_ctx, 8*32768);
}

static void what_is_allocated_as_a_whole_is_no_larger_than_a_request() {
    memory_places places = host(64*GiB);
    places.host_pages = false;
    engine_options o = with_slots(4);
    o.params.n_ctx = 8192;
    fit(o, places);
    CHECK_EQUAL(o.params.n_ctx, 8192);

    o = with_slots(4);
    o.params.n_ctx = 131072*4;
    const error e = refused([&] { fit(o, places); });
    CHECK_EQUAL((int) e.status, (int) KVFOLD_ERROR_OUT_OF_MEMORY);
    CHECK(*e.value > *e.limit);
    CHECK_EQUAL((uint64_t) *e.limit, 64*GiB);
}

static void layers_on_a_gpu_take_its_memory() {
    memory_places places = host(4*GiB); // less than the weights
    places.device        = 24*GiB;
    places.device_pages  = true;
    places.on_device     = 1;
    engine_options o = with_slots(4);
    fit(o, places);
    CHECK(o.kv_budget > 10*GiB && o.kv_budget < 12*GiB);
    CHECK_EQUAL(weights_on_host(llama_8b(), places), uint64_t(0));

    places.on_device = 0.5;
    places.host      = 8*GiB;
    CHECK_EQUAL(weights_on_host(llama_8b(), places), 2346*MiB);
    o = with_slots(4);
    fit(o, places);
    CHECK(o.kv_budget > 6*GiB && o.kv_budget < 7*GiB); // the host's half is the smaller one
}

static void weights_that_do_not_fit_are_refused_with_both_numbers() {
    engine_options o = with_slots(1);
    const error    e = refused([&] { fit(o, host(4*GiB)); });
    CHECK_EQUAL((int) e.status, (int) KVFOLD_ERROR_OUT_OF_MEMORY);
    CHECK(*e.value > (int64_t) (4692*MiB));
    CHECK_EQUAL((uint64_t) *e.limit, 4*GiB);
}

static void masks_and_scores_stay_small() {
    engine_options o = with_slots(8);
    fit(o, host(10*GiB), "streaming:1024"); // 8 x 131,072 cells cost little, and their masks 2 GiB
    CHECK(o.params.n_ubatch < 512 && o.params.n_ubatch >= 32);
    CHECK(4.0*o.params.n_ctx*o.params.n_ubatch <= 0.05*(double) o.kv_budget);

    o = with_slots(8);
    o.ubatch_size_given = true;
    fit(o, host(10*GiB), "streaming:1024");
    CHECK_EQUAL(o.params.n_ubatch, 512);
    CHECK(4.0*o.params.n_ctx*512 <= 0.05*(double) o.kv_budget + 4.0*256*512);

    o = with_slots(1);
    o.ubatch_size_given      = true;
    o.params.n_ctx           = 131072;
    o.params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    const error e = refused([&] { fit(o, host(30*GiB)); });
    CHECK_EQUAL((int) e.status, (int) KVFOLD_ERROR_OUT_OF_MEMORY);
    CHECK(e.message.find("flash-attn") != std::string::npos);
    o.ubatch_size_given          = false;
    o.params.n_ctx               = 131072;
    o.params.kv_unified_per_slot = 0;
    fit(o, host(30*GiB)); // with fewer tokens at once
    CHECK_EQUAL(o.params.n_ctx, 131072);
    CHECK_EQUAL(o.params.n_ubatch, 32);
}

static void an_unknown_machine_limits_nothing() {
    engine_options o = with_slots(4);
    fit(o, memory_places());
    CHECK_EQUAL(o.params.n_ctx, 4*131072);
    CHECK_EQUAL(o.kv_budget, uint64_t(0));
}

int main() {
    a_large_machine_holds_the_trained_context_of_each_slot();
    a_smaller_one_holds_fewer_in_its_pool_and_still_one_whole();
    where_not_even_one_fits_a_request_gets_what_does();
    where_tokens_are_evicted_on_the_way_a_request_may_be_longer_than_what_fits();
    a_context_that_was_asked_for_is_what_a_request_gets();
    a_given_budget_sizes_the_pool();
    windows_and_shared_layers_make_the_pool_larger();
    what_is_allocated_as_a_whole_is_no_larger_than_a_request();
    layers_on_a_gpu_take_its_memory();
    weights_that_do_not_fit_are_refused_with_both_numbers();
    masks_and_scores_stay_small();
    an_unknown_machine_limits_nothing();
    return report();
}
