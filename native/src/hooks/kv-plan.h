// The KV plan of a model: which layer reads whose keys and values. Included by patched llama.cpp (llama-hparams.h), so it
// stays free of llama.cpp's types. Semantics: LCKV (arXiv 2405.10637), the systematic study of cross-layer sharing
// (arXiv 2410.14442), CLA (arXiv 2405.12981).
// an include guard and not #pragma once: the build copies this header next to the patched source, and both copies are seen
#ifndef KVFOLD_KV_PLAN_H
#define KVFOLD_KV_PLAN_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

// GGUF metadata of a plan; "%s" is the architecture's name
#define KVFOLD_KEY_LAYER_MAP       "%s.attention.kv_layer_map"       // int32[n_layer]: the layer whose K/V layer i reads
#define KVFOLD_KEY_STRICT_DIAGONAL "%s.attention.kv_strict_diagonal" // bool: no query sees its own token's key
#define KVFOLD_KEY_PREFILL_PASSES  "%s.attention.kv_prefill_passes"  // uint32: passes over a prefill chunk, 0 = exact
#define KVFOLD_KEY_WINDOW_LAYERS   "%s.attention.kv_window_layers"   // bool[n_layer]: layer i reads through the sliding window
#define KVFOLD_KEY_WINDOW_SINKS    "%s.attention.kv_window_sinks"    // uint32: first positions of a sequence that window readers see as well
#define KVFOLD_KEY_WINDOW          "%s.attention.sliding_window"     // uint32: n_swa, the keys that a window reader sees, itself included
#define KVFOLD_KEY_EVICTION        "%s.attention.kv_eviction"        // string: attributes of a plan, "evict=" first

// the same bound as LLAMA_MAX_LAYERS, checked where both are visible
#define KVFOLD_MAX_LAYERS 512

// passes of a plan that names none: LCKV's forward_passes 7 + backward_passes 2
#define KVFOLD_DEFAULT_PASSES 9

// what "streaming" retains: the sinks of StreamingLLM and SimLayerKV and the recent tokens of SimLayerKV
#define KVFOLD_DEFAULT_SINKS  4
#define KVFOLD_DEFAULT_RECENT 1024

// the recent tokens of LightTransfer, and the last queries of a prompt that both methods score
#define KVFOLD_LIGHTTRANSFER_RECENT 1020
#define KVFOLD_DEFAULT_QUERIES      32
#define KVFOLD_MAX_QUERIES          512

// that a method of eviction has at most
#define KVFOLD_EVICT_PARAMETERS 4

// thresholds are kept as millionths, so that their text is exact
#define KVFOLD_THRESHOLD_ONE     1000000u
#define KVFOLD_THRESHOLD_DEFAULT UINT32_MAX // that of the model's family, see kvfold_load_plan()

// How the lazy layers of a sequence are told.
enum kvfold_automatic : uint8_t {
    KVFOLD_NOT_AUTOMATIC   = 0,
    KVFOLD_BY_THRESHOLD    = 1, // SimLayerKV: those whose score exceeds kvfold_plan::threshold
    KVFOLD_BY_NUMBER       = 2, // LightTransfer: all but the kvfold_plan::n_full least lazy
};

// When they are told.
enum kvfold_decide : uint8_t {
    KVFOLD_DECIDE_EARLY  = 0, // while the prompt is computed; a lazy layer stays lazy, the others are full after its end
    KVFOLD_DECIDE_END    = 1, // after the last ubatch of the prompt
    KVFOLD_DECIDE_DECODE = 2, // with the first generated token, whose query alone is scored
};

// trivially copyable, since llama_hparams holds one by value
struct kvfold_plan {
    uint32_t n_layer  = 0;     // 0: no plan, every layer reads its own keys and values as upstream does
    uint32_t n_swa    = 0;     // size of the sliding window of window readers
    uint32_t n_sinks  = 0;     // first positions of a sequence that window readers see as well (StreamingLLM, SimLayerKV)
    uint32_t n_passes = KVFOLD_DEFAULT_PASSES; // over a prefill chunk when a layer reads upward; 0 = as many as it takes to be exact
    bool     strict   = false; // every layer masks the diagonal, not only those that read upward
    bool     passes_given = false; // n_passes comes from the text or the metadata, not from the default

    kvfold_automatic automatic = KVFOLD_NOT_AUTOMATIC;
    kvfold_decide    decide    = KVFOLD_DECIDE_EARLY;
    uint32_t threshold = KVFOLD_THRESHOLD_DEFAULT; // of the attention that falls on sinks and window; millionths
    uint32_t n_full    = 0;                        // candidates that stay full
    uint32_t n_queries = KVFOLD_DEFAULT_QUERIES;   // last ones of the prompt, whose attention is the score

    uint8_t  evict        = 0; // by which method the end of a prompt chooses the tokens that a layer keeps: its number in kv/eviction/method.h
    uint32_t evict_budget = 0; // tokens that it keeps; 0: a share
    uint32_t evict_share  = 0; // of the sequence, millionths
    uint32_t evict_chunk  = 0; // it is also done whenever a prompt has come to a multiple of so many tokens; 0: at its end only
    uint32_t evict_answer = 0; // and whenever an answer has brought the sequence to a multiple of so many; 0: never
    std::array<uint32_t, KVFOLD_EVICT_PARAMETERS> evict_parameters = {}; // of the method, in its order

    std::array<int16_t, KVFOLD_MAX_LAYERS> kv       = {}; // layer whose keys and values layer i reads
    std::array<uint8_t, KVFOLD_MAX_LAYERS> producer = {}; // some layer reads the keys and values of layer i
    std::array<uint8_t, KVFOLD_MAX_LAYERS> window   = {}; // layer i reads through the sliding window
    std::array<uint8_t, KVFOLD_MAX_LAYERS> in_swa   = {}; // producer read by window readers only: a window-sized cache will do
    std::array<uint8_t, KVFOLD_MAX_LAYERS> excluded  = {}; // automatic retention leaves layer i alone
    std::array<uint8_t, KVFOLD_MAX_LAYERS> candidate = {}; // layer i may turn out lazy
    std::array<uint8_t, KVFOLD_MAX_LAYERS> in_both   = {}; // producer of which some sequences need all and others the window: it has both
    std::array<uint8_t, KVFOLD_MAX_LAYERS> evict_skip = {}; // eviction leaves producer i alone

    bool active()               const { return n_layer > 0; }
    bool is_automatic()         const { return automatic != KVFOLD_NOT_AUTOMATIC; }
    bool evicts()               const { return evict != 0; }
    bool is_producer(size_t il) const { return !active() || producer[il]; }
    bool reads_upward(size_t il) const { return kv[il] > (int) il; }
    bool is_sink(int32_t pos)   const { return pos < (int32_t) n_sinks; }
    bool masks_self(size_t il)  const { return strict || reads_upward(il); }

    // the window hides the key at `pos` from the query at `from`
    bool hides(int32_t pos, int32_t from) const { return n_swa > 0 && !is_sink(pos) && from - pos >= (int32_t) n_swa; }

    // Cells for sinks and window that a sequence keeps. Its next token sees two fewer of the window: one may be taken back, and
    // llama.cpp's server asks for the other before it takes a sequence for whole.
    uint64_t n_window_kept() const { return (uint64_t) n_sinks + n_swa + 1; }

    // producer il has cells for sinks and window; one that may turn out lazy has cells for every token as well
    bool has_window_cells(size_t il) const { return in_swa[il] || in_both[il]; }

    bool has_window_cells() const {
        for (uint32_t il = 0; il < n_layer; ++il) {
            if (has_window_cells(il)) {
                return true;
            }
        }
        return false;
    }

    // some layer reads upward, so that a chunk of several tokens needs several passes
    bool upward() const {
        for (uint32_t il = 0; il < n_layer; ++il) {
            if (reads_upward(il)) {
                return true;
            }
        }
        return false;
    }

    uint32_t n_layer_kv() const {
        uint32_t n = 0;
        for (uint32_t il = 0; il < n_layer; ++il) {
            n += producer[il];
        }
        return n;
    }

    // the topmost layer of the cyclic group that begins at layer il (il itself where layer il opens none):
    // a group begins at an upward reader and is closed under "reads"
    uint32_t group_top(uint32_t il) const {
        uint32_t top = il;
        for (uint32_t i = il; i <= top; ++i) {
            if (kv[i] > (int) top) {
                top = kv[i];
            }
        }
        return top;
    }

    // canonical text, see kvfold_plan_parse()
    std::string str() const;

    // equal for equal text; part of a saved state, so that it is not restored under another plan
    uint64_t hash() const;
};

// Parses the text form of a plan for a model of n_layer layers:
//
//   plan      := map { ";" attribute }
//   map       := layer { "_" layer }                       exactly n_layer layers, 20x19 counts as nineteen
//              | "standard" | "cla:" k | "cla:keep-ends" | "cla:dense-front" | "cla:dense-back"
//              | "lckv:" warm-up layers | "mlkv:" kv layers | "yoco:" window | "streaming" [ ":" window ]
//              | "simlayerkv" [ ":" threshold ] | "lighttransfer:" full layers
//              | partition "-" position ":" kv layers      partition: pizza, sandwich, lasagna; position: bottom, middle, top
//   layer     := number [ "s" ] [ "x" number ]             kv(i); s = reads through the sliding window; x = so many times
//   attribute := "window=" number | "sinks=" number | "strict" | "passes=" number | "exact"
//              | "lazy=" ( threshold | "default" ) | "full=" number | "queries=" number
//              | "decide=" ( "early" | "end" | "decode" ) | "keep=" number { "_" number }
//              | "evict=" method ":" ( number | share ) | "at=" ( "end" | "chunk" [ ":" number ] )
//              | "answer=" number | "skip=" number { "_" number }
//              | parameter "=" number                     of the method, see kv/eviction/method.h
//
// The same grammar as io.kvfold.KvPlan. Throws std::invalid_argument with a message that names the value and the limit.
kvfold_plan kvfold_plan_parse(const std::string & text, uint32_t n_layer);

// Fills in what follows from kv, window, n_swa and n_sinks; throws std::invalid_argument if they contradict each other.
void kvfold_plan_derive(kvfold_plan & plan);

#endif
