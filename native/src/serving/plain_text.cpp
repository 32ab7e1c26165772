#include "serving/plain_text.h"

#include "hooks/text-marks.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <set>
#include <utility>

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

// Bytes of the shortest of `names`, which are sorted, that begins at `at`, or 0. One look at a character for each level, however many
// names there are.
static size_t name_at(const std::vector<std::string> & names, const std::string & text, size_t at) {
    auto first = names.begin(), last = names.end();
    for (size_t depth = 0; at + depth < text.size() && first != last; depth++) {
        const unsigned char c = (unsigned char) text[at + depth];
        first = std::lower_bound(first, last, c, [&](const std::string & name, unsigned char wanted) { return (unsigned char) name[depth] < wanted; });
        last  = std::upper_bound(first, last, c, [&](unsigned char wanted, const std::string & name) { return wanted < (unsigned char) name[depth]; });
        if (first != last && first->size() == depth + 1) {
            return first->size(); // the shortest comes first
        }
    }
    return 0;
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
        if (begins[(unsigned char) text[at]] && name_at(names, text, at) > 0) {
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

// What is compared, or becomes part of a grammar, would be another with a mark in it.
void plain_text::require_no_name(const std::string & text, const std::string & what) const {
    for (size_t at = 0; at < text.size(); at++) {
        const size_t size = begins[(unsigned char) text[at]] ? name_at(names, text, at) : 0;
        if (size > 0) {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, what + " holds \"" + text.substr(at, size) + "\", the name of a special token of this model");
        }
    }
}

// An address or base64, of which a mark would make something else.
static bool is_address(const std::string & text) {
    return std::all_of(text.begin(), text.end(), [](char c) { return std::isalnum((unsigned char) c) || strchr("-._~:/?#@!$&'()*+,;=%", c); });
}

// Every string in `value`, but for addresses. Names and types hold no name of a special token.
bool plain_text::mark_all(json & value) const {
    static const std::set<std::string> compared  = { "role", "type", "id", "name", "tool_call_id", "call_id", "tool_use_id" };
    static const std::set<std::string> addresses = { "url", "data", "media_type" };
    static const std::set<std::string> arguments = { "arguments", "input" }; // of a call, in which every name may stand
    bool changed = false;
    if (value.is_string()) {
        changed = mark_text(value);
    } else if (value.is_array()) {
        for (size_t i = 0; i < value.size(); i++) {
            changed = mark_all(value.at(i)) || changed;
        }
    } else if (value.is_object()) {
        for (const auto & [key, inner] : value.items()) {
            if (inner.is_string() && compared.count(key)) {
                require_no_name(inner.get<std::string>(), "\"" + key + "\"");
            } else if (!inner.is_string() || !addresses.count(key) || !is_address(inner.get<std::string>())) {
                changed = (arguments.count(key) ? mark_arguments(inner) : mark_all(inner)) || changed;
            }
        }
    }
    return changed;
}

bool plain_text::mark_arguments(json & value) const {
    if (value.is_string()) {
        return mark_text(value);
    }
    bool changed = false;
    if (value.is_array()) {
        for (size_t i = 0; i < value.size(); i++) {
            changed = mark_arguments(value.at(i)) || changed;
        }
    } else if (value.is_object()) {
        json marked = json::object();
        for (const auto & [key, inner] : value.items()) {
            json name = key;
            changed   = mark_text(name) || changed;
            changed   = mark_arguments(inner) || changed;
            marked[name.get<std::string>()] = std::move(inner);
        }
        value = std::move(marked);
    }
    return changed;
}

// Those of tools may come from elsewhere, too: what only the model reads is a text, of the rest a grammar is made.
bool plain_text::mark_tools(json & value) const {
    static const std::set<std::string> texts = { "description", "title", "default", "examples", "$comment" };
    bool changed = false;
    if (value.is_array()) {
        for (size_t i = 0; i < value.size(); i++) {
            changed = mark_tools(value.at(i)) || changed;
        }
    } else if (value.is_object()) {
        for (const auto & [key, inner] : value.items()) {
            require_no_name(key, "a key in \"tools\"");
            const bool is_text = texts.count(key) > 0 && !inner.is_object(); // else a parameter of that name
            changed            = (is_text ? mark_arguments(inner) : mark_tools(inner)) || changed;
        }
    } else if (value.is_string()) {
        require_no_name(value.get<std::string>(), "a name or a value in \"tools\"");
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
        } else if (key == "system" || key == "instructions" || key == "query" || key == "documents" || key == "texts" ||
                   key == "chat_template_kwargs") {
            changed = mark_all(value) || changed;
        } else if (key == "tools") {
            changed = mark_tools(value) || changed;
        }
    }
    return changed;
}

} // namespace kvfold
