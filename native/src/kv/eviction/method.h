// The methods of token eviction by the names of the literature, and what each can be told.
#pragma once

#include "hooks/kv-plan.h"

#include <cstdint>
#include <string>
#include <vector>

namespace kvfold {

struct evict_parameter {
    const char * name;
    uint32_t     usual, least, most;
};

struct evict_method {
    const char *                 name;
    std::vector<evict_parameter> parameters;

    // The place of a parameter among them; -1: the method has no such parameter.
    int find(const std::string & parameter) const;
};

// Which one a plan evicts by.
enum evict_by : uint8_t {
    EVICT_NOTHING,
    EVICT_KNORM,     // keys with the smallest norm stay (arXiv 2406.11430)
    EVICT_KEYDIFF,   // those least like their mean (arXiv 2504.15364)
    EVICT_LAGKV,     // those that stand out from the next tokens, keys and values (arXiv 2504.04704)
    EVICT_STREAMING, // the first and the most recent ones (arXiv 2309.17453)
    EVICT_SNAPKV,    // those that the last queries attend to, with what is around them (arXiv 2404.14469)
    EVICT_TOVA,      // those that the last query attends to, the same for all heads (arXiv 2401.06104)
    EVICT_PYRAMIDKV, // as SnapKV, more in lower layers than in higher ones (arXiv 2406.02069)
    EVICT_CHUNKKV,   // chunks of what SnapKV would keep, the same for all heads (arXiv 2502.00299)
    EVICT_OBSERVED,  // those that all queries of the prompt attend to that see them (H2O without its recent tokens, arXiv 2306.14048)
    EVICT_EXPECTED,  // those that queries to come will attend to, if they are as those of the prompt (arXiv 2510.00636)
    EVICT_H2O,       // those that all queries so far attend to, of prompt and answer, and the most recent ones (arXiv 2306.14048)
    EVICT_RKV,       // those that the last queries attend to and that are least like others (R-KV, arXiv 2505.24133)
    EVICT_KEYFORMER, // as H2O, but with noise in what queries attend to, and the softer the longer the answer is (arXiv 2403.09054)
    EVICT_CORM,      // those that one of the last queries attends to more than to the average, however many these are (arXiv 2404.15949)
};

// By evict_by.
const std::vector<evict_method> & evict_methods();

// Whether the attention of the last queries of a prompt decides, and of how many; or of all queries, none of which stays for that.
bool     evicts_by_queries(const kvfold_plan & plan);
uint32_t evict_queries_of(const kvfold_plan & plan);
bool     evicts_by_all_queries(const kvfold_plan & plan);

// What all queries attend to is added up for as long as the sequence is there, whatever was evicted meanwhile; or only those at
// multiples of so many positions.
bool     evicts_by_sums(const kvfold_plan & plan);
uint32_t evict_sample_of(const kvfold_plan & plan);

// Noise is added to what queries are compared by, and divided by a temperature that rises during an answer.
bool     evicts_by_noise(const kvfold_plan & plan);

// It counts which keys a query attends to more than to the average, and when one did last. Layers keep unequally many.
bool     evicts_by_marks(const kvfold_plan & plan);

// What queries have said of rows that stay is kept with these.
bool     evict_keeps_votes(const kvfold_plan & plan);

// Of all queries their mean and covariance decide, not what they attend to.
bool     evicts_by_moments(const kvfold_plan & plan);

// Whether it can choose during an answer: by keys alone, by the newest queries, or by all up to them.
bool evicts_in_answers(const kvfold_plan & plan);

// Of the query heads that read a KV head the one counts that a key has the highest product with, and the last queries' own tokens
// have no part in their attention.
bool evicts_by_highest(const kvfold_plan & plan);

// The most recent tokens that stay in any case.
uint32_t evict_recent_of(const kvfold_plan & plan);

// A sequence with so many tokens in a layer loses none of them, whatever the budget.
uint32_t evict_least_of(const kvfold_plan & plan);

// A parameter of the plan's method, which has it.
uint32_t evict_parameter_of(const kvfold_plan & plan, const char * name);

// Tokens that a layer keeps of a sequence of n_tokens; chunks of them, and those that are marked, may be fewer.
uint32_t evict_budget_of(const kvfold_plan & plan, uint32_t il, uint32_t n_tokens);

// Tokens that a layer has at most while a prompt of n_prompt tokens is computed.
uint32_t evict_peak_of(const kvfold_plan & plan, uint32_t il, uint32_t n_prompt);

// As many of them as any layer has.
uint32_t evict_peak_of(const kvfold_plan & plan, uint32_t n_prompt);

// Tokens that a layer has at most from the end of a prompt of n_prompt tokens to that of an answer of n_answer; and as many of them as
// any layer has.
uint32_t evict_answer_peak_of(const kvfold_plan & plan, uint32_t il, uint32_t n_prompt, uint32_t n_answer);
uint32_t evict_answer_peak_of(const kvfold_plan & plan, uint32_t n_prompt, uint32_t n_answer);

} // namespace kvfold
