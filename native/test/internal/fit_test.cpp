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
    facts.activations    = 2*14336 + 3*4096;
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

static engine_options that_sums_up(int32_t slots, enum llama_pooling_type pooling = LLAMA_POOLING_TYPE_MEAN) {
    engine_options options      = with_slots(slots);
    options.params.embedding    = true;
    options.params.pooling_type = pooling;
    return options;
}

// What is allocated at least to compute a text of that many tokens as a whole: logits, and a mask of F16 over the pool.
static double buffers_of_whole(const engine_options & o, double products = 0) {
    const double text = o.params.kv_unified_per_slot;
    return 4*128256*text + (2 + products)*text*o.params.n_ctx;
}

static void texts_that_are_summed_up_fit_as_a_whole() {
    for (const auto pooling : { LLAMA_POOLING_TYPE_MEAN, LLAMA_POOLING_TYPE_CLS, LLAMA_POOLING_TYPE_RANK }) {
        for (const uint64_t bytes : { 10*GiB, 24*GiB, 64*GiB }) {
            engine_options o = that_sums_up(4, pooling);
            fit(o, host(bytes));
            const double text = o.params.kv_unified_per_slot;
            CHECK(text > 1000 && text < 131072);
            CHECK(o.params.n_ctx >= text);
            CHECK((double) o.kv_budget >= 131072*text);
            CHECK(4692.0*MiB + buffers_of_whole(o) + (double) o.kv_budget <= (double) bytes);
            const std::string line = describe_fit_to_memory(o, llama_8b(), kvfold_plan_parse("standard", 32));
            CHECK(line.find("each of up to " + std::to_string(o.params.kv_unified_per_slot) + " tokens") != std::string::npos);
            CHECK(line.find("as a whole") != std::string::npos);
        }
    }
    engine_options large = that_sums_up(1), plain = with_slots(1);
    fit(large, host(512*GiB));
    fit(plain, host(512*GiB));
    CHECK_EQUAL(large.params.kv_unified_per_slot, 131072);
    CHECK(large.kv_budget + 80*GiB < plain.kv_budget); // 60% of what 140 GB of buffers leave

    engine_options without = that_sums_up(1);
    without.params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    fit(without, host(24*GiB));
    CHECK(without.params.kv_unified_per_slot > 1000);
    CHECK(4692.0*MiB + buffers_of_whole(without, 4*32) + (double) without.kv_budget <= 24.0*GiB);
}

static void a_text_that_does_not_fit_as_a_whole_is_refused_with_both_numbers() {
    for (const bool flash : { true, false }) {
        engine_options o = that_sums_up(4);
        o.params.n_ctx   = flash ? 90000 : 20000;
        o.params.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_AUTO : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        const error e = refused([&] { fit(o, host(48*GiB)); });
        CHECK_EQUAL((int) e.status, (int) KVFOLD_ERROR_OUT_OF_MEMORY);
        CHECK_EQUAL(e.option, std::string("ctx-size"));
        CHECK(*e.value > *e.limit);
        CHECK_EQUAL((uint64_t) *e.limit, 48*GiB);
    }
    memory_places gpu = host(256*GiB); // buffers are where the layers are
    gpu.device = 24*GiB, gpu.device_pages = true, gpu.on_device = 1;
    engine_options o = that_sums_up(4);
    o.params.n_ctx   = 90000;
    const error e = refused([&] { fit(o, gpu); });
    CHECK_EQUAL((uint64_t) *e.limit, 24*GiB);
    o = that_sums_up(4);
    fit(o, gpu);
    CHECK(4692.0*MiB + buffers_of_whole(o) + (double) o.kv_budget <= 24.0*GiB);
}

static void a_given_budget_or_ubatch_limits_what_is_summed_up() {
    engine_options o  = that_sums_up(4);
    o.kv_budget       = 1*GiB;
    o.kv_budget_given = true;
    fit(o, host(64*GiB));
    CHECK(o.params.kv_unified_per_slot > 7*1024 && o.params.kv_unified_per_slot <= 8*1024);

    o = that_sums_up(4);
    o.ubatch_size_given = true; // no text is longer
    fit(o, host(24*GiB));
    CHECK(o.params.kv_unified_per_slot > 60000);

    o = that_sums_up(4, LLAMA_POOLING_TYPE_LAST); // computed in pieces
    fit(o, host(24*GiB));
    CHECK(o.params.kv_unified_per_slot > 60000);

    o.params.n_ctx               = 32768; // and without flash attention in smaller ones
    o.params.kv_unified_per_slot = 0;
    o.params.flash_attn_type     = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    fit(o, host(24*GiB));
    CHECK(o.params.n_ubatch < 512);

    o = that_sums_up(4);
    o.params.n_ctx     = 90000;
    o.params.n_batch   = 512;
    o.batch_size_given = true;
    fit(o, host(48*GiB));
    CHECK_EQUAL(o.params.kv_unified_per_slot, 90000);

    model_facts encoder  = llama_8b(); // no logits
    encoder.is_encoder   = true;
    encoder.architecture = "modern-bert";
    o = that_sums_up(1);
    fit_to_memory(o, encoder, kvfold_plan_parse("standard", 32), host(64*GiB));
    CHECK(o.params.kv_unified_per_slot > 100000);
}

static void what_a_file_says_of_heads_and_widths_is_counted(const char * tiny) {
    const model_facts facts = kvfold::check_model(tiny);
    CHECK_EQUAL(facts.heads, uint64_t(4));
    CHECK_EQUAL(facts.activations, uint64_t(2*64 + 3*32)); // both factors of the feed-forward network beside the residual
    CHECK(!facts.is_encoder && !facts.has_window);
}

int main(int argc, char ** argv) {
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
    texts_that_are_summed_up_fit_as_a_whole();
    a_text_that_does_not_fit_as_a_whole_is_refused_with_both_numbers();
    a_given_budget_or_ubatch_limits_what_is_summed_up();
    what_a_file_says_of_heads_and_widths_is_counted(argc > 1 ? argv[1] : "tiny.gguf");
    return report();
}
