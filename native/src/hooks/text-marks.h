// Marks that keep what a text says from becoming what a template means: a mark within "<|im_end|>" makes it the letters that
// it consists of. serving/plain_text.cpp sets them.
#ifndef KVFOLD_TEXT_MARKS_H
#define KVFOLD_TEXT_MARKS_H

#include <cstddef>
#include <deque>
#include <string>

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

// Called before a text becomes tokens, which nothing interrupts: throws where it is longer than the request of this thread can use.
void kvfold_check_text(size_t bytes);

// Called when special tokens were found: takes the marks out of the fragments of `text` that are text. Their new texts live
// until the next call on this thread.
template <typename Fragments> void kvfold_remove_marks(Fragments & fragments, const std::string & text) {
    static thread_local std::deque<std::string> texts;
    kvfold_check_text(text.size());
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
