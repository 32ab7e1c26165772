#include "serving/response_events.h"

#include <algorithm>

namespace kvfold {

static std::string text_at(const json & object, const char * key) {
    return object.contains(key) && object.at(key).is_string() ? object.at(key).get<std::string>() : "";
}

void response_events::place(json & event) {
    event["sequence_number"] = sent++;
    const bool        whole  = event.contains("item") && event.at("item").is_object();
    const std::string id     = whole ? text_at(event.at("item"), "id") : text_at(event, "item_id");
    if (id.empty()) {
        return;
    }
    const auto found = std::find(items.begin(), items.end(), id);
    const auto index = found - items.begin();
    if (found == items.end()) {
        items.push_back(id);
    }
    event["output_index"] = (int) index;
    const std::string type = text_at(event, "type");
    if (!whole && type.find("function_call") == std::string::npos) {
        event["content_index"] = 0; // an item has one part
    }
}

std::string response_events::with_places(const std::string & events) {
    static const std::string prefix = "data: {";
    std::string              all;
    for (size_t start = 0; start < events.size();) {
        const size_t end  = std::min(events.find('\n', start), events.size() - 1) + 1;
        std::string  line = events.substr(start, end - start);
        if (line.compare(0, prefix.size(), prefix) == 0) {
            json event = json::parse_no_throw(line.substr(prefix.size() - 1));
            if (event.is_object() && event.contains("type")) {
                place(event);
                line = "data: " + event.dump_safe() + "\n";
            }
        }
        all += line;
        start = end;
    }
    return all;
}

} // namespace kvfold
