// The official JSON-Schema-Test-Suite against the grammars: what a schema calls invalid, its grammar does not let through. Of what a schema
// calls valid a grammar may keep some out; how much is printed.
//
//   schema_suite_test [FOLDER [PART...]]     # with PARTs, such as enum or optional/format/date, only these and in full
//
// FOLDER is where native/test/schema-suite.sh puts the suite; without one that it has by default. What is missing is said, and skipped.

#include "grammar_check.h"

#include "process/deep_thread.h"
#include "process/error.h"
#include "text/schema.h"

#include "json-schema-to-grammar.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

using namespace kvfold;

namespace fs = std::filesystem;

static bool verbose = false;

// Grammars have an order of properties: the value in all of its orders, up to a number of texts.
static std::vector<std::string> texts_of(const json & value) {
    static constexpr size_t limit = 2000;
    if (!value.is_array() && !value.is_object()) {
        return { value.dump() };
    }
    std::vector<std::string> all;
    std::vector<std::string> names;
    for (const auto & [name, _] : value.items()) {
        names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    do {
        std::vector<std::string> texts = { "" };
        for (size_t i = 0; i < value.size(); i++) {
            const std::string        name = value.is_object() ? json(names[i]).dump() + ":" : "";
            std::vector<std::string> longer;
            for (const auto & inner : texts_of(value.is_object() ? value.at(names[i]) : value.at(i))) {
                for (const auto & text : texts) {
                    longer.push_back(text + (i > 0 ? "," : "") + name + inner);
                }
            }
            texts = longer;
        }
        for (const auto & text : texts) {
            all.push_back(value.is_object() ? "{" + text + "}" : "[" + text + "]");
        }
    } while (value.is_object() && std::next_permutation(names.begin(), names.end()) && all.size() < limit);
    return all;
}

struct counts {
    int schemas = 0, refused = 0, contradictory = 0;
    int valid = 0, valid_through = 0, valid_of_all = 0;
    int invalid = 0, invalid_through = 0;
};

static void try_schema(const std::string & part, const json & group, counts & n) {
    const std::string title = part + ", " + group.at("description").get<std::string>();
    const auto        valid = [](const json & test) { return test.at("valid").get<bool>(); };
    const size_t      n_valid = (size_t) std::count_if(group.at("tests").begin(), group.at("tests").end(), valid);
    n.schemas++;
    n.valid_of_all += (int) n_valid;
    std::string text;
    try {
        text = json_schema_to_grammar(exact_schema(group.at("schema"), "#", true), true);
    } catch (const error & e) {
        n.refused++;
        const bool none = e.message.find("no answer can be valid") == 0;
        n.contradictory += none;
        if (verbose || (none && n_valid > 0)) {
            printf("%s: refused, %s\n", title.c_str(), e.message.c_str());
        }
        return;
    }
    const grammar_ptr grammar = parse_grammar(text);
    if (!grammar) {
        printf("%s: no grammar\n%s\n", title.c_str(), text.c_str());
        n.invalid_through++;
        return;
    }
    for (const auto & test : group.at("tests")) {
        const auto texts   = texts_of(test.at("data"));
        const auto through = std::find_if(texts.begin(), texts.end(), [&](const auto & each) { return lets_through(*grammar, each); });
        const bool passes  = through != texts.end();
        (valid(test) ? n.valid : n.invalid)++;
        (valid(test) ? n.valid_through : n.invalid_through) += passes;
        if (passes != valid(test) && (verbose || passes)) {
            printf("%s: %s is %svalid and %s\n  %s\n", title.c_str(), test.at("data").dump().c_str(), valid(test) ? "" : "not ", passes ? "let through" : "kept out",
                   group.at("schema").dump().c_str());
        }
    }
}

static fs::path default_folder() {
    const char * home = getenv("HOME");
    return fs::path(home ? home : "") / ".cache" / "kvfold" / "json-schema-suite";
}

int main(int argc, char ** argv) {
    const fs::path folder = argc > 1 ? argv[1] : default_folder();
    if (!fs::is_directory(folder)) {
        fprintf(stderr, "skipped: %s is missing, which native/test/schema-suite.sh fetches\n", folder.c_str());
        return 77;
    }
    init_library();
    std::set<std::string> parts(argv + std::min(argc, 2), argv + argc);
    verbose = !parts.empty();
    if (parts.empty()) {
        for (const auto & file : fs::recursive_directory_iterator(folder)) {
            if (file.path().extension() == ".json") {
                parts.insert(file.path().lexically_relative(folder).replace_extension().generic_string());
            }
        }
    }
    counts      all;
    deep_thread thread;
    thread.start([&] {
        const abort_guard guard;
        for (const auto & part : parts) {
            std::ifstream     file(folder / (part + ".json"));
            const std::string text{ std::istreambuf_iterator<char>(file), {} };
            for (const auto & group : json::parse(text)) {
                try_schema(part, group, all);
            }
        }
    });
    thread.join();
    printf("%d schemas: %d grammars, %d refused as no grammar holds them, %d as no value is valid\n", all.schemas, all.schemas - all.refused, all.refused - all.contradictory,
           all.contradictory);
    printf("valid values: %d of the %d of these grammars let through, there are %d in all\n", all.valid_through, all.valid, all.valid_of_all);
    printf("invalid values: %d of %d let through\n", all.invalid_through, all.invalid);
    return all.schemas == 0 || all.invalid_through > 0;
}
