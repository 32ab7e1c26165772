// Writes a llama model with random weights and a small SentencePiece-like vocabulary: a model for tests and measurements
// that need a shape and not a meaning. Quantised weights are made as random blocks, so a large model takes seconds.
//
//   make_model --out model.gguf [--layers 2] [--embd 64] [--heads 4] [--heads-kv 2] [--ff 128] [--vocab 320] [--ctx 512]
//              [--head-dim N] [--type f32|f16|q4_0|q8_0] [--seed 1] [--kv-plan PLAN] [--pre NAME]
//
// --head-dim is --embd divided by --heads unless it is given: a wide cache behind narrow weights.
// --pre makes a byte-level BPE vocabulary of a single merge, which is split by llama.cpp's pre-tokenizer of that name.
// --kv-plan writes the plan as metadata and leaves out the key and value weights of layers that nobody reads.

#include "hooks/kv-plan.h"

#include "ggml-cpp.h"
#include "ggml.h"
#include "gguf.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct shape {
    int64_t     layers = 2, embd = 64, heads = 4, heads_kv = 2, ff = 128, vocab = 320, ctx = 512, head_dim = 0;
    ggml_type   type = GGML_TYPE_F32;
    uint64_t    seed = 1;
    std::string out, kv_plan, pre;
};

// xorshift64*: the weights of a model of 1.1 billion parameters in seconds
struct random_bits {
    uint64_t state;

    uint64_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * 0x2545F4914F6CDD1Dull;
    }

    float uniform() { return (float) ((double) (next() >> 11) / (double) (1ull << 53) * 2 - 1); }
};

shape parse(int argc, char ** argv) {
    shape                            s;
    std::map<std::string, int64_t *> numbers = {
        { "--layers", &s.layers }, { "--embd", &s.embd },   { "--heads", &s.heads }, { "--heads-kv", &s.heads_kv },
        { "--ff", &s.ff },         { "--vocab", &s.vocab }, { "--ctx", &s.ctx },   { "--head-dim", &s.head_dim },
    };
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string name = argv[i], value = argv[i + 1];
        if (numbers.count(name)) {
            *numbers[name] = std::stoll(value);
        } else if (name == "--out") {
            s.out = value;
        } else if (name == "--kv-plan") {
            s.kv_plan = value;
        } else if (name == "--pre") {
            s.pre = value;
        } else if (name == "--seed") {
            s.seed = std::stoull(value);
        } else if (name == "--type") {
            s.type = GGML_TYPE_COUNT;
            for (ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q4_0, GGML_TYPE_Q8_0 }) {
                s.type = value == ggml_type_name(type) ? type : s.type;
            }
        } else {
            throw std::invalid_argument("unknown argument " + name);
        }
    }
    if (s.out.empty() || argc % 2 == 0) {
        throw std::invalid_argument("--out and a value for every argument are required");
    }
    if (s.type == GGML_TYPE_COUNT) {
        throw std::invalid_argument("--type is f32, f16, q4_0 or q8_0");
    }
    if (s.vocab < 300 || s.heads < 1 || s.heads_kv < 1 || s.embd % s.heads != 0 || s.heads % s.heads_kv != 0) {
        throw std::invalid_argument("--vocab is at least 300, --heads divides --embd, --heads-kv divides --heads");
    }
    s.head_dim = s.head_dim > 0 ? s.head_dim : s.embd / s.heads;
    return s;
}

// <unk>, <s>, </s>, the 256 bytes, single characters and invented words of two syllables and more
void add_vocabulary(gguf_context * file, int64_t n_vocab) {
    std::vector<std::string> pieces = { "<unk>", "<s>", "</s>" };
    std::vector<int32_t>     types  = { 2, 3, 3 }; // unknown, control, control
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof(name), "<0x%02X>", byte);
        pieces.push_back(name);
        types.push_back(6); // byte
    }
    static const std::string space = "\xE2\x96\x81";
    pieces.push_back(space);
    for (char letter = 'a'; letter <= 'z'; letter++) {
        pieces.push_back(std::string(1, letter));
    }
    static const std::string consonants = "bdfgklmnprstvz", vowels = "aeiou";
    for (uint64_t n = 0; (int64_t) pieces.size() < n_vocab; n++) {
        std::string word;
        for (uint64_t rest = n + 70; rest > 0; rest /= 70) {
            word += consonants[rest % 14];
            word += vowels[rest / 14 % 5];
        }
        pieces.push_back(space + word);
    }
    pieces.resize(n_vocab);
    types.resize(n_vocab, 1); // normal

    std::vector<const char *> texts;
    std::vector<float>        scores;
    for (size_t i = 0; i < pieces.size(); i++) {
        texts.push_back(pieces[i].c_str());
        scores.push_back(types[i] == 1 ? -(float) i : 0.0f);
    }
    gguf_set_val_str(file, "tokenizer.ggml.model", "llama");
    gguf_set_val_str(file, "tokenizer.ggml.pre", "default");
    gguf_set_arr_str(file, "tokenizer.ggml.tokens", texts.data(), texts.size());
    gguf_set_arr_data(file, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), scores.size());
    gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
    gguf_set_val_u32(file, "tokenizer.ggml.unknown_token_id", 0);
    gguf_set_val_u32(file, "tokenizer.ggml.bos_token_id", 1);
    gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id", 2);
    gguf_set_val_bool(file, "tokenizer.ggml.add_bos_token", true);
    gguf_set_val_str(file, "tokenizer.chat_template",
                     "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}");
}

// The characters that stand for bytes, as GPT-2 has them: those that can be seen are their own.
std::string byte_name(int byte, int & n_hidden) {
    const bool seen = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int  c    = seen ? byte : 256 + n_hidden++;
    if (c < 0x80) {
        return std::string(1, (char) c);
    }
    return { (char) (0xC0 | c >> 6), (char) (0x80 | (c & 0x3F)) };
}

void add_bpe_vocabulary(gguf_context * file, int64_t n_vocab, const std::string & pre) {
    std::vector<std::string> pieces   = { "<|endoftext|>", "aa" };
    std::vector<int32_t>     types    = { 3, 1 };
    int                      n_hidden = 0;
    for (int byte = 0; byte < 256; byte++) {
        pieces.push_back(byte_name(byte, n_hidden));
        types.push_back(1);
    }
    while ((int64_t) pieces.size() < n_vocab) {
        pieces.push_back("[unused" + std::to_string(pieces.size()) + "]");
        types.push_back(5);
    }
    std::vector<const char *> texts;
    for (const auto & piece : pieces) {
        texts.push_back(piece.c_str());
    }
    gguf_set_val_str(file, "tokenizer.ggml.model", "gpt2");
    gguf_set_val_str(file, "tokenizer.ggml.pre", pre.c_str());
    gguf_set_arr_str(file, "tokenizer.ggml.tokens", texts.data(), texts.size());
    const char * merge = "a a";
    gguf_set_arr_str(file, "tokenizer.ggml.merges", &merge, 1);
    gguf_set_arr_data(file, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
    gguf_set_val_u32(file, "tokenizer.ggml.bos_token_id", 0);
    gguf_set_val_u32(file, "tokenizer.ggml.eos_token_id", 0);
}

void add_plan(gguf_context * file, const kvfold_plan & plan) {
    auto key = [](const char * pattern) {
        char name[128];
        snprintf(name, sizeof(name), pattern, "llama");
        return std::string(name);
    };
    std::vector<int32_t> map(plan.kv.begin(), plan.kv.begin() + plan.n_layer);
    gguf_set_arr_data(file, key(KVFOLD_KEY_LAYER_MAP).c_str(), GGUF_TYPE_INT32, map.data(), map.size());
    gguf_set_val_bool(file, key(KVFOLD_KEY_STRICT_DIAGONAL).c_str(), plan.strict);
    gguf_set_val_u32(file, key(KVFOLD_KEY_PREFILL_PASSES).c_str(), plan.n_passes);
    std::vector<int8_t> window(plan.window.begin(), plan.window.begin() + plan.n_layer);
    if (plan.n_swa > 0) {
        gguf_set_arr_data(file, key(KVFOLD_KEY_WINDOW_LAYERS).c_str(), GGUF_TYPE_BOOL, window.data(), window.size());
        gguf_set_val_u32(file, key(KVFOLD_KEY_WINDOW).c_str(), plan.n_swa);
    }
    if (plan.n_sinks > 0) {
        gguf_set_val_u32(file, key(KVFOLD_KEY_WINDOW_SINKS).c_str(), plan.n_sinks);
    }
}

void add_hyperparameters(gguf_context * file, const shape & s) {
    gguf_set_val_str(file, "general.architecture", "llama");
    gguf_set_val_str(file, "general.name", "random");
    gguf_set_val_u32(file, "general.quantization_version", 2);
    gguf_set_val_u32(file, "llama.block_count", (uint32_t) s.layers);
    gguf_set_val_u32(file, "llama.context_length", (uint32_t) s.ctx);
    gguf_set_val_u32(file, "llama.embedding_length", (uint32_t) s.embd);
    gguf_set_val_u32(file, "llama.feed_forward_length", (uint32_t) s.ff);
    gguf_set_val_u32(file, "llama.attention.head_count", (uint32_t) s.heads);
    gguf_set_val_u32(file, "llama.attention.head_count_kv", (uint32_t) s.heads_kv);
    gguf_set_val_u32(file, "llama.rope.dimension_count", (uint32_t) s.head_dim);
    if (s.head_dim != s.embd / s.heads) {
        gguf_set_val_u32(file, "llama.attention.key_length", (uint32_t) s.head_dim);
        gguf_set_val_u32(file, "llama.attention.value_length", (uint32_t) s.head_dim);
    }
    gguf_set_val_u32(file, "llama.vocab_size", (uint32_t) s.vocab);
    gguf_set_val_f32(file, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_set_val_f32(file, "llama.rope.freq_base", 10000.0f);
}

struct tensor_list {
    ggml_context *             context;
    gguf_context *             file;
    ggml_type                  type;
    std::vector<ggml_tensor *> tensors;

    void add(const std::string & name, int64_t columns, int64_t rows) {
        const bool    vector = rows == 0;
        const bool    fits   = columns % ggml_blck_size(type) == 0;
        ggml_tensor * tensor = vector ? ggml_new_tensor_1d(context, GGML_TYPE_F32, columns) :
                                        ggml_new_tensor_2d(context, fits ? type : GGML_TYPE_F32, columns, rows);
        ggml_set_name(tensor, name.c_str());
        gguf_add_tensor(file, tensor);
        tensors.push_back(tensor);
    }
};

void add_tensors(tensor_list & list, const shape & s, const kvfold_plan & plan) {
    list.add("token_embd.weight", s.embd, s.vocab);
    for (int64_t il = 0; il < s.layers; il++) {
        const std::string layer = "blk." + std::to_string(il) + ".";
        list.add(layer + "attn_norm.weight", s.embd, 0);
        list.add(layer + "attn_q.weight", s.embd, s.head_dim * s.heads);
        if (plan.is_producer(il)) {
            list.add(layer + "attn_k.weight", s.embd, s.head_dim * s.heads_kv);
            list.add(layer + "attn_v.weight", s.embd, s.head_dim * s.heads_kv);
        }
        list.add(layer + "attn_output.weight", s.head_dim * s.heads, s.embd);
        list.add(layer + "ffn_norm.weight", s.embd, 0);
        list.add(layer + "ffn_gate.weight", s.embd, s.ff);
        list.add(layer + "ffn_up.weight", s.embd, s.ff);
        list.add(layer + "ffn_down.weight", s.ff, s.embd);
    }
    list.add("output_norm.weight", s.embd, 0);
    list.add("output.weight", s.embd, s.vocab);
}

// One row; uniform numbers whose variance keeps the size of activations, 1 for the norms.
void fill_row(const ggml_tensor * tensor, random_bits & bits, std::vector<uint8_t> & row) {
    const int64_t columns = tensor->ne[0];
    const float   scale   = std::sqrt(3.0f / (float) columns);
    row.resize(ggml_row_size(tensor->type, columns));
    if (tensor->type == GGML_TYPE_F32) {
        auto * values = (float *) row.data();
        for (int64_t i = 0; i < columns; i++) {
            values[i] = ggml_n_dims(tensor) == 1 ? 1.0f : bits.uniform() * scale;
        }
    } else if (tensor->type == GGML_TYPE_F16) {
        auto * values = (ggml_fp16_t *) row.data();
        for (int64_t i = 0; i < columns; i++) {
            values[i] = ggml_fp32_to_fp16(bits.uniform() * scale);
        }
    } else {
        // a block is one half, the scale, followed by 4-bit or 8-bit integers
        const size_t      block  = ggml_type_size(tensor->type);
        const float       most   = tensor->type == GGML_TYPE_Q4_0 ? 8.0f : 127.0f;
        const ggml_fp16_t factor = ggml_fp32_to_fp16(scale / most);
        for (size_t at = 0; at + 8 <= row.size(); at += 8) {
            const uint64_t word = bits.next();
            memcpy(row.data() + at, &word, sizeof(word));
        }
        for (size_t at = row.size() / 8 * 8; at < row.size(); at++) {
            row[at] = (uint8_t) bits.next();
        }
        for (size_t at = 0; at < row.size(); at += block) {
            memcpy(row.data() + at, &factor, sizeof(factor));
        }
    }
}

void write_weights(const tensor_list & list, uint64_t seed, const std::string & path) {
    std::ofstream        file(path, std::ios::binary | std::ios::app);
    random_bits          bits{ seed * 0x9E3779B97F4A7C15ull + 1 };
    std::vector<uint8_t> row;
    const size_t         alignment = gguf_get_alignment(list.file);
    for (const ggml_tensor * tensor : list.tensors) {
        for (int64_t i = 0; i < ggml_nrows(tensor); i++) {
            fill_row(tensor, bits, row);
            file.write((const char *) row.data(), (std::streamsize) row.size());
        }
        const size_t            bytes = ggml_nbytes(tensor);
        const std::vector<char> padding(GGML_PAD(bytes, alignment) - bytes);
        file.write(padding.data(), (std::streamsize) padding.size());
    }
    if (!file) {
        throw std::runtime_error("cannot write " + path);
    }
}

} // namespace

int main(int argc, char ** argv) {
    try {
        const shape       s    = parse(argc, argv);
        const kvfold_plan plan = s.kv_plan.empty() ? kvfold_plan() : kvfold_plan_parse(s.kv_plan, (uint32_t) s.layers);
        const size_t      n_tensors = 3 + 9 * (size_t) s.layers;

        gguf_context_ptr file(gguf_init_empty());
        ggml_context_ptr context(ggml_init({ n_tensors * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/true }));
        tensor_list      list{ context.get(), file.get(), s.type, {} };
        add_hyperparameters(file.get(), s);
        if (s.pre.empty()) {
            add_vocabulary(file.get(), s.vocab);
        } else {
            add_bpe_vocabulary(file.get(), s.vocab, s.pre);
        }
        if (plan.active()) {
            add_plan(file.get(), plan);
        }
        add_tensors(list, s, plan);
        if (!gguf_write_to_file(file.get(), s.out.c_str(), /*only_meta =*/true)) {
            throw std::runtime_error("cannot write " + s.out);
        }
        write_weights(list, s.seed, s.out);
        return 0;
    } catch (const std::exception & e) {
        fprintf(stderr, "make_model: %s\n", e.what());
        return 2;
    }
}
