// Requests made at random over HTTP, well-formed ones to every route and others: none ends the process or holds it up, and whatever is
// answered is JSON.
//
//   server_fuzz [SECONDS [SEED [CASES]]]
//
// Without arguments, as in ctest, a few hundred, always the same. With a time, /health has to answer within a second all along,
// and everything else within five. CASES ends it earlier; a case depends on its seed alone, SEED, SEED + 1, and so on, and one
// that fails tells it.

#include "random_texts.h"

#include "../kvfold_test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <mutex>
#include <thread>

using clock_type = std::chrono::steady_clock;

static constexpr int client_threads = 3;

// ---- bodies -------------------------------------------------------------------------------------------------------------

struct sample {
    const char * method;
    const char * path;
    const char * body;
};

#define TOOLS                                                                                                                              \
    R"("tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties":)" \
    R"({"a": {"type": "string"}}, "required": ["a"]}}}])"

static const sample samples[] = {
    { "POST", "/v1/chat/completions", R"({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], "max_tokens": 8})" },
    { "POST", "/v1/chat/completions", R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}], "tool_choice": "required", "max_tokens": 40, )" TOOLS "}" },
    { "POST", "/v1/chat/completions", R"({"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "tool_calls": [{"id": "i", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "i", "content": "c"}], "tool_choice": {"type": "function", "function": {"name": "f"}}, "max_tokens": 8, )" TOOLS "}" },
    { "POST", "/v1/chat/completions", R"({"messages": [{"role": "user", "content": "b"}], "max_tokens": 40, "stream": true, "logprobs": true, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}}})" },
    { "POST", "/v1/chat/completions", R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}], "max_tokens": 8})" },
    { "POST", "/completion", R"({"prompt": ["a", [1, 2, "b"], {"prompt_string": "c"}], "n_predict": 8, "n_probs": 2, "grammar": "root ::= [a-z]+", "samplers": ["top_k"], "logit_bias": [[5, -1]]})" },
    { "POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 8, "stop": ["x"], "echo": true, "n": 2, "stream": true})" },
    { "POST", "/infill", R"({"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "f", "text": "t"}], "n_predict": 4})" },
    { "POST", "/v1/responses", R"({"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}, {"type": "reasoning", "summary": [], "content": []}], "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "integer"}}}, "max_output_tokens": 8, "stream": true})" },
    { "POST", "/v1/responses", R"({"input": "a", "instructions": "b", "tools": [{"type": "function", "name": "f", "parameters": {}}], "max_output_tokens": 8})" },
    { "POST", "/v1/messages", R"({"system": [{"type": "text", "text": "a"}], "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i", "content": [{"type": "text", "text": "b"}]}]}], "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true}, "thinking": {"type": "enabled", "budget_tokens": 10}, "max_tokens": 8})" },
    { "POST", "/v1/messages", R"({"messages": [{"role": "user", "content": "a"}], "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}, "max_tokens": 8, "stream": true})" },
    { "POST", "/v1/messages/count_tokens", R"({"messages": [{"role": "user", "content": "a"}]})" },
    { "POST", "/v1/chat/completions/input_tokens", R"({"messages": [{"role": "user", "content": "a"}]})" },
    { "POST", "/v1/responses/input_tokens", R"({"input": "a"})" },
    { "POST", "/v1/chat/completions/control", R"({"id": "x", "action": "stop"})" },
    { "POST", "/v1/embeddings", R"({"input": ["a", [1, 2]], "encoding_format": "base64"})" },
    { "POST", "/embedding", R"({"content": "a", "embd_normalize": 2})" },
    { "POST", "/v1/rerank", R"({"query": "a", "documents": ["b", "c"], "top_n": 1})" },
    { "POST", "/tokenize", R"({"content": ["a", 1, "b"], "add_special": true, "with_pieces": true})" },
    { "POST", "/detokenize", R"({"tokens": [1, 2, 3]})" },
    { "POST", "/apply-template", R"({"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"enable_thinking": false}})" },
    { "POST", "/v1/audio/transcriptions", R"({"file": "a"})" },
    { "GET", "/health", "" },
    { "GET", "/v1/models", "" },
    { "GET", "/props", "" },
    { "GET", "/slots?fail_on_no_slot=1", "" },
    { "GET", "/metrics", "" },
    { "GET", "/lora-adapters", "" },
    { "GET", "/no/such%00/route?%zz", "" },
};

// What is written into requests, beside what is in the samples.
static const char * const fields[] = {
    "messages", "prompt", "input", "content", "system", "tools", "tool_choice", "parallel_tool_calls", "response_format", "json_schema", "grammar", "grammar_lazy", "grammar_triggers",
    "chat_template_kwargs", "reasoning_format", "add_generation_prompt", "continue_final_message", "stream", "stream_options", "n", "seed", "stop", "n_predict", "max_tokens", "max_completion_tokens",
    "n_keep", "n_discard", "n_indent", "t_max_predict_ms", "temperature", "dynatemp_range", "top_k", "top_p", "min_p", "xtc_probability", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty",
    "dry_multiplier", "dry_sequence_breakers", "mirostat", "mirostat_tau", "n_probs", "logprobs", "top_logprobs", "min_keep", "samplers", "logit_bias", "ignore_eos", "id_slot", "cache_prompt", "n_cache_reuse",
    "return_tokens", "return_progress", "timings_per_token", "post_sampling_probs", "lora", "thinking_budget_tokens", "thinking_forced_open", "preserved_tokens", "parse_tool_calls", "response_fields",
    "role", "type", "name", "tool_calls", "function", "arguments", "parameters", "image_url", "text", "encoding_format", "dimensions", "documents", "query", "top_n", "answer_format", "parse_special", "n_cmpl",
};

static json random_leaf() {
    switch (roll(12)) {
        case 0: return json::make(times("x", 1u << roll(16)));
        case 1: return json::make(times("(", 1u << roll(12)));
        case 2: return json::make(std::string(random_grammar()));
        case 3: return json::make(random_template().substr(0, 4000));
        case 4: return random_document();
        case 5: return json::make(std::string("</s><s>\xEF\xB7\x90\xEF\xB7\xAF"));
        case 6: return json::make((int64_t) dice() - (1u << 31));
        case 7: return json::make((int) roll(64));
        case 8: return json::make(std::string(one_of(fields)));
        default: return random_value();
    }
}

// The `n`-th of all values within a value, itself the first; null where there are fewer.
static json * pick(json & value, unsigned & n) {
    if (n == 0) {
        return &value;
    }
    n--;
    if (value.is_array()) {
        for (size_t i = 0; i < value.size(); i++) {
            if (json * found = pick(value.at(i), n)) {
                return found;
            }
        }
    } else if (value.is_object()) {
        std::vector<std::string> keys;
        for (const auto & [key, inner] : value.items()) {
            keys.push_back(key);
        }
        for (const auto & key : keys) {
            if (json * found = pick(value.at(key), n)) {
                return found;
            }
        }
    }
    return nullptr;
}

static void mutate(json & body) {
    unsigned n      = roll(30);
    json *   target = pick(body, n);
    if (!target) {
        target = &body;
    }
    switch (target->is_object() ? roll(4) : target->is_array() ? 4 + roll(4) : 8 + roll(3)) {
        case 0:
        case 1: (*target)[one_of(fields)] = random_leaf(); break;
        case 2: {
            const json whole = *target;
            for (const auto & [key, inner] : whole.items()) {
                if (roll(3) == 0) {
                    target->erase(key);
                }
            }
            break;
        }
        case 3:
            if (body.is_object()) {
                body[one_of(fields)] = json(*target);
            }
            break;
        case 4:
        case 5: target->push_back(random_leaf()); break;
        case 6:
            for (unsigned i = target->empty() ? 0 : 1u << roll(8); i > 0; i--) {
                target->push_back(json(target->at(0)));
            }
            break;
        case 7: *target = json::array(); break;
        case 8: *target = json::array({ json(*target) }); break;
        default: *target = random_leaf(); break;
    }
}

// A response that goes on for long is no failure; whoever asks for it here does not want to wait for it.
static void bound(json & body) {
    for (const char * limit : { "n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens", "n_cmpl", "n" }) {
        if (body.is_object() && body.contains(limit) && body.at(limit).is_number() && !(body.at(limit).get<double>() < 100)) {
            body[limit] = 100;
        }
    }
    if (body.is_object() && !body.contains("max_tokens") && !body.contains("n_predict")) {
        body["max_tokens"] = 50;
    }
}

// ---- connections --------------------------------------------------------------------------------------------------------

class connection {
  public:
    explicit connection(int port) : sock(socket(AF_INET, SOCK_STREAM, 0)) {
        sockaddr_in address     = {};
        address.sin_family      = AF_INET;
        address.sin_port        = htons((uint16_t) port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        connected               = connect(sock, (sockaddr *) &address, sizeof(address)) == 0;
    }

    ~connection() { close(sock); }

    void send_text(const std::string & text) {
        for (size_t at = 0; at < text.size();) {
            const ssize_t n = send(sock, text.data() + at, text.size() - at, MSG_NOSIGNAL);
            if (n <= 0) {
                return; // it has been refused
            }
            at += (size_t) n;
        }
    }

    void end_sending() { shutdown(sock, SHUT_WR); }

    // All that comes until the server closes the connection, or `seconds` are over.
    std::string receive(double seconds, size_t most = SIZE_MAX) {
        const auto  until = clock_type::now() + std::chrono::milliseconds((int64_t) (seconds * 1000));
        std::string all;
        while (all.size() < most) {
            const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - clock_type::now()).count();
            pollfd     what = { sock, POLLIN, 0 };
            char       buffer[65536];
            if (left <= 0 || poll(&what, 1, (int) left) <= 0) {
                late = true;
                break;
            }
            const ssize_t n = recv(sock, buffer, sizeof(buffer), 0);
            if (n <= 0) {
                break;
            }
            all.append(buffer, (size_t) n);
        }
        return all;
    }

    bool connected = false;
    bool late      = false; // not everything had come

  private:
    const int sock;
};

static std::string head(const std::string & method, const std::string & path, const std::string & more) {
    return method + " " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + more;
}

static std::string request_text(const sample & to, const std::string & body) {
    return head(to.method, to.path, "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n") + body;
}

// ---- what an answer may be ----------------------------------------------------------------------------------------------

static bool is_json(const std::string & text) { return !json::parse_no_throw(text).is_discarded(); }

static std::string unchunked(std::string body) {
    std::string whole;
    while (true) {
        const size_t line = body.find("\r\n");
        const size_t size = line == std::string::npos ? 0 : strtoul(body.c_str(), nullptr, 16);
        if (size == 0 || body.size() < line + 2 + size) {
            return whole;
        }
        whole += body.substr(line + 2, size);
        body.erase(0, std::min(body.size(), line + 4 + size));
    }
}

static bool is_event_stream(const std::string & body) {
    for (size_t at = 0; at < body.size();) {
        const size_t      end  = std::min(body.find('\n', at), body.size());
        const std::string line = body.substr(at, end - at);
        at                     = end + 1;
        if (line.rfind("data: ", 0) == 0 && line != "data: [DONE]" && !is_json(line.substr(6))) {
            return false;
        }
    }
    return true;
}

// Why this is no answer that a client could read; empty if it is one.
static std::string complaint(const std::string & answer) {
    const size_t end = answer.find("\r\n\r\n");
    if (answer.rfind("HTTP/1.1 ", 0) != 0 || end == std::string::npos) {
        return "no HTTP";
    }
    const std::string headers = answer.substr(0, end);
    std::string       body    = answer.substr(end + 4);
    if (headers.find("chunked") != std::string::npos) {
        body = unchunked(body);
    }
    if (headers.find("text/event-stream") != std::string::npos) {
        return is_event_stream(body) ? "" : "an event that is no JSON";
    }
    const bool is_text = headers.find("text/plain") != std::string::npos && headers.find(" 200 ") != std::string::npos; // /metrics
    return is_text || is_json(body) ? "" : "no JSON";
}

// As to HEAD, and what cpp-httplib says to what is no HTTP, line by line.
static bool has_no_body(const std::string & answer) {
    const size_t end = answer.find("\r\n\r\n");
    return answer.rfind("HTTP/1.1 ", 0) == 0 && end != std::string::npos && (end + 4 == answer.size() || answer.compare(end + 4, 9, "HTTP/1.1 ") == 0);
}

// ---- cases --------------------------------------------------------------------------------------------------------------

struct outcome {
    std::string sent;
    std::string answer;
    bool        has_to_answer = true; // and not only to go on
    bool        late          = false;
};

static double patience = 60;

static outcome ask(int port, const std::string & text) {
    connection c(port);
    c.send_text(text);
    outcome o = { text, "", true, false };
    o.answer  = c.receive(patience);
    o.late    = c.late;
    return o;
}

static outcome mutated_body(int port) {
    const sample & to   = samples[roll(std::size(samples))];
    json           body = json::parse(*to.body ? to.body : "{}");
    for (unsigned n = roll(5); n > 0; n--) {
        mutate(body);
    }
    bound(body);
    return ask(port, request_text(to, *to.body ? body.dump_safe() : ""));
}

static outcome hostile_field(int port) {
    const sample & to   = samples[roll(9)];
    json           body = json::parse(to.body);
    switch (roll(4)) {
        case 0: body["grammar"] = spoiled(random_grammar()); break;
        case 1: body["json_schema"] = random_document(); break;
        case 2: body["response_format"] = json({ { "type", "json_schema" }, { "json_schema", { { "schema", random_document() } } } }); break;
        default:
            for (unsigned n = 1u << roll(10); n > 0; n--) {
                body["chat_template_kwargs"]["k" + std::to_string(n)] = random_leaf();
            }
    }
    bound(body);
    return ask(port, request_text(to, body.dump_safe()));
}

static outcome spoiled_text(int port) {
    const sample & to   = samples[roll(std::size(samples))];
    std::string    text = to.body;
    for (unsigned n = 1 + roll(3); n > 0; n--) {
        text = spoiled(text);
    }
    if (roll(5) == 0) {
        text += times(roll(2) ? "[" : "{\"a\":", 1u << roll(18));
    }
    return ask(port, request_text(to, text));
}

static outcome odd_headers(int port) {
    static const char * const headers[] = {
        "Host: evil.example", "Host:", "Content-Length: 5", "Content-Length: -1", "Content-Length: 99999999999999999999", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked",
        "Expect: 100-continue", "Content-Type: text/plain", "Content-Type: application/json; charset=\xff", "Content-Type: multipart/form-data; boundary=x", "Origin: null", "Origin: http://localhost",
        "Authorization: Bearer", "Range: bytes=0-1,2-3,5-", "Accept-Encoding: gzip, br, zstd", "Content-Encoding: gzip", "Connection: keep-alive", "Connection: Upgrade", "Upgrade: h2c",
        "X-A: \x01\x02", "no colon", ": no name", "Cookie: a=b",
    };
    static const char * const methods[] = { "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "CONNECT", "get", "PRI", "\x16\x03\x01" };
    const sample &            to   = samples[roll(std::size(samples))];
    std::string               text = std::string(roll(2) ? to.method : one_of(methods)) + " " + (roll(4) ? to.path : "/" + times("a/", 1u << roll(14))) + " HTTP/1." + std::to_string(roll(3)) + "\r\n";
    for (unsigned n = roll(6); n > 0; n--) {
        text += std::string(one_of(headers)) + "\r\n";
    }
    if (roll(8) == 0) {
        text += times("X-H: " + times("v", 1 + roll(9000)) + "\r\n", 1 + roll(300));
    }
    text += "Connection: close\r\n";
    text += roll(3) ? "Content-Length: " + std::to_string(strlen(to.body)) + "\r\n\r\n" + to.body : "\r\n" + std::string(to.body);
    connection c(port);
    c.send_text(text);
    c.end_sending(); // what is incomplete stays so, and nobody waits for the rest
    outcome o       = { text, "", false, false };
    o.answer        = c.receive(patience);
    o.late          = c.late;
    o.has_to_answer = false;
    return o;
}

// Whoever goes away, at any time, leaves nothing behind that others wait for.
static outcome broken_connection(int port) {
    const sample &    to   = samples[roll(std::size(samples))];
    const std::string text = roll(5) ? request_text(to, to.body) : times(std::string(1, (char) dice()), roll(5000));
    connection        c(port);
    c.send_text(text.substr(0, roll(4) ? text.size() : roll((unsigned) text.size() + 1)));
    if (roll(2)) {
        c.receive(0.01 * roll(10), roll(300));
    }
    return { text, "", false, false };
}

// ---- running ------------------------------------------------------------------------------------------------------------

static std::mutex        report_mutex;
static std::atomic<bool> over{ false }, failed{ false };
static std::atomic<int>  slowest_ms{ 0 }, slowest_health_ms{ 0 };

static void keep_largest(std::atomic<int> & most, int value) {
    for (int known = most; known < value && !most.compare_exchange_weak(known, value);) {
    }
}

static int ms_since(clock_type::time_point start) {
    return (int) std::chrono::duration_cast<std::chrono::milliseconds>(clock_type::now() - start).count();
}

static void fail(unsigned seed, const std::string & why, const outcome & o) {
    const std::lock_guard<std::mutex> lock(report_mutex);
    failed = true;
    fprintf(stderr, "seed %u: %s\n---- sent\n%.3000s\n---- answer\n%.1000s\n", seed, why.c_str(), o.sent.c_str(), o.answer.c_str());
}

static outcome run_case(int port, unsigned seed) {
    dice.seed(seed);
    switch (roll(10)) {
        case 0: return spoiled_text(port);
        case 1: return odd_headers(port);
        case 2: return broken_connection(port);
        case 3:
        case 4: return hostile_field(port);
        default: return mutated_body(port);
    }
}

static void watch_health(int port, int limit_ms) {
    while (!over) {
        const auto    start = clock_type::now();
        const outcome o     = ask(port, head("GET", "/health", "\r\n"));
        const int     took  = ms_since(start);
        keep_largest(slowest_health_ms, took);
        if (o.answer.find(" 200 ") == std::string::npos || took > limit_ms) {
            fail(0, "/health took " + std::to_string(took) + " ms", o);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
}

int main(int argc, char ** argv) {
    const double   seconds = argc > 1 ? atof(argv[1]) : 0;
    const unsigned first   = argc > 2 ? (unsigned) atoi(argv[2]) : 1;
    const unsigned cases   = argc > 3 ? (unsigned) atoi(argv[3]) : seconds > 0 ? 0xFFFFFFFF : 400;
    const int      limit   = seconds > 0 ? 5000 : 60000;
    signal(SIGPIPE, SIG_IGN);

    const kvfold_test::engine e({ { "model", kvfold_test::tiny_model() }, { "ctx-size", 256 }, { "parallel", 2 }, { "threads", 1 }, { "embeddings", true }, { "pooling", "mean" } });
    if (!e.ok()) {
        fprintf(stderr, "%s\n", e.opened.text.c_str());
        return 1;
    }
    kvfold_server * server  = nullptr;
    const auto      started = kvfold_test::call([&](char ** out) { return kvfold_serve(e.handle, R"({"port": 0, "timeout": 5})", &server, out); });
    if (!server) {
        fprintf(stderr, "%s\n", started.text.c_str());
        return 1;
    }
    const int port = started.object().at("port").get<int>();

    const auto            start = clock_type::now();
    std::atomic<unsigned> next{ 0 };
    std::thread           health(watch_health, port, seconds > 0 ? 1000 : 60000);
    const auto            client = [&] {
        for (unsigned i = next++; i < cases && !failed && (seconds == 0 || ms_since(start) < seconds * 1000); i = next++) {
            const auto    begun = clock_type::now();
            const outcome o     = run_case(port, first + i);
            const int     took  = ms_since(begun);
            keep_largest(slowest_ms, took);
            const bool        silent = !o.has_to_answer && (o.answer.empty() || has_no_body(o.answer));
            const std::string why    = o.late || took > limit ? "took " + std::to_string(took) + " ms" : silent ? "" : complaint(o.answer);
            if (!why.empty()) {
                fail(first + i, why, o);
            }
        }
    };
    std::vector<std::thread> clients;
    for (int i = 0; i < client_threads; i++) {
        clients.emplace_back(client);
    }
    for (auto & each : clients) {
        each.join();
    }
    over = true;
    health.join();
    const auto closes = clock_type::now();
    kvfold_server_close(server);
    printf("%u requests from seed %u, the slowest %d ms, /health at most %d ms, closed in %d ms\n", std::min(next.load(), cases), first, slowest_ms.load(),
           slowest_health_ms.load(), ms_since(closes));
    return failed ? 1 : 0;
}
