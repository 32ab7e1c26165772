#include "serving/plain_text.h"

#include "hooks/text-marks.h"

#include <algorithm>
#include <set>

namespace kvfold {

static bool ends_with(const std::string & text, const std::string & end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Bytes of the character that begins with `first`.
static size_t character_bytes(unsigned char first) {
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

// llama.cpp makes what separates the messages of gpt-oss and others user-defined, so that it is written: "<|start|>".
static bool is_special(const std::string & text, llama_token_attr attributes) {
    const bool bracketed = text.compare(0, 2, "<|") == 0 || text.compare(0, 4, "<\xEF\xBD\x9C") == 0;
    return (attributes & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)) || (bracketed && (attributes & LLAMA_TOKEN_ATTR_USER_DEFINED));
}

plain_text::plain_text(const llama_vocab * vocab) {
    std::set<std::string> found;
    if (llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE) {
        for (llama_token id = 0; id < llama_vocab_n_tokens(vocab); id++) {
            const std::string text = llama_vocab_get_text(vocab, id);
            if (is_special(text, llama_vocab_get_attr(vocab, id))) {
                found.insert(text);
            }
        }
    }
    for (const auto & name : found) {
        if (!name.empty() && name.size() > character_bytes((unsigned char) name.front())) {
            names.push_back(name);
            begins[(unsigned char) name.front()] = true;
            longest = std::max(longest, name.size());
        }
    }
}

// Whether one of `names`, which are sorted, begins at `at`. One look at a character for each level, however many names there are.
static bool names_begin(const std::vector<std::string> & names, const std::string & text, size_t at) {
    auto first = names.begin(), last = names.end();
    for (size_t depth = 0; at + depth < text.size() && first != last; depth++) {
        const unsigned char c = (unsigned char) text[at + depth];
        first = std::lower_bound(first, last, c, [&](const std::string & name, unsigned char wanted) { return (unsigned char) name[depth] < wanted; });
        last  = std::upper_bound(first, last, c, [&](unsigned char wanted, const std::string & name) { return wanted < (unsigned char) name[depth]; });
        if (first != last && first->size() == depth + 1) {
            return true; // the shortest comes first
        }
    }
    return false;
}

bool plain_text::name_begins_at_end(const std::string & text) const {
    for (size_t at = text.size() - std::min(text.size(), longest); at < text.size(); at++) {
        const std::string end  = text.substr(at);
        const auto        name = std::lower_bound(names.begin(), names.end(), end);
        if (begins[(unsigned char) text[at]] && name != names.end() && name->size() > end.size() && name->compare(0, end.size(), end) == 0) {
            return true;
        }
    }
    return false;
}

bool plain_text::mark_text(json & value) const {
    std::string text    = value.get<std::string>();
    bool        changed = kvfold_remove_marks(text); // the caller's
    std::string marked;
    size_t      from = 0; // of what is not in `marked` yet
    for (size_t at = 0; at < text.size(); at++) {
        if (begins[(unsigned char) text[at]] && names_begin(names, text, at)) {
            const size_t after = at + character_bytes((unsigned char) text[at]);
            marked.append(text, from, after - from) += kvfold_text_mark;
            from    = after;
            at      = after - 1;
            changed = true;
        }
    }
    if (name_begins_at_end(text)) { // what follows may go on with it
        marked.append(text, from, std::string::npos) += kvfold_text_mark;
        value = marked;
        return true;
    }
    if (changed) {
        value = marked.append(text, from, std::string::npos);
    }
    return changed;
}

// Every string in `value`, but for what is no text: names, types and addresses.
bool plain_text::mark_all(json & value) const {
    static const std::set<std::string> no_text = { "role", "type", "id", "name", "tool_call_id", "call_id", "tool_use_id", "url", "data", "media_type" };
    bool changed = false;
    if (value.is_string()) {
        changed = mark_text(value);
    } else if (value.is_array()) {
        for (size_t i = 0; i < value.size(); i++) {
            changed = mark_all(value.at(i)) || changed;
        }
    } else if (value.is_object()) {
        for (const auto & [key, inner] : value.items()) {
            changed = (!no_text.count(key) && mark_all(inner)) || changed;
        }
    }
    return changed;
}

// Those of tools may come from elsewhere, too.
bool plain_text::mark_descriptions(json & value) const {
    bool changed = false;
    if (value.is_array()) {
        for (size_t i = 0; i < value.size(); i++) {
            changed = mark_descriptions(value.at(i)) || changed;
        }
    } else if (value.is_object()) {
        for (const auto & [key, inner] : value.items()) {
            changed = (key == "description" && inner.is_string() ? mark_text(inner) : mark_descriptions(inner)) || changed;
        }
    }
    return changed;
}

bool plain_text::mark_messages(json & messages) const {
    if (!messages.is_array()) {
        return mark_all(messages);
    }
    bool changed = false;
    for (size_t i = 0; i < messages.size(); i++) {
        json &     message = messages.at(i);
        const bool begun   = i + 1 == messages.size() && message.is_object() && message.contains("role") && message.at("role") == "assistant";
        changed            = (!begun && mark_all(message)) || changed;
    }
    return changed;
}

bool plain_text::mark(const std::string & route, json & body) const {
    const bool completes = ends_with(route, "/completion") || ends_with(route, "/infill") ||
                           (ends_with(route, "/completions") && !ends_with(route, "/chat/completions"));
    const bool shows     = ends_with(route, "/apply-template") || ends_with(route, "tokenize");
    bool       changed   = false;
    for (const auto & [key, value] : body.items()) {
        if (completes) {
            const bool plain = key == "prompt" && body.contains("parse_special") && body.at("parse_special") == false;
            changed          = (plain && mark_all(value)) || changed;
        } else if (shows) {
            break;
        } else if (key == "messages" || key == "input" || key == "content") {
            changed = mark_messages(value) || changed;
        } else if (key == "system" || key == "instructions" || key == "query" || key == "documents" || key == "texts") {
            changed = mark_all(value) || changed;
        } else if (key == "tools") {
            changed = mark_descriptions(value) || changed;
        }
    }
    return changed;
}

} // namespace kvfold
