// Texts made at random for everything that reads them: none ends the process, none takes more than five seconds.
//
//   text_fuzz [grammars|schemas|templates|patterns] [SECONDS [SEED]]
//
// fuzz.sh runs it among others. Without arguments, as in ctest, a few hundred of each kind, always the same. Prints the seed of the case that it is at when it fails.

#include "random_texts.h"

#include "hooks/text-limits.h"
#include "process/deep_thread.h"
#include "process/error.h"
#include "process/json_text.h"
#include "text/grammar.h"
#include "text/limits.h"
#include "text/pattern.h"
#include "text/schema.h"

#include "chat.h"
#include "json-schema-to-grammar.h"
#include "llama-grammar.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <memory>
#include <string>

#include <unistd.h>

using namespace kvfold;

// ---- grammars -----------------------------------------------------------------------------------------------------------

static void fuzz_grammar() {
    const std::string text = spoiled(random_grammar());
    check_grammar(text, nullptr);

    const auto                                                               free = &llama_grammar_free_impl;
    const std::unique_ptr<llama_grammar, decltype(&llama_grammar_free_impl)> grammar(
        llama_grammar_init_impl(nullptr, text.c_str(), "root", false, nullptr, 0, nullptr, 0), free);
    if (!grammar) {
        fprintf(stderr, "passed and refused:\n%s\n", text.c_str());
        abort();
    }
    for (int i = 0; i < 100 && !grammar->stacks.empty(); i++) {
        const kvfold_grammar_scope scope(*grammar);
        llama_grammar_accept(grammar.get(), "aaabc\n"[roll(6)]);
        const std::unique_ptr<llama_grammar, decltype(&llama_grammar_free_impl)> copy(llama_grammar_clone_impl(*grammar), free);
        if (copy->stacks.size() != grammar->stacks.size()) {
            abort();
        }
    }
}

// ---- schemas ------------------------------------------------------------------------------------------------------------

static void fuzz_schema() {
    const json schema = random_document();
    parse_body(json({ { "json_schema", schema } }).dump());
    const json exact = exact_schema(schema, "#", roll(2) == 0);
    check_grammar(json_schema_to_grammar(exact, true), nullptr);
}

// ---- templates ----------------------------------------------------------------------------------------------------------

static void fuzz_template() {
    const std::string text = spoiled(random_template());
    const template_scope scope;
    check_template(text);
    const auto                   parsed = common_chat_templates_init(nullptr, text);
    common_chat_templates_inputs inputs;
    inputs.use_jinja = true;
    for (const char * role : { "system", "user", "assistant", "user" }) {
        common_chat_msg message;
        message.role    = role;
        message.content = "some words";
        inputs.messages.push_back(message);
    }
    common_chat_templates_apply(parsed.get(), inputs);
}

// ---- patterns -----------------------------------------------------------------------------------------------------------

static void fuzz_pattern() {
    const std::string pattern = spoiled(random_pattern(4));
    std::string       text    = spoiled(times("aab <tool> \n1\xE4\xB8\x80", roll(400)));
    check_triggers({ pattern  }, 1);
    kvfold_find_trigger(pattern, text);
    exact_pattern(pattern);
}

// ---- running ------------------------------------------------------------------------------------------------------------

static std::atomic<unsigned> at_seed{ 0 };

static int64_t now_ms() {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of CPU time: others may have the machine.
static double thread_seconds() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

static void run(const std::string & name, void (*fuzz)(), double seconds, unsigned seed) {
    std::map<std::string, size_t> answers;
    const int64_t                 end     = now_ms() + (int64_t) (seconds * 1000);
    double                        slowest = 0;
    size_t                        n       = 0;
    for (; seconds > 0 ? now_ms() < end : n < 300; n++, seed++) {
        at_seed = seed;
        deep_thread  thread;
        std::string  answer;
        double       took = 0;
        thread.start([&] {
            const abort_guard guard;
            dice.seed(seed);
            try {
                fuzz();
                answer = "taken";
            } catch (const error & e) {
                answer = e.message.empty() ? "no words" : "refused";
            } catch (const std::exception &) {
                answer = "refused";
            }
            took = thread_seconds();
        });
        thread.join();
        slowest = std::max(slowest, took);
        answers[answer]++;
        if (took > 5 || answer == "no words") {
            printf("%s seed %u: %s after %.1f s\n", name.c_str(), seed, answer.c_str(), took);
            exit(1);
        }
    }
    printf("%s: %zu texts, %zu taken, %zu refused, the slowest %.2f s\n", name.c_str(), n, answers["taken"], answers["refused"], slowest);
}

// Which text it was; a stack that is used up leaves none to run on.
static void tell_seed(int number) {
    char      text[64];
    const int size = snprintf(text, sizeof(text), "signal %d at seed %u\n", number, at_seed.load());
    _exit(write(STDERR_FILENO, text, (size_t) size) < 0 ? 3 : 2);
}

int main(int argc, char ** argv) {
    const std::pair<const char *, void (*)()> kinds[] = {
        { "grammars", fuzz_grammar }, { "schemas", fuzz_schema }, { "templates", fuzz_template }, { "patterns", fuzz_pattern } };
    init_library();
    for (const int number : { SIGABRT, SIGFPE }) {
        signal(number, tell_seed);
    }
    for (const auto & [name, fuzz] : kinds) {
        if (argc < 2 || std::string(argv[1]) == name) {
            run(name, fuzz, argc > 2 ? atof(argv[2]) : 0, argc > 3 ? (unsigned) atoi(argv[3]) : 1);
        }
    }
    return 0;
}
