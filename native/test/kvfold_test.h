// A few lines instead of a test framework: CHECK() counts failures, and every test program returns their number.
#pragma once

#include "kvfold.h"

#include <nlohmann/json.hpp>


#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

namespace kvfold_test {

using nlohmann::json;

inline int failures = 0;

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            kvfold_test::failures++;                                                      \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                                 \
    } while (0)

#define CHECK_EQUAL(actual, expected)                                                                                 \
    do {                                                                                                              \
        const auto actual_   = (actual);                                                                              \
        const auto expected_ = (expected);                                                                            \
        if (!(actual_ == expected_)) {                                                                                \
            kvfold_test::failures++;                                                                                  \
            fprintf(stderr, "%s:%d: %s is %s, expected %s\n", __FILE__, __LINE__, #actual, json(actual_).dump().c_str(), \
                    json(expected_).dump().c_str());                                                                  \
        }                                                                                                             \
    } while (0)

// What a call left in its `out`.
struct answer {
    int32_t     status = 0;
    std::string text;

    json object() const { return text.empty() ? json() : json::parse(text); }

    std::string message() const { return status < 0 ? object().value("message", "") : ""; }

    bool mentions(const std::string & words) const { return text.find(words) != std::string::npos; }
};

template <typename F> answer call(F && f) {
    char *       out    = nullptr;
    const auto   status = f(&out);
    const answer result{ status, out ? out : "" };
    kvfold_free(out);
    return result;
}

// Closes what it holds.
struct engine {
    kvfold_engine * handle = nullptr;
    answer          opened;

    explicit engine(const json & options) {
        opened = call([&](char ** out) { return kvfold_open(options.dump().c_str(), nullptr, nullptr, &handle, out); });
    }

    ~engine() { close(); }

    engine(const engine &)             = delete;
    engine & operator=(const engine &) = delete;

    bool ok() const { return opened.status == KVFOLD_OK; }

    void close() {
        kvfold_close(handle);
        handle = nullptr;
    }

    json stats() const {
        return call([&](char ** out) { return kvfold_kv_stats(handle, out); }).object();
    }
};

struct request {
    kvfold_request * handle = nullptr;
    answer           opened;

    request(const engine & owner, const std::string & route, const json & body) {
        opened = call([&](char ** out) { return kvfold_request_open(owner.handle, route.c_str(), body.dump().c_str(), &handle, out); });
    }

    request(const engine & owner, const std::string & route, const json & body, const json & state) {
        opened = call([&](char ** out) {
            return kvfold_request_open_state(owner.handle, route.c_str(), body.dump().c_str(), state.dump().c_str(), &handle, out);
        });
    }

    request(request && other) noexcept : handle(std::exchange(other.handle, nullptr)), opened(std::move(other.opened)) {}

    ~request() { close(); }

    void close() {
        kvfold_request_close(handle);
        handle = nullptr;
    }

    answer next() const {
        return call([&](char ** out) { return kvfold_request_next(handle, out); });
    }

    void cancel() const { kvfold_request_cancel(handle); }

    // Every chunk; `last` becomes the answer that ended the request.
    std::vector<json> drain(answer * last = nullptr) const {
        std::vector<json> chunks;
        answer            a = opened;
        for (; a.status == KVFOLD_OK;) {
            a = next();
            if (a.status == KVFOLD_OK) {
                chunks.push_back(a.object());
            }
        }
        if (last) {
            *last = a;
        }
        return chunks;
    }
};

// The single chunk of a request that does not stream; null if it fails.
inline json run(const engine & owner, const std::string & route, const json & body, answer * last = nullptr) {
    const auto chunks = request(owner, route, body).drain(last);
    return chunks.size() == 1 ? chunks.front() : json();
}

// Every row is appended to `logits`.
inline answer evaluate(const engine & owner, const std::vector<int32_t> & tokens, std::vector<float> & logits, int32_t first = 0) {
    struct sink {
        std::vector<float> & logits;
        size_t               n_vocab;
        int32_t              next;
    } rows{ logits, owner.opened.object().at("model").at("vocabulary_size").get<size_t>(), first };
    const auto append = [](int32_t position, int32_t n, const float * values, void * user) {
        sink & to = *static_cast<sink *>(user);
        CHECK_EQUAL(position, to.next);
        to.next += n;
        to.logits.insert(to.logits.end(), values, values + n*to.n_vocab);
        return (int32_t) 1;
    };
    return call([&](char ** out) {
        return kvfold_evaluate(owner.handle, tokens.data(), (int32_t) tokens.size(), first, append, &rows, out);
    });
}

inline std::string environment(const char * name) {
    const char * value = getenv(name);
    return value ? value : "";
}

// The model that ctest made with make_model.
inline std::string tiny_model() {
    const std::string path = environment("KVFOLD_TEST_MODEL");
    if (path.empty()) {
        fprintf(stderr, "KVFOLD_TEST_MODEL is not set; run the tests through ctest\n");
        exit(1);
    }
    return path;
}

inline std::string read_file(const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
}

inline void write_file(const std::string & path, const std::string & bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

inline int report() {
    if (failures) {
        fprintf(stderr, "%d checks failed\n", failures);
    }
    return failures ? 1 : 0;
}

} // namespace kvfold_test
