// Texts of requests, in which the name of a special token is nothing but a name.
#pragma once

#include "process/error.h"

#include "llama.h"

#include <array>
#include <string>
#include <vector>

namespace kvfold {

class plain_text {
  public:
    explicit plain_text(const llama_vocab * vocab);

    // Marks the texts of a request on `route` where they hold the name of a control token (hooks/text-marks.h), or end in its beginning, with
    // which the next part of a message could go on: messages, what tools say of themselves, arguments of the template, texts to embed,
    // queries and documents, and a prompt whose "parse_special" is false. True if there were any. The beginning of an answer, which the
    // last message may be, is the caller's to write and stays. Throws where such a name stands in that of a tool or of one of its
    // parameters, in a value that one may have, or in an id.
    bool mark(const std::string & route, json & body) const;

  private:
    bool mark_text(json & text) const;
    bool name_begins_at_end(const std::string & text) const;
    bool mark_all(json & value) const;
    bool mark_arguments(json & value) const;
    bool mark_tools(json & value) const;
    void require_no_name(const std::string & text, const std::string & what) const;
    bool mark_messages(json & messages) const;

    std::vector<std::string> names; // of control tokens, with two characters at least; sorted by their bytes
    std::array<bool, 256>    begins = {}; // by the first byte of a name
    size_t                   longest = 0; // bytes of a name
};

} // namespace kvfold
