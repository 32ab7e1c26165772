#include "abi/schema.h"

#include "process/deep_thread.h"
#include "process/json_text.h"
#include "text/grammar.h"
#include "text/schema.h"

#include "json-schema-to-grammar.h"

#include <optional>

namespace kvfold {

json schema_to_grammar(const std::string & text) {
    const json           schema = parse_body(text, "the schema");
    std::string          grammar;
    std::optional<error> failure;
    deep_thread          converter;
    converter.start([&] {
        const c_locale_scope c_locale;
        const abort_guard    guard;
        try {
            grammar = json_schema_to_grammar(exact_schema(schema, "#", true), true);
            check_grammar(grammar, nullptr);
        } catch (const error & e) {
            failure = e;
        } catch (const std::bad_alloc &) {
            failure = current_error();
        } catch (const std::exception & e) {
            failure = error(KVFOLD_ERROR_INVALID_ARGUMENT, std::string("the schema cannot become a grammar: ") + e.what());
        }
    });
    converter.join();
    if (failure) {
        throw *failure;
    }
    return json({ { "grammar", grammar } });
}

} // namespace kvfold
