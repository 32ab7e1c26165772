// Requests and templates that would take the recursive parts of llama.cpp off the end of their stack.

#include "kvfold_test.h"

#include <chrono>
#include <cstring>

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

// What was taken for nothing, or for another number.
static void refuses_what_it_would_not_use(const engine & e) {
    const json message = { { { "role", "user" }, { "content", "a" } } };
    const json tool    = { { { "type", "function" }, { "function", { { "name", "f" } } } } };
    const json nameless = { { { "type", "function" }, { "function", { { "name", "" } } } } };
    const json schema   = { { "type", "json_schema" } };
    const json huge     = 1LL << 40;
    const json many     = json(std::vector<std::string>(65, "a"));
    const struct {
        const char * route;
        json         fields;
        const char * words;
    } cases[] = {
        { "/completion", { { "grammar", 5 } }, "\"grammar\" is 5 but must be a string" },
        { "/completion", { { "stop", 5 } }, "\"stop\" is 5" },
        { "/completion", { { "stop", { "" } } }, "none of them empty" },
        { "/completion", { { "logit_bias", "a" } }, "\"logit_bias\"" },
        { "/completion", { { "samplers", 1 } }, "\"samplers\"" },
        { "/completion", { { "id_slot", "a" } }, "\"id_slot\"" },
        { "/completion", { { "response_fields", "a" } }, "\"response_fields\"" },
        { "/completion", { { "mirostat", 3 } }, "\"mirostat\" is 3 but must be in [0, 2]" },
        { "/completion", { { "n_predict", huge } }, "an integer of 32 bits" },
        { "/completion", { { "prompt", { huge } } }, "the token 1099511627776" },
        { "/completion", { { "prompt", json::array({ "a", -1 }) } }, "the token -1" },
        { "/completion", { { "dry_multiplier", 1 }, { "dry_sequence_breakers", many } }, "65 elements, the limit is 64" },
        { "/completion", { { "dry_multiplier", 1 }, { "dry_penalty_last_n", 2147483647 } }, "\"dry_penalty_last_n\"" },
        { "/completion", { { "json_schema", json::array() } }, "neither an object nor a boolean" },
        { "/detokenize", { { "tokens", { 99999999 } } }, "ids are in [0, 319]" },
        { "/detokenize", { { "tokens", { huge } } }, "ids are in [0, 319]" },
        { "/tokenize", { { "content", { "a", 320 } } }, "the token 320" },
        { "/tokenize", { { "content", std::string(17 << 20, 'a') } }, "the limit is 16777216" },
        { "/v1/chat/completions", { { "tool_choice", "required" } }, "there are no \"tools\"" },
        { "/v1/chat/completions", { { "tool_choice", { { "type", "function" }, { "function", { { "name", "f" } } } } } }, "there are no \"tools\"" },
        { "/v1/chat/completions", { { "tool_choice", 5 }, { "tools", tool } }, "\"tool_choice\"" },
        { "/v1/chat/completions", { { "tools", nameless } }, "an object with a name" },
        { "/v1/chat/completions", { { "tools", { 5 } } }, "an object with a name" },
        { "/v1/chat/completions", { { "response_format", schema } }, "no schema" },
        { "/v1/chat/completions", { { "response_format", "json" } }, "an object with a" },
        { "/v1/chat/completions", { { "response_format", json::object() } }, "an object with a" },
        { "/v1/chat/completions", { { "chat_template_kwargs", "a" } }, "\"chat_template_kwargs\"" },
        { "/v1/chat/completions", { { "parallel_tool_calls", "no" } }, "\"parallel_tool_calls\"" },
        { "/v1/chat/completions", { { "top_logprobs", -1 }, { "logprobs", true } }, "\"top_logprobs\"" },
        { "/v1/chat/completions", { { "messages", "a" } }, "\"messages\"" },
        { "/v1/chat/completions", { { "functions", tool } }, "\"functions\" are not supported" },
        { "/v1/chat/completions", { { "modalities", { "text", "audio" } } }, "not \"audio\"" },
        { "/v1/chat/completions", { { "messages", { { { "role", "user" }, { "content", std::string(60 << 20, 'a') } } } } }, "a slot holds 256" },
    };
    for (const auto & each : cases) {
        json body = { { "prompt", "a" }, { "messages", message }, { "n_predict", 1 } };
        body.update(each.fields);
        answer last;
        run(e, each.route, body, &last);
        const bool refused = last.status == KVFOLD_ERROR_INVALID_ARGUMENT || last.status == KVFOLD_ERROR_UNSUPPORTED || last.status == KVFOLD_ERROR_CONTEXT_EXCEEDED;
        if (!refused || last.message().find(each.words) == std::string::npos) {
            fprintf(stderr, "%s %s gives %d, %s\n", each.route, each.fields.dump().substr(0, 200).c_str(), last.status, last.text.substr(0, 300).c_str());
            CHECK(false);
        }
        CHECK(last.text.find("json.exception") == std::string::npos);
    }
}

static void counts_members_of_objects(const engine & e) {
    std::string members;
    for (int i = 0; i < 1'000'000; i++) {
        members += (i == 0 ? "\"k" : ",\"k") + std::to_string(i) + "\":{}";
    }
    std::string arguments;
    for (const char c : members) {
        arguments += c == '"' ? "\\\"" : std::string(1, c);
    }
    const std::string call = "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{" + arguments + "}\"}}";
    for (const auto & [route, body] : { std::pair("/completion", "{\"prompt\":\"a\",\"other\":{" + members + "}}"),
                                        std::pair("/completion", "{\"prompt\":\"a\"," + members + "}"),
                                        std::pair("/v1/chat/completions", "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[" + call + "]}]}") }) {
        const answer a = post(e, route, body);
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
        CHECK(a.mentions("too many members"));
    }
}

// Each grew with the square of the text.
static void takes_long_texts() {
    for (const bool parse_special : { true, false }) {
        const engine e(small());
        const auto   begin = std::chrono::steady_clock::now();
        for (const char * part : { "\n", "<s>", "\xE4\xB8\x80", "\x01", " ", "a" }) {
            const std::string text = repeat(part, (2 << 20) / (int) strlen(part));
            CHECK(!run(e, "/tokenize", { { "content", text }, { "parse_special", parse_special } }).value("tokens", json::array()).empty());
        }
        CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(60));
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
    refuses_what_it_would_not_use(e);
    counts_members_of_objects(e);
    takes_long_texts();
    limits_templates();
    CHECK_EQUAL(run(e, "/completion", { { "prompt", "a" }, { "n_predict", 2 }, { "ignore_eos", true } }).at("tokens_predicted").get<int>(), 2);
    return report();
}
