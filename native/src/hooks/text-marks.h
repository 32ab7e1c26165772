// Marks that keep what a text says from becoming what a template means: a mark within "<|im_end|>" makes it the letters that
// it consists of. serving/plain_text.cpp sets them. And what making tokens of a text may cost.
#ifndef KVFOLD_TEXT_MARKS_H
#define KVFOLD_TEXT_MARKS_H

#include "llama.h"

#include <cctype>
#include <cstddef>
#include <deque>
#include <string>
#include <string_view>

// Two of Unicode's noncharacters, U+FDD0 and U+FDEF, which are there for use inside programs.
static const char kvfold_text_mark[] = "\xef\xb7\x90\xef\xb7\xaf";

// Takes the marks out of `text`. True if there were any.
inline bool kvfold_remove_marks(std::string & text) {
    const size_t size = sizeof(kvfold_text_mark) - 1;
    size_t       at   = text.find(kvfold_text_mark);
    if (at == std::string::npos) {
        return false;
    }
    std::string rest;
    size_t      from = 0;
    for (; at != std::string::npos; at = text.find(kvfold_text_mark, from)) {
        rest.append(text, from, at - from);
        from = at + size;
    }
    rest.append(text, from, std::string::npos);
    text.swap(rest);
    return true;
}

// Called before a text becomes tokens: throws where it is longer than the request of this thread can use.
void kvfold_check_text(size_t bytes);

// Called at every step of that, from loops that grow with the text: throws when the request of this thread has been ended.
void kvfold_tokenizer_step();

// What tokenizer_st_partition() does, in time that grows with the number of special tokens and not with its square, and of a token
// without a text nothing.
template <typename Fragments, typename Vocab, typename Ids>
void kvfold_find_special(Fragments & fragments, const Vocab & vocab, const Ids & special, bool parse_special) {
    if (!fragments.empty()) {
        kvfold_check_text(fragments.front().raw_text.size());
    }
    const auto is_blank = [](char c) { return std::isspace((unsigned char) c) != 0; };
    for (const llama_token id : special) {
        const auto & data = vocab.get_token_data(id);
        if (data.text.empty() || (!parse_special && (data.attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)))) {
            continue;
        }
        auto before = fragments.before_begin();
        for (auto it = fragments.begin(); it != fragments.end(); it = std::next(before)) {
            kvfold_tokenizer_step();
            const std::string & text = it->raw_text;
            size_t              from = it->offset;
            const size_t        end  = from + it->length; // a token has no length
            const auto          next = [&] { return from < end ? std::string_view(text.data(), end).find(data.text, from) : std::string::npos; };
            size_t              match = next();
            if (match == std::string::npos) {
                before = it;
                continue;
            }
            fragments.erase_after(before);
            for (; match != std::string::npos; match = next()) {
                kvfold_tokenizer_step();
                size_t left = match;
                while ((data.attr & LLAMA_TOKEN_ATTR_LSTRIP) && left > from && is_blank(text[left - 1])) {
                    left--;
                }
                if (left > from) {
                    before = fragments.emplace_after(before, text, (int64_t) from, (int64_t) (left - from));
                }
                before = fragments.emplace_after(before, id);
                from   = match + data.text.size();
                while ((data.attr & LLAMA_TOKEN_ATTR_RSTRIP) && from < end && is_blank(text[from])) {
                    from++;
                }
            }
            if (from < end) {
                before = fragments.emplace_after(before, text, (int64_t) from, (int64_t) (end - from));
            }
        }
    }
}

// Called when special tokens were found: takes the marks out of the fragments of `text` that are text. Their new texts live
// until the next call on this thread. `tokens` then has room for all of them, which a tokenizer would else ask for token by token.
template <typename Fragments, typename Tokens> void kvfold_remove_marks(Fragments & fragments, const std::string & text, Tokens & tokens) {
    static thread_local std::deque<std::string> texts;
    tokens.reserve(text.size() + 8);
    if (text.find(kvfold_text_mark) == std::string::npos) {
        return;
    }
    texts.clear();
    auto before = fragments.before_begin();
    for (auto it = fragments.begin(); it != fragments.end(); it = std::next(before)) {
        std::string own = it->length > 0 ? it->raw_text.substr(it->offset, it->length) : ""; // a token has no length
        if (kvfold_remove_marks(own)) {
            it = fragments.erase_after(before);
            if (own.empty()) {
                continue;
            }
            texts.push_back(std::move(own));
            it = fragments.emplace_after(before, texts.back(), 0, (int64_t) texts.back().size());
        }
        before = it;
    }
}

#endif
