// The events of /v1/responses, whose places llama.cpp leaves out: OpenAI's client finds an item and a part of it by them alone.
#pragma once

#include "process/error.h"

#include <string>
#include <vector>

namespace kvfold {

// Of one answer.
class response_events {
  public:
    // Adds "sequence_number", "output_index" and "content_index" to events as they are sent.
    std::string with_places(const std::string & events);

  private:
    void place(json & event);

    int                      sent = 0;
    std::vector<std::string> items; // by id, in the order in which they came
};

} // namespace kvfold
