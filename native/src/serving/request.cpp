#include "serving/request.h"

#include "process/at_exit.h"
#include "hooks/request-tasks.h"
#include "hooks/text-marks.h"
#include "process/json_text.h"
#include "kv/memory/refusal.h"
#include "process/kvfold_log.h"
#include "serving/chat_messages.h"
#include "serving/dialect.h"
#include "serving/request_check.h"
#include "serving/tool_calls.h"
#include "text/grammar.h"
#include "text/limits.h"
#include "text/schema.h"

#include <algorithm>
#include <filesystem>
#include <set>

namespace kvfold {

static thread_local request * current = nullptr;

struct current_scope {
    request * outer;

    explicit current_scope(request * inner) : outer(current) { current = inner; }

    ~current_scope() { current = outer; }
};

static bool route_needs_slot(const std::string & route) {
    static const std::set<std::string> routes = { "/v1/chat/completions", "/completion",    "/infill",
                                                  "/embeddings",          "/v1/embeddings", "/v1/rerank" };
    return routes.count(route) == 1;
}

static bool route_tells_of_engine(const std::string & route) {
    return route == "/props" || route == "/slots" || route == "/metrics";
}

// Also where an HTTP server has a prefix before it.
static bool route_uses_template(const std::string & route) {
    for (const char * part : { "/chat/completions", "/apply-template", "/responses", "/messages" }) {
        if (route.find(part) != std::string::npos) {
            return true;
        }
    }
    return false;
}

state_files state_files::parse(const std::string & text) {
    const json  object = parse_object(text, "the state");
    state_files files;
    for (const auto & [name, value] : object.items()) {
        if (name == "load" && value.is_string()) {
            files.load = value.get<std::string>();
        } else if (name == "save" && value.is_string()) {
            files.save = value.get<std::string>();
        } else if (name == "strict" && value.is_boolean()) {
            files.strict = value.get<bool>();
        } else if (name == "load" || name == "save" || name == "strict") {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"" + name + "\" of a state cannot be " + value.dump_safe());
        } else {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "a state has no \"" + name + "\": \"load\", \"save\" or \"strict\"");
        }
    }
    return files;
}

// Half of a character made whole, and refused for what its handler would not refuse.
request_body request_body::parse(const request_host & owner, const std::string & route, const std::string & given) {
    request_body body;
    body.text   = with_whole_characters(given);
    body.object = parse_body(body.text);
    check_request(body.object, route, { owner.slots(), owner.adapters(), (int) llama_vocab_n_tokens(owner.vocabulary()) });
    return body;
}

std::shared_ptr<request> request::open(const std::shared_ptr<request_host> & owner, const std::string & route, const std::string & text,
                                       const state_files & files) {
    request_host::use inside(*owner);
    const auto * handler = owner->find_handler(route);
    if (!handler) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "unknown route '" + route + "'");
    }
    request_body body = request_body::parse(*owner, route, text);
    if (!route_tells_of_engine(route)) {
        owner->require_tokenizer();
    }
    const bool with_state = !files.load.empty() || !files.save.empty();
    if (with_state && route != "/v1/chat/completions" && route != "/completion") {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "route '" + route + "' leaves no KV state");
    }
    if (with_state && files.strict) {
        owner->require_states();
    }
    const bool               needs_slot = route_needs_slot(route);
    std::shared_ptr<request> opened(new request(owner, *handler, needs_slot, route, std::move(body), {}, files));
    opened->start();
    return opened;
}

std::shared_ptr<request> request::open(const std::shared_ptr<request_host> & owner, const server_http_context::handler_t & handler, const char * path,
                                       bool posts, bool needs_slot, const server_http_req & origin, const std::string & api_key) {
    request_host::use inside(*owner);
    const bool               is_json = posts && origin.files.empty();
    request_body             body    = is_json ? request_body::parse(*owner, path, origin.body) : request_body{ origin.body, nullptr };
    std::shared_ptr<request> opened(new request(owner, handler, needs_slot, path, std::move(body), origin.should_stop, {}));
    opened->http_request.params       = origin.params;
    opened->http_request.query_string = origin.query_string;
    opened->http_request.files        = origin.files;
    opened->exchange->salt            = api_key + '\n' + opened->exchange->salt;
    opened->start();
    return opened;
}

void request::start() {
    owner->admit(shared_from_this(), needs_slot);
    // handlers wait for the first result, and whoever opens a request must not
    handler_work.start([this] { run_handler(); });
}

request::request(const std::shared_ptr<request_host> & owner, const server_http_context::handler_t & handler, bool needs_slot,
                 const std::string & route, request_body && body, std::function<bool()> gone, const state_files & files)
    : owner(owner), handler(handler), needs_slot(needs_slot), gone(std::move(gone)),
      should_stop([this] { return ended.load() != 0 || (this->gone && this->gone()); }),
      http_request{ {}, {}, route, "", std::move(body.text), {}, should_stop }, given(std::move(body.object)), files(files) {
    exchange->salt = given.is_object() ? given.value("cache_salt", "") : "";
}

request::~request() {
    cancel();
    handler_work.join();
    release();
}

void request::run_handler() {
    try {
        request_host::use      inside(*owner);
        const busy_scope busy([this] {
            end(KVFOLD_ERROR_CLOSED);
            stop_tasks();
        });
        call_handler();
    } catch (const error & e) {
        settle(nullptr, e);
    }
}

// What a template is given to write; not images, nor thoughts, which most leave out.
static size_t text_bytes(const json & value) {
    static const std::set<std::string> others = { "url", "data", "image_url", "input_audio", "reasoning_content", "thinking" };
    size_t bytes = value.is_string() ? value.get<std::string>().size() : 0;
    if (value.is_array()) {
        for (const auto & inner : value) {
            bytes += text_bytes(inner);
        }
    } else if (value.is_object()) {
        for (const auto & [key, inner] : value.items()) {
            bytes += others.count(key) ? 0 : text_bytes(inner);
        }
    }
    return bytes;
}

// The body as the handler of a route takes it: what llama.cpp reads only in part, in words that it reads, and texts that are nothing but
// texts. Here and not where the request is opened, since the thread of a caller may have little stack.
void request::rewrite_body() {
    json body = std::move(given);
    if (!body.is_object()) {
        return;
    }
    const std::string & route     = http_request.path;
    if (route_uses_template(route)) { // before it is copied by a template
        on_text((body.contains("messages") ? text_bytes(body.at("messages")) : 0) + (body.contains("input") ? text_bytes(body.at("input")) : 0));
    }
    const bool          dialect   = rewrite_dialect(body);
    const bool          one_call  = owner->describes_tools() && ask_for_one_call(body);
    const bool          described = route_uses_template(route) && owner->describes_schemas() && describe_schema(body);
    const bool          no_call   = route_uses_template(route) && ask_for_no_call(body); // the model is told that it may
    const bool          continued = route_uses_template(route) && owner->continues_answers() && continue_answer(body);
    const bool          schemas   = rewrite_schemas(body);
    const bool          marked    = owner->texts().mark(route, body); // after what the others put into texts
    if (route_uses_template(route) && has_format(body)) {
        owner->require_formats();
    }
    needs_call   = requires_call(body);
    needs_format = route_uses_template(route) && holds_format(body);
    if (dialect || one_call || described || no_call || continued || schemas || marked) {
        http_request.body = body.dump_safe();
    }
}

// A strict template refuses what others take: two messages of a user in a row, a system message later on. Nothing of the
// request has been queued then, so it is made again with messages as that template wants them.
server_http_res_ptr request::answer_of_handler() {
    std::string roles; // as they were given, once the template has refused them
    while (true) {
        const template_scope templates(http_request.body.size(), should_stop);
        try {
            return handler(http_request);
        } catch (const error &) {
            throw;
        } catch (const std::exception & e) {
            const auto complaint = templates.exceeded() ? std::nullopt : template_complaint(e.what());
            if (!complaint || !takes_messages(http_request.path)) {
                throw;
            }
            json       body  = json::parse(http_request.body);
            const bool first = roles.empty();
            roles            = first ? roles_of(body) : roles;
            if (!first || !settle_messages(body)) {
                throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the chat template of this model does not take messages of " + roles + ": " + *complaint);
            }
            http_request.body = body.dump();
        }
    }
}

void request::call_handler() {
    const c_locale_scope    c_locale;
    const abort_guard       guard;
    const current_scope     scope(this);
    const request_log_scope lines;
    try {
        if (route_uses_template(http_request.path)) {
            owner->require_template();
        }
        rewrite_body();
        load_state();
        settle(answer_of_handler(), std::nullopt);
    } catch (const error &) {
        settle(nullptr, current_error());
    } catch (const std::bad_alloc &) {
        settle(nullptr, current_error());
    } catch (const aborted &) {
        settle(nullptr, current_error());
    } catch (const std::exception & e) {
        // handlers throw what they find wrong with a body; the HTTP layer would answer 400 or 500
        settle(nullptr, error(KVFOLD_ERROR_INVALID_ARGUMENT, e.what()));
    }
}

// Runs what reads or writes a file of state: a failure is the request's only where the caller is strict.
void request::keep_state_from(const std::function<void()> & work) {
    try {
        work();
    } catch (const std::exception &) {
        const error cause = current_error();
        if (files.strict) {
            throw cause;
        }
        log_emit(KVFOLD_LOG_WARN, "a conversation goes on without its saved KV state: " + cause.message);
    }
}

// Before the task is posted, so that the worker does not wait for a disk.
void request::load_state() {
    if (files.load.empty() && files.save.empty()) {
        return;
    }
    keep_state_from([&] {
        owner->require_states();
        {
            std::lock_guard<std::mutex> lock(exchange->mutex);
            exchange->save = !files.save.empty();
            exchange->save_strict = files.strict;
            exchange->write = [host = owner.get(), path = files.save](const kv_state & state) { return host->write_state(path, state); };
        }
        std::error_code code;
        if (!files.load.empty() && std::filesystem::exists(std::filesystem::u8path(files.load), code)) {
            exchange->read   = [host = owner.get(), path = files.load] { return host->load_state(path); };
            exchange->strict = files.strict;
            owner->exchanges.read_state(exchange);
        }
    });
}

// After the last chunk. The slot ends soon after it has sent that, if it has not ended already.
void request::save_state() {
    keep_state_from([&] {
        {
            std::unique_lock<std::mutex> lock(exchange->mutex);
            if (!exchange->save) {
                return;
            }
            exchange->changed.wait(lock, [&] { return exchange->slot_ended || !exchange->save; });
        }
        request_host::use inside(*owner);
        if (auto written = written_copy(*exchange)) {
            written->publish();
        }
    });
}

void request::settle(server_http_res_ptr result, std::optional<error> caught) {
    std::lock_guard<std::mutex> lock(mutex);
    answer   = std::move(result);
    if (answer && answer->status == 200 && !answer->is_stream() && usage.of_several()) {
        answer->data = usage.in_answer(answer->data);
    }
    failure  = std::move(caught);
    answered = true;
    changed.notify_all();
}

// Tasks of one request differ in their prompts only.
static void check_sampling(const std::vector<server_task> & tasks, const llama_vocab * vocab) {
    if (tasks.empty() || !tasks.front().need_sampling()) {
        return;
    }
    const common_params_sampling & sampling = tasks.front().params.sampling;
    std::vector<std::string>       patterns;
    for (const auto & trigger : sampling.grammar_triggers) {
        switch (trigger.type) {
            case COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN:
            case COMMON_GRAMMAR_TRIGGER_TYPE_WORD: break;
            case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN:
            case COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL: patterns.push_back(trigger.value); break;
            default: throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "grammar_triggers have no type " + std::to_string((int) trigger.type));
        }
    }
    check_grammar(common_grammar_value(sampling.grammar), vocab);
    check_triggers(patterns, sampling.grammar_triggers.size());
}

// What cancelling them costs the worker grows with the square of their number.
static constexpr size_t max_prompts = 2048;

void request::check_inputs(const std::vector<server_task> & tasks) const {
    if (tasks.size() > max_prompts) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the request has " + std::to_string(tasks.size()) + " prompts or inputs, the limit is " +
                                                       std::to_string(max_prompts))
            .compares((int64_t) tasks.size(), (int64_t) max_prompts);
    }
    for (size_t i = 0; i < tasks.size(); i++) {
        const auto        type  = tasks[i].type;
        const input_limit limit = owner->longest_input();
        if ((type == SERVER_TASK_TYPE_EMBEDDING || type == SERVER_TASK_TYPE_RERANK) && tasks[i].tokens.size() > limit.n_tokens) {
            const int64_t size = (int64_t) tasks[i].tokens.size();
            throw error(KVFOLD_ERROR_CONTEXT_EXCEEDED, "input " + std::to_string(i) + " of " + std::to_string(tasks.size()) + " (counted from 0) has " +
                                                           std::to_string(size) + " tokens, the limit is " + std::to_string(limit.n_tokens) + " (\"" +
                                                           limit.option + "\")")
                .compares(size, (int64_t) limit.n_tokens)
                .about_option(limit.option);
        }
    }
}

// What llama.cpp's handlers of some templates drop.
void request::check_promises(const std::vector<server_task> & tasks) const {
    if (tasks.empty()) {
        return;
    }
    const common_params_sampling & sampling = tasks.front().params.sampling;
    if (needs_call && common_grammar_value(sampling.grammar).empty()) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "\"tool_choice\" cannot be kept: llama.cpp knows no calls of this model's chat template");
    }
    if (needs_format && sampling.grammar_lazy) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "\"response_format\" cannot be kept beside \"tools\" with this model's chat template");
    }
}

// The server core, which is in between, passes on the text of an error only.
void request::refuse_if(const std::function<void()> & check) {
    try {
        check();
    } catch (const error & e) {
        std::lock_guard<std::mutex> lock(exchange->mutex);
        exchange->refusal = e;
        throw;
    }
}

void request::on_tasks_waiting(const std::unordered_set<int> & ids, std::vector<server_task> * tasks) {
    if (tasks) {
        refuse_if([&] {
            check_inputs(*tasks);
            check_promises(*tasks);
            check_sampling(*tasks, owner->vocabulary());
        });
    }
    if (ids.size() > 1 && (!files.load.empty() || !files.save.empty())) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "a request with a KV state has one prompt and one answer, not " + std::to_string(ids.size()))
            .compares((int64_t) ids.size(), 1);
    }
    owner->exchanges.add(ids, exchange);
    bool late = false;
    {
        std::lock_guard<std::mutex> lock(mutex);
        task_ids.insert(ids.begin(), ids.end());
        all_task_ids.insert(ids.begin(), ids.end());
        if (tasks) {
            usage.expect(*tasks);
        }
        late = ended != 0;
        while (tasks && tasks->size() > owner->tasks_at_once()) {
            kept_tasks.push_front(std::move(tasks->back()));
            tasks->pop_back();
            task_ids.erase(kept_tasks.front().id);
            for (const auto & child : kept_tasks.front().child_tasks) {
                task_ids.erase(child.id);
            }
        }
    }
    if (late) {
        stop_tasks();
    }
}

static error ended_error(int why) {
    switch (why) {
        case KVFOLD_ERROR_CANCELLED: return error(KVFOLD_ERROR_CANCELLED, "the request was cancelled");
        case KVFOLD_ERROR_CLOSED:    return error(KVFOLD_ERROR_CLOSED, "the engine was closed");
        default:                     return error(KVFOLD_ERROR_INTERNAL, "the worker thread failed; its last words are in the log");
    }
}

// Of what asks for tokens alone, each of which is an element of the answer's JSON.
static constexpr size_t max_text = 16u << 20;

void request::on_text(size_t bytes) {
    refuse_if([&] {
        if (needs_slot) {
            owner->check_text(bytes);
        } else if (bytes > max_text) {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the text has " + std::to_string(bytes) + " bytes, the limit is " + std::to_string(max_text))
                .compares((int64_t) bytes, (int64_t) max_text);
        }
    });
}

void request::on_tokenizer_step() {
    static constexpr unsigned between = 4096; // a fraction of a millisecond
    static thread_local unsigned steps = 0;
    if (++steps % between == 0 && should_stop()) {
        throw ended_error(ended != 0 ? ended.load() : KVFOLD_ERROR_CANCELLED);
    }
}

void request::on_task_ended(const server_task_result & last) {
    std::unique_lock<std::mutex> lock(mutex);
    task_ids.erase(last.id);
    usage.add(last);
    if (kept_tasks.empty() || ended != 0) {
        return;
    }
    server_task next = std::move(kept_tasks.front());
    kept_tasks.pop_front();
    task_ids.insert(next.id);
    for (const auto & child : next.child_tasks) {
        task_ids.insert(child.id);
    }
    lock.unlock();
    owner->queue_task(std::move(next));
}

void request::cancel() {
    end(KVFOLD_ERROR_CANCELLED);
    try {
        request_host::use inside(*owner);
        stop_tasks();
    } catch (const error &) {
        // a closing engine stops the tasks of all its requests
    }
}

void request::end(kvfold_status why) {
    int none = 0;
    if (ended.compare_exchange_strong(none, why)) {
        {
            std::lock_guard<std::mutex> lock(exchange->mutex);
            exchange->forget_copy();
            exchange->changed.notify_all();
        }
        std::lock_guard<std::mutex> lock(mutex);
        answered = handler_work.withdraw() || answered; // one that still waits for a thread
        changed.notify_all();
    }
}

void request::stop_tasks() {
    std::unordered_set<int> ids;
    {
        std::lock_guard<std::mutex> lock(mutex);
        ids.swap(task_ids);
        kept_tasks.clear();
    }
    owner->cancel_tasks(ids);
}

std::optional<std::string> request::next() {
    if (finished) {
        return std::nullopt;
    }
    try {
        while (true) {
            if (ended != 0) {
                throw ended_error(ended);
            }
            if (!chunks.empty()) {
                std::string chunk = std::move(chunks.front());
                chunks.pop_front();
                return chunk;
            }
            if (exhausted) {
                save_state();
                finish();
                return std::nullopt;
            }
            fetch();
        }
    } catch (...) {
        finish();
        throw;
    }
}

// Returns without an answer if the request was ended.
void request::await_answer() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return answered || ended != 0; });
    if (ended == 0 && failure) {
        throw *failure;
    }
}

bool request::fetch_piece(std::string & text) {
    request_host::use       inside(*owner);
    const abort_guard       guard;
    const current_scope     scope(this);
    const request_log_scope lines;
    if (note_waiting(*exchange)) {
        owner->wake_worker();
    }
    const bool more = answer->next(text);
    if (text == "data: null\n\n") { // that another prompt of the request begins, for the sake of headers that have gone out
        text = ":\n\n";
    }
    const bool part = !text.empty() && text.front() != ':'; // ':' begins a sign of life that no slot has sent
    if (note_read(*exchange, part)) {
        owner->wake_worker();
    }
    text = usage.in_events(text);
    return more;
}

// The server core passes on the text of an error only.
void request::throw_refusal() {
    std::lock_guard<std::mutex> lock(exchange->mutex);
    if (exchange->refusal) {
        throw *exchange->refusal;
    }
}

// Waits for the answer, or for more of it.
void request::fetch() {
    await_answer();
    if (ended != 0) {
        return;
    }
    throw_refusal();
    request_host::use inside(*owner);
    if (!answer->is_stream()) {
        read_answer();
        exhausted = true;
        return;
    }
    std::string text;
    exhausted = !fetch_piece(text);
    if (ended != 0) {
        return;
    }
    try {
        read_events(text);
    } catch (const error &) {
        throw_refusal(); // which has come in the meantime, and of which the server core passes on the text only
        throw;
    }
}

bool request::has_answer() {
    std::unique_lock<std::mutex> lock(mutex);
    return changed.wait_for(lock, std::chrono::milliseconds(250), [&] { return answered; });
}

bool request::take_answer(server_http_res & into) {
    // also of a request that was ended: until it returns, its handler looks at the client's connection
    while (!has_answer()) {
        if (ended == 0 && gone && gone()) {
            cancel();
        }
    }
    await_answer();
    if (ended != 0) {
        throw ended_error(ended);
    }
    throw_refusal();
    request_host::use inside(*owner);
    if (answer->status == 501 || answer->status == 500) { // in words of llama-server's command line, or of its inside
        throw answer_error();
    }
    if (answer->status == 400) {
        answer->data = in_plain_words(answer->data);
    }
    into.status       = answer->status;
    into.content_type = answer->content_type;
    into.headers      = answer->headers;
    if (answer->is_stream()) {
        return true; // its data is the first piece
    }
    into.data = std::move(answer->data);
    return false;
}

bool request::next_piece(std::string & out) {
    if (ended != 0) {
        throw ended_error(ended);
    }
    const bool more = fetch_piece(out);
    if (http_request.path.find("/responses") != std::string::npos) {
        out = events.with_places(out);
    }
    return more;
}

// Without the names that a JSON library has for its errors, without all of what was given, and in one line.
static std::string plain_words(std::string message) {
    static constexpr size_t longest = 1000;
    message = message.substr(0, std::min(message.find("; tools = "), longest));
    while (!message.empty() && (message.back() & 0xC0) == 0x80) {
        message.pop_back(); // a character that was cut
    }
    for (size_t at; (at = message.find("[json.exception.")) != std::string::npos;) {
        const size_t end = message.find("] ", at);
        message.erase(at, end == std::string::npos ? std::string::npos : end + 2 - at);
    }
    std::replace(message.begin(), message.end(), '\n', ' ');
    return message;
}

// The error object of an answer or of a chunk, as format_error_response() makes it.
static error to_error(const json & object) {
    const std::string message = plain_words(object.is_object() && object.contains("message") ? object.at("message").get<std::string>() : object.dump_safe());
    const std::string type    = object.is_object() && object.contains("type") ? object.at("type").get<std::string>() : "";
    if (type == "exceed_context_size_error") {
        const int64_t value = object.at("n_prompt_tokens").get<int64_t>();
        const int64_t limit = object.at("n_ctx").get<int64_t>();
        return error(KVFOLD_ERROR_CONTEXT_EXCEEDED, "the prompt has " + std::to_string(value) + " tokens but a slot holds " +
                                                        std::to_string(limit) + ", one of which is for the answer")
            .compares(value, limit);
    }
    const size_t start = message.find(" Start it with `--");
    if (start != std::string::npos) { // "This server does not support embeddings. Start it with `--embeddings`"
        const std::string flag = message.substr(start + 18, message.rfind('`') - start - 18);
        return error(KVFOLD_ERROR_UNSUPPORTED, "the engine was opened without option \"" + flag + "\"").about_option(flag);
    }
    if (message.find("Unexpected empty grammar stack") != std::string::npos) {
        return error(KVFOLD_ERROR_INVALID_ARGUMENT, "the grammar allows nothing here that the model has a token for");
    }
    if (message.find("the grammar has too many ways to go on") != std::string::npos) { // of the worker, while it sampled
        return error(KVFOLD_ERROR_INVALID_ARGUMENT, message.substr(message.find("the grammar")));
    }
    if (const auto refusal = memory_refusal::parse(message)) {
        return out_of_memory(*refusal);
    }
    if (message.find("Context size has been exceeded") != std::string::npos) {
        return error(KVFOLD_ERROR_CONTEXT_EXCEEDED, "the KV cache is full: the requests that run together need more than \"ctx-size\" tokens")
            .about_option("ctx-size");
    }
    if (type == "invalid_request_error" || type == "not_found_error") {
        return error(KVFOLD_ERROR_INVALID_ARGUMENT, message);
    }
    if (type == "not_supported_error") {
        return error(KVFOLD_ERROR_UNSUPPORTED, message);
    }
    return error(KVFOLD_ERROR_INTERNAL, message);
}

std::string request::in_plain_words(const std::string & data) {
    json object = json::parse_no_throw(data);
    if (object.is_discarded() || !object.is_object() || !object.contains("error") || !object.at("error").is_object() ||
        !object.at("error").contains("message") || !object.at("error").at("message").is_string()) {
        return data;
    }
    object["error"]["message"] = plain_words(object.at("error").at("message").get<std::string>());
    return object.dump_safe();
}

// An answer that does not stream: one JSON value, or the text of /metrics.
void request::read_answer() {
    const bool is_json = answer->content_type.find("json") != std::string::npos;
    if (answer->status == 200) {
        chunks.push_back(is_json ? std::move(answer->data) : json(answer->data).dump_safe());
        return;
    }
    throw answer_error();
}

error request::answer_error() const {
    const json object = json::parse_no_throw(answer->data);
    if (!object.is_discarded() && object.is_object() && object.contains("error")) {
        return to_error(object.at("error"));
    }
    return error(KVFOLD_ERROR_INTERNAL, "status " + std::to_string(answer->status) + ": " + answer->data);
}

// Server-sent events: lines "data: JSON", the last one "data: [DONE]".
void request::read_events(const std::string & text) {
    static const std::string prefix = "data: ";
    size_t                   start  = 0;
    while (start < text.size()) {
        const size_t end  = std::min(text.find('\n', start), text.size());
        std::string  line = text.substr(start, end - start);
        start             = end + 1;
        if (line.rfind(prefix, 0) != 0) {
            continue;
        }
        line.erase(0, prefix.size());
        if (line == "[DONE]") {
            continue;
        }
        if (line.rfind("{\"error\":", 0) == 0) {
            throw to_error(json::parse(line).at("error"));
        }
        chunks.push_back(std::move(line));
    }
}

void request::finish() {
    finished = true;
    try {
        request_host::use inside(*owner);
        std::unique_lock<std::mutex> lock(mutex);
        if (answered) {
            lock.unlock();
            release(); // frees the place in the queue; otherwise the destructor does, which waits for the handler
        }
    } catch (const error &) {
        // the closing engine releases the request
    }
}

void request::release() {
    if (retired) {
        return;
    }
    retired = true;
    answer.reset();
    {
        std::lock_guard<std::mutex> lock(mutex);
        owner->exchanges.remove(all_task_ids);
    }
    owner->retire(this, needs_slot);
}

} // namespace kvfold

void kvfold_tasks_waiting(const std::unordered_set<int> & ids, std::vector<server_task> * tasks) {
    if (kvfold::current) {
        kvfold::current->on_tasks_waiting(ids, tasks);
    }
}

void kvfold_task_ended(const server_task_result & result) {
    if (kvfold::current) {
        kvfold::current->on_task_ended(result);
    }
}

void kvfold_check_text(size_t bytes) {
    if (kvfold::current) {
        kvfold::current->on_text(bytes);
    }
}

void kvfold_tokenizer_step() {
    if (kvfold::current) {
        kvfold::current->on_tokenizer_step();
    }
}
