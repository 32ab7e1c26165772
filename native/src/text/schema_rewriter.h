// Rewrites one schema; see text/schema.h.
#pragma once

#include "process/error.h"

#include <limits>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

namespace kvfold {

// No instance is valid.
struct unsatisfiable : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::set<std::string> strings_of(const json & array);
json                  array_of(const std::set<std::string> & strings);

// Keywords that say nothing about which instances are valid.
bool is_annotation(const std::string & key);

// The type whose values a keyword speaks of, "number" also for integers and "" for all of them; nothing if it is not known.
std::optional<std::string> type_of_keyword(const std::string & key);

struct rewriter {
    const json &      root;
    const std::string where;
    const bool        strict;
    const std::string prefix; // of names of definitions
    json              definitions = json::object();

    std::map<std::string, std::string> names      = {}; // of references
    std::set<std::string>              impossible = {}; // references to what nothing can be
    std::set<std::string>              dropped    = {};
    std::set<std::string>              followed   = {}; // references on the way to this place that nothing has been written for yet
    size_t                             nodes = 0, depth = 0, copied = 0;

    // One part of the schema inside another; throws when there are too many.
    struct level {
        rewriter & owner;

        level(rewriter & owner, const std::string & path);
        ~level() { owner.depth--; }
    };
    // What an instance holds: a reference may lead back to where it stands.
    struct part {
        rewriter &                  owner;
        const std::set<std::string> outer;

        explicit part(rewriter & owner) : owner(owner), outer(std::exchange(owner.followed, {})) {}
        ~part() { owner.followed = outer; }
    };
    json inner(const json & schema, const std::string & path) {
        const part one(*this);
        return node(schema, path);
    }
    static bool has_values(const json & schema) { return schema.contains("const") || schema.contains("enum"); }
    static json values_of(const json & schema) { return schema.contains("const") ? json::array({ schema.at("const") }) : schema.at("enum"); }

    // references, and both of two schemas: schema_document.cpp
    [[noreturn]] void fail(const std::string & path, const std::string & why) const;
    // A grammar cannot hold it.
    void unsupported(const std::string & path, const std::string & keyword, const std::string & why = "no grammar can hold it");
    const json & resolve(const std::string & ref, const std::string & path);
    // Counts what is about to be copied; throws when it is too much.
    void count(const json & schema, const std::string & path);
    void count_parts(size_t n, const std::string & path);
    // A reference that is being followed; throws where it leads back to itself before anything is written.
    struct way {
        rewriter &        owner;
        const std::string ref;

        way(rewriter & owner, const std::string & ref, const std::string & path);
        ~way() { owner.followed.erase(ref); }
    };
    // ~0 and ~1 of JSON pointers in what %XX of URIs stands for.
    static std::string unescaped(const std::string & part);
    std::string text_of_ref(const json & schema, const std::string & path) const;
    // Definitions get names of their own: the converter makes rules of theirs, and drops what is not ASCII.
    json reference(const std::string & ref, const std::string & path);
    // Without "$ref" and "allOf" of its own, in words of draft 2020-12.
    json flat(const json & schema, const std::string & path);
    // What others are joined with: its "unevaluated..." do not see them.
    json flat_part(const json & schema, const std::string & path);
    json modern(json schema, const std::string & path) const;
    // Without "unevaluated...".
    json closed(json all, const std::string & path);
    static json all_of(const json & a, const json & b);
    json both(json a, const json & b, const std::string & path);
    void join_properties(json & a, const json & b, const std::string & path);
    void join_items(json & a, const json & b, const std::string & path);
    json first_items(const json & schema, const std::string & path) const;
    double number(const json & schema, const std::string & key, const std::string & path) const;
    std::set<std::string> types_of(const json & schema, const std::string & path) const;
    static std::set<std::string> common_types(const std::set<std::string> & a, const std::set<std::string> & b);

    // one schema: schema_choices.cpp
    json node(const json & schema, const std::string & path);
    json unnamed(const json & schema, const std::string & path);
    json alternatives(json all, const char * key, const std::string & path);
    // Whether nothing that is written for one is valid by the other, as far as that is easily seen.
    bool exclude(const json & a, const json & b, const std::string & path);
    bool exclude_objects(const json & a, const json & b, const std::string & path);
    bool exclude_parts(const json & a, const json & b, const std::string & path);
    std::set<std::string> accepted(const json & schema, const std::string & path) const;
    std::set<std::string> written(const json & schema, const std::string & path) const;
    json constants(const json & all, const std::string & path);
    // What the other keywords say about a value of an enumeration.
    bool allows(const json & all, const json & value, const std::string & path);
    static bool within(double value, const std::string & key, double limit);
    json by_type(const json & all, const std::string & path);
    // A schema without "type" allows all others besides; the one that its keywords speak of is meant.
    static std::set<std::string> implied(const json & all);
    json of_type(const std::string & type, const json & all, const std::string & path);

    // of one type: schema_types.cpp
    // A count, cut to what a grammar can repeat.
    std::pair<int64_t, int64_t> counts(const json & all, const char * least_key, const char * most_key, const std::string & path) const;
    json object(const json & all, const std::string & path);
    // Names that "propertyNames" lists, or the pattern that they or those of "patternProperties" follow.
    std::optional<std::set<std::string>> listed_names(const json & all, const std::string & path);
    std::optional<std::string> pattern_of_names(const json & all, const std::string & path);
    // All arrays without the same item twice, of few items.
    std::optional<json> distinct_items(const json & items, int64_t least, int64_t most) const;
    json array(const json & all, const std::string & path);
    json string(const json & all, const std::string & path);
    // Formats of numbers and of how a string is meant.
    static bool is_plain_format(const std::string & format);
    static std::optional<std::string> pattern_of_format(const std::string & format);
    // The least or greatest integer that a bound admits; nothing if it admits all that there are.
    std::optional<int64_t> bound(const json & all, const std::string & key, bool lower, bool exclusive, const std::string & path) const;
    json numeric(const std::string & type, const json & all, const std::string & path);
    json decimal(const json & all, double step, const std::string & path);
};

// The same schema with every "$ref" by "$id" or "$anchor" as one by its place in this document (#/...), and without the former.
json with_places(const json & schema);

} // namespace kvfold
