// Damaged model files: every one is an error or harmless, none ends the process.
//
//   hostile_model_test [FIRST [LAST]]        runs only these of the random mutations
//   hostile_model_test keys [FIRST [LAST]]   runs only these of the files with other keys

#include "gguf_edit.h"
#include "kvfold_test.h"

#include <cmath>
#include <cstring>
#include <random>

#include <unistd.h>

using namespace kvfold_test;

static const char * const damaged_path = "damaged.gguf";

static answer open_damaged(const std::string & bytes) {
    write_file(damaged_path, bytes);
    engine e({ { "model", damaged_path }, { "ctx-size", 64 }, { "parallel", 1 }, { "threads", 1 } });
    if (e.ok()) {
        run(e, "/completion", { { "prompt", "a b" }, { "n_predict", 2 }, { "seed", 1 } });
    }
    return e.opened;
}

static void rejects_what_is_no_model(const std::string & whole) {
    CHECK_EQUAL(open_damaged("").status, (int) KVFOLD_ERROR_MODEL_INVALID);
    CHECK_EQUAL(open_damaged("GGU").status, (int) KVFOLD_ERROR_MODEL_INVALID);
    CHECK_EQUAL(open_damaged("PK\x03\x04" + whole.substr(4)).status, (int) KVFOLD_ERROR_MODEL_INVALID);
    const answer no_file = engine(json::object({ { "model", "no such file.gguf" } })).opened;
    CHECK_EQUAL(no_file.status, (int) KVFOLD_ERROR_MODEL_NOT_FOUND);
    CHECK_EQUAL(no_file.object().value("path", ""), std::string("no such file.gguf"));
    CHECK_EQUAL(engine(json::object({ { "model", "." } })).opened.status, (int) KVFOLD_ERROR_MODEL_NOT_FOUND);
}

static void rejects_truncated_files(const std::string & whole) {
    for (const double fraction : { 0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.999 }) {
        const answer a = open_damaged(whole.substr(0, (size_t) ((double) whole.size() * fraction)));
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_MODEL_INVALID);
    }
    const answer a = open_damaged(whole.substr(0, whole.size() / 2));
    CHECK_EQUAL(a.object().value("value", (int64_t) 0), (int64_t) whole.size() / 2);
    CHECK(a.object().value("limit", (int64_t) 0) > (int64_t) whole.size() / 2);
}

// Sets the 32-bit value of a metadata key.
static std::string with_key(std::string bytes, const std::string & key, uint32_t value) {
    const size_t at = bytes.find(key);
    CHECK(at != std::string::npos);
    memcpy(&bytes[at + key.size() + 4], &value, sizeof(value));
    return bytes;
}

static void rejects_impossible_shapes(const std::string & whole) {
    for (const char * key : { "llama.block_count", "llama.embedding_length", "llama.feed_forward_length", "llama.attention.head_count",
                              "llama.attention.head_count_kv", "llama.rope.dimension_count" }) {
        for (const uint32_t value : { 0u, 1u, 3u, 1000u, 0x7FFFFFFFu, 0xFFFFFFFFu }) {
            const answer a = open_damaged(with_key(whole, key, value));
            CHECK(a.status == KVFOLD_OK || a.status == KVFOLD_ERROR_MODEL_INVALID || a.status == KVFOLD_ERROR_OUT_OF_MEMORY);
        }
    }
}

static void rejects_what_no_model_has(const std::string & whole) {
    const auto refused = [&](const std::function<void(gguf_edit &)> & edit, const char * words) {
        gguf_edit file(whole);
        edit(file);
        const answer a = open_damaged(file.put());
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_MODEL_INVALID);
        if (!a.mentions(words) || a.mentions(".cpp")) {
            fprintf(stderr, "%s\n", a.text.c_str());
            CHECK(false);
        }
    };
    CHECK_EQUAL(open_damaged(gguf_edit(whole).put()).status, (int) KVFOLD_OK);
    refused([](auto & file) { file.set("llama.attention.head_count_kv", file.u32_type, file.number(0u)); }, "head_count_kv is 0");
    const auto tokens = [](gguf_edit & file, size_t from, const std::string & text) {
        std::vector<std::string> all;
        for (size_t i = 0; i < 320; i++) {
            all.push_back(file.string(i == from ? text : "t" + std::to_string(i)));
        }
        file.set("tokenizer.ggml.tokens", file.array_type, file.array(file.string_type, all));
    };
    refused([&](auto & file) { tokens(file, 300, "t17"); }, "tokens 17 and 300 are the same");
    refused([&](auto & file) { tokens(file, 300, std::string(20000, 'a')); }, "token 300 has 20000 bytes");
}

// Which would be found everywhere in a text, and for ever.
static void passes_over_a_special_token_without_a_text(const std::string & whole) {
    gguf_edit                file(whole);
    std::vector<std::string> texts, types;
    for (size_t i = 0; i < 320; i++) { // bytes, others, and as the last one a control token
        char byte[8];
        std::snprintf(byte, sizeof(byte), "<0x%02X>", (unsigned) (i % 256));
        texts.push_back(file.string(i < 256 ? byte : i < 319 ? "t" + std::to_string(i) : ""));
        types.push_back(file.number<int32_t>(i < 256 ? 6 : i < 319 ? 1 : 3));
    }
    file.set("tokenizer.ggml.tokens", file.array_type, file.array(file.string_type, texts));
    file.set("tokenizer.ggml.token_type", file.array_type, file.array(file.i32_type, types));
    write_file(damaged_path, file.put());
    const engine e({ { "model", damaged_path }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 } });
    if (e.ok()) {
        answer last;
        run(e, "/tokenize", { { "content", "t1t2" } }, &last);
        CHECK_EQUAL(last.status, (int) KVFOLD_DONE);
    }
}

// A model without a template that can be used is good for everything else.
static void keeps_hostile_templates_from_loading(const std::string & whole) {
    std::string not_not = "{{ ";
    for (int i = 0; i < 16000; i++) {
        not_not += "not ";
    }
    std::string brackets;
    for (int i = 0; i < 1000; i++) {
        brackets += "(";
    }
    const std::pair<std::string, const char *> templates[] = {
        { "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "takes too long" },
        { "{% macro f(x) %}{{ g(x) }}{% endmacro %}{% macro g(x) %}{{ f([x]) }}{% endmacro %}{{ g(1) }}", "takes too long" },
        { "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(1000) %}{% endfor %}{% endfor %}{% endfor %}", "takes too long" },
        { "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}", "takes too long" },
        { "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", "holds more than" },
        { "{% set ns = namespace(s=['a']) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "holds more than" },
        { "{% set ns = namespace(s='a') %}{% for i in range(8) %}{% set ns.s = ns.s | replace('a', 'aaaaaaaaaaaaaaaa') %}{% endfor %}{{ ns.s | replace('a', ns.s) }}", "takes too long" },
        { "{{ range(1000000000) | list | length }}", "takes too long" },
        { "{% set ns = namespace(s='ab') %}{% for i in range(20) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | replace('a', '') }}", "the chat template " },
        { "{% set ns = namespace(s='ab') %}{% for i in range(20) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s.split('a') }}", "the chat template " },
        { "{{ brackets " + brackets, "levels of brackets" },
        { "{% for", "" },
    };
    for (const auto & [text, words] : templates) {
        gguf_edit file(whole);
        file.set_string("tokenizer.chat_template", text);
        write_file(damaged_path, file.put());
        const engine e({ { "model", damaged_path }, { "ctx-size", 64 }, { "parallel", 1 }, { "threads", 1 } });
        CHECK(e.ok());
        CHECK(run(e, "/completion", { { "prompt", "a b" }, { "n_predict", 2 } }).contains("content"));
        answer     last;
        const json chat = { { "messages", { { { "role", "user" }, { "content", "a" } } } }, { "max_tokens", 1 } };
        run(e, "/v1/chat/completions", chat, &last);
        CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_UNSUPPORTED);
        if (!last.mentions(words) || !last.mentions("chat-template")) {
            fprintf(stderr, "%s does not mention %s\n", last.text.c_str(), words);
            CHECK(false);
        }
        // the caller's own is the caller's error
        const answer own = engine({ { "model", tiny_model() }, { "ctx-size", 64 }, { "parallel", 1 }, { "threads", 1 }, { "chat-template", text } }).opened;
        CHECK(own.status == KVFOLD_ERROR_INVALID_ARGUMENT || own.status == KVFOLD_ERROR_UNSUPPORTED || own.status == KVFOLD_ERROR_MODEL_INVALID);
    }
}

static void notices_a_file_that_is_cut(const std::string & whole) {
    write_file("cut.gguf", whole);
    const engine e({ { "model", "cut.gguf" }, { "ctx-size", 64 }, { "parallel", 1 }, { "threads", 1 } });
    CHECK(e.ok());
    CHECK_EQUAL(truncate("cut.gguf", (long) whole.size() / 2), 0);
    answer last;
    run(e, "/completion", { { "prompt", "a b" }, { "n_predict", 2 } }, &last);
    CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_MODEL_INVALID);
    CHECK(last.mentions("was cut from"));
    remove("cut.gguf");
}

// Another value of the same type, or of another one.
static std::string other_keys(const std::string & whole, unsigned seed) {
    static const uint64_t      extremes[] = { 0, 1, 2, 3, 5, 7, 8, 31, 255, 65535, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF };
    static const char * const  strings[]  = { "", "llama", "gpt2", "bert", "t5", "rwkv", "none", "gemma3", "qwen2", "mamba", "deepseek2", "default", "llama-bpe", "x\xff\xfe" };
    static const char * const  others[]   = {
        "llama.expert_count", "llama.expert_used_count", "llama.attention.key_length", "llama.attention.value_length", "llama.attention.sliding_window",
        "llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.dimension_sections", "llama.attention.layer_norm_epsilon", "llama.logit_scale",
        "llama.attention.clamp_kqv", "llama.pooling_type", "llama.attention.causal", "tokenizer.ggml.merges", "tokenizer.ggml.precompiled_charsmap",
        "tokenizer.ggml.padding_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.token_type_count", "general.alignment", "split.count", "split.no",
        "general.file_type", "llama.tensor_data_layout", "llama.leading_dense_block_count", "llama.attention.head_count_kv", "llama.nextn_predict_layers",
    };
    std::mt19937 random(seed);
    gguf_edit    file(whole);
    const auto   some  = [&](const auto & list) { return list[random() % std::size(list)]; };
    const auto   value = [&](uint32_t type) {
        const uint64_t bits = some(extremes);
        const float    real = std::vector<float>{ 0.0f, -1.0f, 1e-38f, 1e38f, INFINITY, NAN }[random() % 6];
        return type == file.string_type ? file.string(some(strings)) : type == file.f32_type ? file.number(real) : std::string((const char *) &bits, file.size_of(type));
    };
    for (unsigned n = 1 + random() % 2; n > 0; n--) {
        const bool  known = random() % 3 != 0;
        const auto  at    = random() % file.keys.size();
        std::string name  = known ? file.keys[at].name : some(others);
        const auto  type  = known ? file.keys[at].type : file.u32_type;
        if (known && random() % 6 == 0) {
            file.keys.erase(file.keys.begin() + (std::ptrdiff_t) at);
        } else if (random() % 3 == 0) {
            const uint32_t           inner = std::vector<uint32_t>{ 4, 5, 6, 7, 8, 10, 0 }[random() % 7];
            std::vector<std::string> values;
            for (size_t k = std::vector<size_t>{ 0, 1, 2, 3, 319, 320, 321 }[random() % 7]; k > 0; k--) {
                values.push_back(value(inner));
            }
            file.set(name, file.array_type, file.array(inner, values));
        } else {
            const uint32_t other = random() % 2 && type != file.array_type ? type : std::vector<uint32_t>{ 4, 5, 6, 7, 8, 10, 11, 12 }[random() % 8];
            file.set(name, other, value(other));
        }
    }
    return file.put();
}

static void survives_other_keys(const std::string & whole, unsigned first, unsigned last) {
    int accepted = 0;
    for (unsigned seed = first; seed <= last; seed++) {
        fprintf(stderr, "\rkeys %u ", seed);
        const answer a = open_damaged(other_keys(whole, seed));
        accepted += a.status == KVFOLD_OK;
        CHECK(a.status == KVFOLD_OK || (a.status < 0 && a.status != KVFOLD_ERROR_INTERNAL && !a.message().empty()));
    }
    fprintf(stderr, "\r%u files with other keys, %d of them harmless\n", last - first + 1, accepted);
}

static std::string mutate(const std::string & whole, size_t header, unsigned seed) {
    std::mt19937                          random(seed);
    std::uniform_int_distribution<size_t> position(4, header - 9);
    std::string                           bytes = whole;
    const unsigned                        edits = 1 + random() % 4;
    for (unsigned i = 0; i < edits; i++) {
        static const uint64_t extremes[] = { 0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF };
        const size_t          at         = position(random);
        const uint64_t        extreme    = extremes[random() % 8];
        switch (random() % 5) {
            case 0: bytes[at] = (char) random(); break;
            case 1: bytes[at] = (char) (bytes[at] ^ (1 << random() % 8)); break;
            case 2: memcpy(&bytes[at], &extreme, 4); break;
            case 3: memcpy(&bytes[at], &extreme, 8); break;
            case 4: memmove(&bytes[at], &bytes[position(random)], 8); break;
        }
    }
    return bytes;
}

static void survives_random_mutations(const std::string & whole, unsigned first, unsigned last) {
    // the tensor data is the larger part of the file and cannot be wrong
    const size_t header   = whole.find("output.weight") + 64;
    int          accepted = 0;
    for (unsigned seed = first; seed <= last; seed++) {
        fprintf(stderr, "\rmutation %u ", seed);
        const answer a = open_damaged(mutate(whole, header, seed));
        accepted += a.status == KVFOLD_OK;
        CHECK(a.status == KVFOLD_OK || (a.status < 0 && a.status != KVFOLD_ERROR_INTERNAL && !a.message().empty()));
    }
    fprintf(stderr, "\r%u mutations, %d of them harmless\n", last - first + 1, accepted);
}

int main(int argc, char ** argv) {
    const std::string whole = read_file(tiny_model());
    if (argc > 1 && std::string(argv[1]) == "keys") {
        const unsigned first = argc > 2 ? (unsigned) atoi(argv[2]) : 1;
        survives_other_keys(whole, first, argc > 3 ? (unsigned) atoi(argv[3]) : first);
    } else if (argc > 1) {
        const unsigned first = (unsigned) atoi(argv[1]);
        survives_random_mutations(whole, first, argc > 2 ? (unsigned) atoi(argv[2]) : first);
    } else {
        rejects_what_is_no_model(whole);
        rejects_truncated_files(whole);
        rejects_impossible_shapes(whole);
        rejects_what_no_model_has(whole);
        passes_over_a_special_token_without_a_text(whole);
        keeps_hostile_templates_from_loading(whole);
        notices_a_file_that_is_cut(whole);
        survives_other_keys(whole, 1, 500);
        survives_random_mutations(whole, 1, 1000);
    }
    remove(damaged_path);
    return report();
}
