// Whether a grammar lets a text through, without a model.
#pragma once

#include "llama-grammar.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <string>

using grammar_ptr = std::unique_ptr<llama_grammar, decltype(&llama_grammar_free_impl)>;

// Null for what is no grammar.
inline grammar_ptr parse_grammar(const std::string & text) {
    return grammar_ptr(llama_grammar_init_impl(nullptr, text.c_str(), "root", false, nullptr, 0, nullptr, 0), llama_grammar_free_impl);
}

inline bool lets_through(const llama_grammar & fresh, const std::string & text) {
    const grammar_ptr grammar(llama_grammar_clone_impl(fresh), llama_grammar_free_impl);
    try {
        llama_grammar_accept_str(*grammar, text);
    } catch (const std::exception &) {
        return false; // no way to go on
    }
    return std::any_of(grammar->stacks.begin(), grammar->stacks.end(), [](const auto & stack) { return stack.empty(); });
}
