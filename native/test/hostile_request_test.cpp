// Requests and templates that would take the recursive parts of llama.cpp off the end of their stack.

#include "kvfold_test.h"

using namespace kvfold_test;

static json small() {
    return { { "model", tiny_model() }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 } };
}

static std::string repeat(const std::string & text, int n) {
    std::string all;
    for (int i = 0; i < n; i++) {
        all += text;
    }
    return all;
}

static answer post(const engine & e, const char * route, const std::string & body) {
    kvfold_request * handle = nullptr;
    answer           a      = call([&](char ** out) { return kvfold_request_open(e.handle, route, body.c_str(), &handle, out); });
    while (a.status == KVFOLD_OK) {
        a = call([&](char ** out) { return kvfold_request_next(handle, out); });
    }
    kvfold_request_close(handle);
    return a;
}

static void rejects_deep_nesting(const engine & e) {
    const int         n        = 100000;
    const std::string brackets = repeat("[", n) + repeat("]", n);
    const std::string objects  = repeat("{\"properties\":{\"a\":", n) + "{}" + repeat("}}", n);
    const std::pair<const char *, std::string> bodies[] = {
        { "/completion", "{\"prompt\":" + brackets + "}" },
        { "/v1/chat/completions", "{\"messages\":" + brackets + "}" },
        { "/completion", "{\"prompt\":\"a\",\"json_schema\":" + objects + "}" },
        { "/v1/chat/completions", "{\"messages\":[],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":" + objects + "}}]}" },
        { "/completion", "{\"prompt\":\"a\",\"grammar\":\"root ::= " + repeat("(", n) + "\\\"a\\\"" + repeat(")", n) + "\"}" },
        { "/completion", "{\"prompt\":\"a\",\"json_schema\":{\"type\":\"string\",\"pattern\":\"^" + repeat("(", n) + "a" + repeat(")", n) + "$\"}}" },
        { "/v1/chat/completions", "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"" +
                                      repeat("[", n) + "\"}}]}]}" },
        { "/apply-template", "{\"messages\":[{\"role\":\"user\",\"content\":" + brackets + "}]}" },
        { "/tokenize", "{\"content\":" + brackets + "}" },
    };
    for (const auto & [route, body] : bodies) {
        const answer a = post(e, route, body);
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
        CHECK(a.object().value("value", 0) > a.object().value("limit", 0));
    }
}

static void rejects_long_chains_of_references(const engine & e) {
    for (const int n : { 900, 5000 }) {
        json definitions;
        for (int i = 0; i < n; i++) {
            definitions["d" + std::to_string(i)] = { { "properties", { { "a", { { "$ref", "#/$defs/d" + std::to_string(i + 1) } } } } } };
        }
        definitions["d" + std::to_string(n)] = { { "type", "string" } };
        const json schema = { { "$defs", definitions }, { "$ref", "#/$defs/d0" } };
        const answer a    = post(e, "/completion", json({ { "prompt", "a" }, { "n_predict", 1 }, { "json_schema", schema } }).dump());
        CHECK_EQUAL(a.status, n < 1000 ? (int) KVFOLD_DONE : (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    }
}

static void limits_templates() {
    const std::string nested[] = {
        "{{ " + repeat("(", 30000) + "1" + repeat(")", 30000) + " }}",
        "{{ " + repeat("not ", 30000) + "1 }}",
        repeat("{% if 1 %}", 10000) + repeat("{% endif %}", 10000),
    };
    for (const auto & text : nested) {
        json options             = small();
        options["chat-template"] = text;
        CHECK_EQUAL(engine(options).opened.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    }
    json deep             = small();
    deep["chat-template"] = "{{ " + repeat("not ", 16000) + "1 }}";
    const engine e(deep);
    CHECK(e.ok());
    const json chat = { { "messages", { { { "role", "user" }, { "content", "a" } } } }, { "max_tokens", 1 } };
    CHECK(run(e, "/v1/chat/completions", chat).contains("choices"));
}

static void survives_odd_texts(const engine & e) {
    CHECK_EQUAL(post(e, "/completion", "{\"prompt\":\"a\\u0000b\",\"n_predict\":1}").status, (int) KVFOLD_DONE);
    CHECK_EQUAL(post(e, "/completion", "{\"prompt\":\"a\xff\xfe\",\"n_predict\":1}").status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(post(e, "/completion", "{\"prompt\":\"\",\"n_predict\":1}").status, (int) KVFOLD_DONE);
    CHECK_EQUAL(post(e, "/completion", "{\"prompt\":\"a\",\"n_predict\":0}").status, (int) KVFOLD_DONE);
    CHECK_EQUAL(post(e, "/tokenize", "{\"content\":\"" + repeat("ba ", 1000000) + "\"}").status, (int) KVFOLD_DONE);
}

// The single chunk of a body that need not be JSON.
static json run_text(const engine & e, const char * route, const std::string & body) {
    kvfold_request * handle = nullptr;
    answer           a      = call([&](char ** out) { return kvfold_request_open(e.handle, route, body.c_str(), &handle, out); });
    if (a.status == KVFOLD_OK) {
        a = call([&](char ** out) { return kvfold_request_next(handle, out); });
    }
    kvfold_request_close(handle);
    return a.object();
}

static void replaces_halves_of_surrogate_pairs(const engine & e) {
    const json whole = run(e, "/tokenize", { { "content", "cut \xef\xbf\xbd" } });
    for (const char * half : { "\\ud83d", "\\uDE00", "\\\\\\ud83d" }) {
        const answer a = post(e, "/tokenize", std::string("{\"content\":\"") + half + "\"}");
        CHECK_EQUAL(a.status, (int) KVFOLD_DONE);
    }
    CHECK(run_text(e, "/tokenize", "{\"content\":\"cut \\ud83d\"}") == whole);
    CHECK(run_text(e, "/tokenize", "{\"content\":\"cut \\ud83d\\n\"}") == run(e, "/tokenize", { { "content", "cut \xef\xbf\xbd\n" } }));
    CHECK(run_text(e, "/tokenize", "{\"content\":\"\\ud83d\\ude00\"}") == run(e, "/tokenize", { { "content", "\xf0\x9f\x98\x80" } }));
    CHECK(run_text(e, "/tokenize", "{\"content\":\"\\\\ud83d\"}") == run(e, "/tokenize", { { "content", "\\ud83d" } }));
}

static void tells_where_json_is_wrong(const engine & e) {
    for (const char * body : { "{\"prompt\": \"a\",}", "{\"prompt\": \"a\xff\"}" }) {
        const answer a = post(e, "/completion", body);
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
        CHECK(a.object().value("message", "").find("line 1, column 1") != std::string::npos);
    }
}

int main() {
    const engine e(small());
    CHECK(e.ok());
    rejects_deep_nesting(e);
    rejects_long_chains_of_references(e);
    survives_odd_texts(e);
    replaces_halves_of_surrogate_pairs(e);
    tells_where_json_is_wrong(e);
    limits_templates();
    CHECK_EQUAL(run(e, "/completion", { { "prompt", "a" }, { "n_predict", 2 }, { "ignore_eos", true } }).at("tokens_predicted").get<int>(), 2);
    return report();
}
