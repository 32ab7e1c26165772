// ../shared/golden-eviction, which is not part of the project: what kvpress keeps of a prompt, and the logits after it.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

class golden_eviction {
public:
    static constexpr int32_t n_prompt = 192;

    explicit golden_eviction(const std::string & folder) {
        const auto read = [&](const char * name) {
            std::ifstream file(folder + "/" + name, std::ios::binary);
            return std::vector<char>(std::istreambuf_iterator<char>(file), {});
        };
        tensors = read("expected.safetensors");
        if (tensors.empty()) {
            return;
        }
        uint64_t n_head = 0;
        std::memcpy(&n_head, tensors.data(), sizeof(n_head));
        data_at = sizeof(n_head) + n_head;
        head    = nlohmann::json::parse(tensors.begin() + sizeof(n_head), tensors.begin() + (ptrdiff_t) data_at);
        const auto text = read("cases.json");
        const auto list = nlohmann::json::parse(text.begin(), text.end());
        for (const auto & each : list.at("cases")) {
            cases.push_back(each.at("case").get<std::string>());
        }
    }

    bool is_there() const { return !tensors.empty(); }

    template <typename T> std::vector<T> tensor(const std::string & name) const {
        const auto &   offsets = head.at(name).at("data_offsets");
        const size_t   first = offsets[0].get<size_t>(), last = offsets[1].get<size_t>();
        std::vector<T> values((last - first)/sizeof(T));
        std::memcpy(values.data(), &tensors[data_at + first], last - first);
        return values;
    }

    std::vector<int32_t> tokens() const {
        const auto ids = tensor<int64_t>("input_ids");
        return { ids.begin(), ids.end() };
    }

    // "snapkv;queries=16:96" as attributes of a plan: "evict=snapkv:96;queries=16".
    static std::string attributes_of(const std::string & name) {
        const size_t      scorer = name.find(";scorer=snapkv"); // the only one that ours has
        if (scorer != std::string::npos) {
            return attributes_of(std::string(name).erase(scorer, strlen(";scorer=snapkv")));
        }
        const size_t      colon  = name.rfind(':');
        const size_t      method = name.find(';');
        const std::string first  = name.substr(0, std::min(method, colon));
        return "evict=" + first + name.substr(colon) + name.substr(first.size(), colon - first.size());
    }

    std::vector<std::string> cases;

private:
    std::vector<char> tensors;
    nlohmann::json    head;
    size_t            data_at = 0;
};
