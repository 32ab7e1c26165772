// Damaged model files: every one is an error or harmless, none ends the process.
//
//   hostile_model_test [FIRST [LAST]]   runs only these of the random mutations

#include "kvfold_test.h"

#include <cstring>
#include <random>

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
    if (argc > 1) {
        const unsigned first = (unsigned) atoi(argv[1]);
        survives_random_mutations(whole, first, argc > 2 ? (unsigned) atoi(argv[2]) : first);
    } else {
        rejects_what_is_no_model(whole);
        rejects_truncated_files(whole);
        rejects_impossible_shapes(whole);
        survives_random_mutations(whole, 1, 1000);
    }
    remove(damaged_path);
    return report();
}
