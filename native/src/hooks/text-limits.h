// What bounds the parts of llama.cpp that read text from outside: templates, grammars, patterns. Implemented in text.
#ifndef KVFOLD_TEXT_LIMITS_H
#define KVFOLD_TEXT_LIMITS_H

#include <cstddef>
#include <string>
#include <vector>

struct llama_grammar;

// Lives while one node of a chat template runs. Throws when the template has run too long, holds too much or calls itself too
// deeply.
struct kvfold_template_step {
    kvfold_template_step();
    ~kvfold_template_step();
    kvfold_template_step(const kvfold_template_step &)             = delete;
    kvfold_template_step & operator=(const kvfold_template_step &) = delete;
};

// A function of templates is about to move that many bytes, once for each place that it has found. Throws when that takes too long.
void kvfold_template_moves(size_t n_bytes);

// Lives while a grammar looks at candidates or takes a token. Throws when it has too many ways to go on; an abort inside it is an
// exception, too, as when no token is left that the grammar allows.
struct kvfold_grammar_scope {
    explicit kvfold_grammar_scope(const llama_grammar & grammar);
    ~kvfold_grammar_scope();
    kvfold_grammar_scope(const kvfold_grammar_scope &)             = delete;
    kvfold_grammar_scope & operator=(const kvfold_grammar_scope &) = delete;

  private:
    bool outer_guard;
};

// A stack is copied, and compared with those that there are; candidates are looked at. Throws when there is too much of it in the
// innermost scope.
void kvfold_grammar_copies(size_t n_elements, size_t n_stacks);
void kvfold_grammar_looks_at(size_t n_candidates);

// Makes the stacks of a copy point into its own rules.
void kvfold_grammar_redirect(const llama_grammar & from, llama_grammar & to);

// Where the trigger of a lazy grammar begins in the text, std::string::npos if it does not.
size_t kvfold_find_trigger(const std::string & pattern, const std::string & text);

// What unicode_regex_split_stl() is to return; false if it is to find out for itself.
bool kvfold_regex_split(const std::string & text, const std::string & regex, const std::vector<size_t> & offsets, std::vector<size_t> & split);
bool kvfold_regex_split(const std::wstring & text, const std::wstring & regex, const std::vector<size_t> & offsets, std::vector<size_t> & split);

#endif
