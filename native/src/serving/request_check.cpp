#include "serving/request_check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace kvfold {

static std::string plain(double number) {
    return number == std::floor(number) ? std::to_string((long long) number) : std::to_string(number);
}

static void check_number(const json & body, const char * name, double least, double most) {
    if (!body.contains(name) || !body.at(name).is_number()) {
        return; // llama-server says what is wrong with another type
    }
    const double number = body.at(name).get<double>();
    if (!(number >= least && number <= most)) {
        const std::string range = std::isinf(most) ? "at least " + plain(least) : "in [" + plain(least) + ", " + plain(most) + "]";
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"" + std::string(name) + "\" is " + body.at(name).dump() + " but must be " + range);
    }
}

// At least 1; -1 for as many as there is room for. 0 is taken of "n_predict" alone, where it means the prompt's tokens only.
static void check_tokens(const json & body, const char * name) {
    if (body.contains(name) && body.at(name).is_number_integer() && body.at(name).get<int64_t>() != -1) {
        check_number(body, name, 1, std::numeric_limits<double>::infinity());
    }
}

// The template engine and the grammars of tools take time by the square of these, which nobody can interrupt.
static void check_count(const json & body, const char * name, int64_t most) {
    if (body.contains(name) && (body.at(name).is_array() || body.at(name).is_object()) && (int64_t) body.at(name).size() > most) {
        const int64_t count = (int64_t) body.at(name).size();
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"" + std::string(name) + "\" has " + std::to_string(count) + " elements, the limit is " +
                                                       std::to_string(most))
            .compares(count, most);
    }
}

static void check_roles(const json & messages) {
    static const std::set<std::string> roles = { "system",   "developer", "user",      "assistant", "tool",
                                                 "function", "ipython",   "documents", "control" };
    if (!messages.is_array()) {
        return;
    }
    for (size_t i = 0; i < messages.size(); i++) {
        const json & message = messages.at(i);
        if (message.is_object() && message.contains("role") && message.at("role").is_string() &&
            !roles.count(message.at("role").get<std::string>())) {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the role of message " + std::to_string(i) + " is " + message.at("role").dump_safe() +
                                                           " but must be \"system\", \"user\", \"assistant\" or \"tool\"");
        }
    }
}

static void check_adapters(const json & list, int adapters) {
    if (!list.is_array()) {
        return;
    }
    for (size_t i = 0; i < list.size(); i++) {
        if (list.at(i).is_object() && list.at(i).contains("id") && list.at(i).at("id").is_number_integer()) {
            const int64_t id = list.at(i).at("id").get<int64_t>();
            if (id < 0 || id >= adapters) {
                throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "there is no adapter " + std::to_string(id) + ", the engine has " + std::to_string(adapters))
                    .compares(id, adapters);
            }
        }
    }
}

void check_request(const json & body, int slots, int adapters) {
    const double any = std::numeric_limits<double>::infinity();
    check_number(body, "temperature", 0, any);
    check_number(body, "top_p", 0, 1);
    check_number(body, "min_p", 0, 1);
    check_number(body, "n", 1, any);
    if (body.contains("n") && body.at("n").is_number_integer() && body.at("n").get<int64_t>() > slots) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"n\" is " + body.at("n").dump() + ", but answers side by side take a slot each and there are " +
                                                       std::to_string(slots) + " (\"parallel\")")
            .compares(body.at("n").get<int64_t>(), slots)
            .about_option("parallel");
    }
    check_number(body, "id_slot", -1, slots - 1);
    check_tokens(body, "max_tokens");
    check_tokens(body, "max_completion_tokens");
    check_tokens(body, "max_output_tokens");
    check_count(body, "messages", 4096);
    check_count(body, "tools", 256);
    check_count(body, "chat_template_kwargs", 256);
    check_count(body, "stop", 256);
    if (body.contains("cache_salt") && !body.at("cache_salt").is_string()) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"cache_salt\" is " + body.at("cache_salt").dump_safe() + " but must be a string");
    }
    for (const char * name : { "messages", "input" }) {
        if (body.contains(name)) {
            check_roles(body.at(name));
        }
    }
    if (body.contains("lora")) {
        check_adapters(body.at("lora"), adapters);
    }
}

} // namespace kvfold
