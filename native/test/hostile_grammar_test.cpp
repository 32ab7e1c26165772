// Grammars that would end llama.cpp's parser, or stop the worker that samples with them. Every one is an error of its own request.

#include "kvfold_test.h"

using namespace kvfold_test;

static std::string repeat(const std::string & text, int n) {
    std::string all;
    for (int i = 0; i < n; i++) {
        all += text;
    }
    return all;
}

static std::string chain(int n, const std::function<std::string(int)> & rule, const std::string & last) {
    std::string all = "root ::= r0\n";
    for (int i = 0; i < n; i++) {
        all += "r" + std::to_string(i) + " ::= " + rule(i) + "\n";
    }
    return all + "r" + std::to_string(n) + " ::= " + last + "\n";
}

static std::string next(int i) {
    return "r" + std::to_string(i + 1);
}

static answer ask(const engine & e, json body) {
    body["prompt"] = "a";
    if (!body.contains("n_predict")) {
        body["n_predict"] = 4;
    }
    answer last;
    run(e, "/completion", body, &last);
    return last;
}

static answer with_grammar(const engine & e, const std::string & grammar) {
    return ask(e, json({ { "grammar", grammar } }));
}

static void still_answers(const engine & e) {
    CHECK_EQUAL(ask(e, json({ { "grammar", "root ::= \"a\"+" } })).status, (int) KVFOLD_DONE);
}

static void refuses(const engine & e, const std::string & grammar, const char * words) {
    const answer a = with_grammar(e, grammar);
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    if (!a.mentions(words)) {
        fprintf(stderr, "'%s' does not mention '%s'\n", a.text.substr(0, 300).c_str(), words);
        CHECK(false);
    }
    CHECK(a.text.size() < 1000);
}

static void refuses_what_the_parser_cannot_take(const engine & e) {
    refuses(e, "root ::= [\"] " + repeat("(", 400000), "rule 'root', line 1, column 2014");
    refuses(e, "root ::= a\na ::= \"b\" (\"a\"{5,3})", "rule 'a', line 2, column 15");
    refuses(e, "root ::= \"a\"{99999999999999999999}", "column 13");
    refuses(e, "root ::= \"" + repeat("abcdefgh", 1000) + "\"{2000}", "more than 1048576 elements");
    refuses(e, "root ::= \"" + repeat("abcdefgh", 1000) + "\"{0,2000}", "more than 1048576 elements");
    refuses(e, "root ::= \"a\"\nb ::= ]", "rule 'b', line 2");
    refuses(e, "root ::= \"a", "rule 'root'");
    refuses(e, "root ::= [a", "rule 'root'");
    refuses(e, "root ::= b", "no rule 'b'");
    refuses(e, "b ::= \"a\"", "no rule 'root'");
    refuses(e, "root ::= <[999999]>", "no token 999999");
    refuses(e, "root ::= \"\\q\"", "unknown escape");
    refuses(e, repeat("x", 5 << 20), "bytes, the limit is");
    const answer other = with_grammar(e, "%llguidance {}");
    CHECK_EQUAL(other.status, (int) KVFOLD_ERROR_UNSUPPORTED);
    CHECK(other.mentions("llguidance"));
}

static void refuses_left_recursion(const engine & e) {
    refuses(e, "root ::= root \"a\" | \"b\"", "'root' begins with itself");
    refuses(e, "root ::= a\na ::= b\nb ::= a \"x\" | \"y\"", "begins with itself");
    // what comes before may be nothing by way of other rules: harmless where nothing follows, as in llama.cpp's own repetitions
    refuses(e, "root ::= b b root \"x\" | \"y\"\nb ::= c c\nc ::= \"\" | \"c\"", "too many ways to go on");
    CHECK_EQUAL(with_grammar(e, "root ::= (\"a\"*)*").status, (int) KVFOLD_DONE);
    CHECK_EQUAL(with_grammar(e, "root ::= (\"a\"? \"b\"?)*").status, (int) KVFOLD_DONE);
    CHECK_EQUAL(with_grammar(e, "root ::= ((\"a\"? \"b\"?)* \"c\"*)*").status, (int) KVFOLD_DONE);
    refuses(e, chain(50000, next, "r0 \"x\" | \"y\""), "begins with itself");
    refuses(e, chain(50000, next, "r0"), "never ends");
    refuses(e, "root ::= \"a\" root", "never ends");
}

static void bounds_long_chains(const engine & e) {
    CHECK_EQUAL(with_grammar(e, chain(40, [](int i) { return next(i) + " | " + next(i); }, "\"a\"")).status, (int) KVFOLD_DONE);
    CHECK_EQUAL(with_grammar(e, chain(50000, next, "\"a\"")).status, (int) KVFOLD_DONE);
    refuses(e, chain(200000, next, "\"a\""), "more than 100000 rules");
    refuses(e, chain(40, [](int i) { return next(i) + " \"x\" | " + next(i) + " \"y\""; }, "\"a\""), "too many ways to go on");
}

// What is small to begin with and grows with every token.
static void bounds_what_grows(const engine & e) {
    static constexpr int letter_a = 260; // of make_model's vocabulary, after three special tokens, the bytes and the blank
    const json           only_a   = json::array({ json::array({ letter_a, 100 }) });
    for (const char * grammar : { "root ::= \"a\" root x | \"a\" root y | \"b\"\nx ::= \"x\"\ny ::= \"y\"",
                                  "root ::= \"a\" root root x | \"a\" root y | \"b\"\nx ::= \"x\"\ny ::= \"y\"" }) {
        const json   body = { { "grammar", grammar }, { "n_predict", 200 }, { "logit_bias", only_a } };
        const answer a    = ask(e, body);
        CHECK(a.status < 0);
        CHECK(a.mentions("too many ways to go on"));
        still_answers(e);
    }
}

// No token is left that the grammar allows: the worker would end the process where the one that it takes then ends an answer.
static void survives_dead_ends(const engine & e) {
    json none = json::array();
    for (int token = 0; token < 320; token++) {
        none.push_back(json::array({ token, false }));
    }
    for (const double temperature : { 0.0, 1.0 }) {
        ask(e, json({ { "grammar", "root ::= [a-z]+ \".\"" }, { "n_predict", 20 }, { "logit_bias", none }, { "temperature", temperature } }));
        still_answers(e);
    }
}

static void ends_where_nothing_goes_on(const engine & e) {
    const answer a = with_grammar(e, "root ::= [\\U00110000]"); // a character that there is not
    CHECK_EQUAL(a.status, (int) KVFOLD_DONE);
    still_answers(e);
    refuses(e, "root ::= ((\"a\"{1,1000}){1,1000}){1,1000}", "reduce the number of repetitions");
}

static void bounds_triggers(const engine & e) {
    const auto lazy = [&](const json & triggers, int n_predict) {
        const json body = { { "grammar", "root ::= \"a\"" }, { "grammar_lazy", true }, { "grammar_triggers", triggers }, { "n_predict", n_predict }, { "ignore_eos", true } };
        return ask(e, body);
    };
    const auto pattern = [](const std::string & text) { return json::array({ { { "type", 2 }, { "value", text } } }); };
    CHECK_EQUAL(lazy(pattern("[\\s\\S]*?(<tool>)[\\s\\S]*"), 200).status, (int) KVFOLD_DONE);
    CHECK_EQUAL(lazy(pattern("(?:(?:[\\s\\S]*)*)*<tool>"), 200).status, (int) KVFOLD_DONE);
    for (const std::string & bad : { repeat("(", 150) + repeat(")", 149), repeat("(?:", 150) + "a" + repeat("{9})", 150), std::string("a{3,1}"), std::string("(a)\\1") }) {
        const answer a = lazy(pattern(bad), 4);
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
        CHECK(a.mentions("trigger"));
    }
    json words = json::array();
    for (int i = 0; i < 1025; i++) {
        words.push_back({ { "type", 1 }, { "value", "word" + std::to_string(i) } });
    }
    CHECK(lazy(words, 4).mentions("it has 1025 triggers, the limit is 1024"));
    CHECK(lazy(json::array({ { { "type", 99 }, { "value", "a" } } }), 4).mentions("no type 99"));
    still_answers(e);
}

static void checks_every_field(const engine & e) {
    const json   message = { { "messages", { { { "role", "user" }, { "content", "a" } } } }, { "max_tokens", 2 } };
    const json   twisted = { { "type", "string" }, { "minLength", 5 }, { "maxLength", 3 } };
    const json   object  = { { "type", "object" }, { "properties", { { "a", twisted } } }, { "required", { "a" } } };
    const auto   refused = [&](const char * route, json body, const json & more) {
        body.update(more);
        answer last;
        run(e, route, body, &last);
        CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
        CHECK(last.mentions("minLength") || last.mentions("repetition"));
    };
    const json grammar = { { "grammar", "root ::= \"a\"{5,3}" } };
    refused("/completion", { { "prompt", "a" } }, grammar);
    refused("/v1/chat/completions", message, grammar);
    refused("/completion", { { "prompt", "a" } }, { { "json_schema", object } });
    refused("/v1/chat/completions", message, { { "json_schema", object } });
    refused("/v1/chat/completions", message, { { "response_format", { { "type", "json_object" }, { "schema", object } } } });
    refused("/v1/chat/completions", message, { { "response_format", { { "type", "json_schema" }, { "json_schema", { { "schema", object } } } } } });
    refused("/v1/chat/completions", message,
            { { "tools", { { { "type", "function" }, { "function", { { "name", "f" }, { "parameters", object } } } } } }, { "tool_choice", "required" } });
    still_answers(e);
}

int main() {
    json options = { { "model", tiny_model() }, { "ctx-size", 512 }, { "parallel", 2 }, { "threads", 1 } };
    {
        const engine e(options);
        CHECK(e.ok());
        refuses_what_the_parser_cannot_take(e);
        refuses_left_recursion(e);
        bounds_long_chains(e);
        bounds_what_grows(e);
        survives_dead_ends(e);
        bounds_triggers(e);
        ends_where_nothing_goes_on(e);
        checks_every_field(e);
    }
    options["grammar"] = "root ::= root";
    CHECK(engine(options).opened.mentions("never ends"));
    return report();
}
