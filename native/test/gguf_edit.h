// A GGUF file taken apart into its keys, so that each can be changed, and put together again.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvfold_test {

struct gguf_edit {
    struct key {
        std::string name;
        uint32_t    type;
        std::string value; // as it stands in the file
    };

    std::vector<key> keys;
    std::string      tensors; // their infos
    uint64_t         n_tensors = 0;
    std::string      data;

    explicit gguf_edit(const std::string & file) : bytes(file) {
        at                    = 8; // magic and version
        n_tensors             = take<uint64_t>();
        const uint64_t n_keys = take<uint64_t>();
        for (uint64_t i = 0; i < n_keys; i++) {
            key one;
            one.name          = take_string();
            one.type          = take<uint32_t>();
            const size_t from = at;
            skip(one.type);
            one.value = bytes.substr(from, at - from);
            keys.push_back(one);
        }
        const size_t from = at;
        for (uint64_t i = 0; i < n_tensors; i++) {
            take_string();
            const uint32_t n_dims = take<uint32_t>();
            at += n_dims * 8 + 4 + 8;
        }
        tensors = bytes.substr(from, at - from);
        data    = bytes.substr((at + 31) / 32 * 32);
    }

    std::string put() const {
        std::string file = bytes.substr(0, 8) + number(n_tensors) + number<uint64_t>(keys.size());
        for (const auto & one : keys) {
            file += string(one.name) + number(one.type) + one.value;
        }
        file += tensors;
        file.resize((file.size() + 31) / 32 * 32);
        return file + data;
    }

    template <typename T> static std::string number(T value) { return std::string((const char *) &value, sizeof(value)); }

    static std::string string(const std::string & text) { return number<uint64_t>(text.size()) + text; }

    static std::string array(uint32_t type, const std::vector<std::string> & values) {
        std::string all = number(type) + number<uint64_t>(values.size());
        for (const auto & value : values) {
            all += value;
        }
        return all;
    }

    // Adds the key if it is not there.
    void set(const std::string & name, uint32_t type, const std::string & value) {
        for (auto & one : keys) {
            if (one.name == name) {
                one = { name, type, value };
                return;
            }
        }
        keys.push_back({ name, type, value });
    }

    void set_string(const std::string & name, const std::string & text) { set(name, string_type, string(text)); }

    static constexpr uint32_t u32_type = 4, i32_type = 5, f32_type = 6, bool_type = 7, string_type = 8, array_type = 9;

    static size_t size_of(uint32_t type) {
        static const size_t sizes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
        return type < 13 ? sizes[type] : 0;
    }

  private:
    template <typename T> T take() {
        T value;
        memcpy(&value, &bytes.at(at + sizeof(T) - 1) - (sizeof(T) - 1), sizeof(T));
        at += sizeof(T);
        return value;
    }

    std::string take_string() {
        const uint64_t size = take<uint64_t>();
        at += size;
        return bytes.substr(at - size, size);
    }

    void skip(uint32_t type) {
        if (type == string_type) {
            take_string();
        } else if (type == array_type) {
            const uint32_t inner = take<uint32_t>();
            for (uint64_t n = take<uint64_t>(); n > 0; n--) {
                skip(inner);
            }
        } else {
            at += size_of(type);
        }
    }

    std::string bytes;
    size_t      at = 0;
};

} // namespace kvfold_test
