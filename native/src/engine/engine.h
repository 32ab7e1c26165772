// One loaded model: llama.cpp's server core, its routes, and the worker thread that decodes.
#pragma once

#include "process/deep_thread.h"
#include "process/error.h"
#include "kv/memory/layout.h"
#include "kv/memory/page_ledger.h"
#include "kvfold.h"
#include "engine/model_check.h"
#include "engine/options.h"
#include "serving/admission.h"
#include "serving/request_host.h"
#include "serving/slot_schedule.h"

#include "server-context.h"

#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

namespace kvfold {

struct engine : request_host {
    // Loads the model and starts the worker.
    static std::shared_ptr<engine> open(const std::string & options, kvfold_progress_callback progress, void * user);

    ~engine() override;

    // Ends every request, waits for every call that is inside, frees the model. Idempotent.
    void close();

    bool is_closing();

    void admit(const std::shared_ptr<request> & added, bool needs_slot) override;
    void retire(request * gone, bool needs_slot) override;
    void wake_worker() override;
    size_t tasks_at_once() const override;
    void queue_task(server_task && task) override;
    void cancel_tasks(const std::unordered_set<int> & ids) override;

    void                    require_states() override;
    std::optional<kv_state> load_state(const std::string & path) override;
    written_state           write_state(const std::string & path, const kv_state & state) override;

    common_params                          server_params(const std::string & options) override;
    const server_http_context::handler_t & handler_of(server_http_context::handler_t server_routes::* member) const override;
    const server_http_context::handler_t * find_handler(const std::string & route) const override;
    void                                   require_tokenizer() const override;
    void                                   require_template() const override;
    void                                   require_formats() override;
    const llama_vocab *                    vocabulary() const override;
    int                                    slots() const override { return options.params.n_parallel; }
    int                                    adapters() const override { return (int) options.params.lora_adapters.size(); }
    input_limit                            longest_input() const override;
    void                                   check_text(size_t bytes) const override;
    const plain_text &                     texts() const override { return *special_texts; }
    bool                                   describes_schemas() const override { return options.describe_schemas; }
    bool                                   describes_tools() const override { return has_described_tools; }
    bool                                   continues_answers() const override { return options.params.prefill_assistant; }

    // Of every context of this engine.
    const std::shared_ptr<page_ledger> & memory() const { return ledger; }

    json info();
    json kv_stats();
    json token_stats();

    void evaluate(const int32_t * tokens, int32_t n_tokens, int32_t first, kvfold_logits_callback on_logits, void * user);
    json observe(const std::string & what, const int32_t * tokens, int32_t n_tokens, float * values, size_t n_values);

  protected:
    void enter() override;
    void leave() override;

  private:
    engine() = default;

    std::string kv_metrics();

    struct memory_now {
        std::array<uint64_t, 3> held; // of the ledger, by kind
        kv_usage                usage;
    };
    memory_now look_at_memory() const;

    void plan_memory(std::unique_ptr<gauge> system);
    void choose_template();
    void load(kvfold_progress_callback progress, void * user);
    void start();
    void set_up_serving();
    void refuse_task(int id_task, const error & why);
    void end_all(kvfold_status why);
    json describe();
    bool has_failed();
    size_t requests_waiting();
    size_t count_waiting() const; // under `mutex`
    server_task_result_ptr ask_worker(server_task_type question);

    const state_fit & own_fit();
    bool              drop_prefix();

    std::vector<std::shared_ptr<request>> live_requests();

    engine_options                  options;
    model_facts                     facts;
    std::string                     no_template; // why the file's cannot be used
    bool                            has_described_tools = false; // the template is describe_tools() of the file's
    std::once_flag                  formats_asked;
    bool                            has_formats = false; // of answers, after `formats_asked`
    std::unique_ptr<server_context> server;
    std::unique_ptr<server_routes>  routes;
    std::unique_ptr<plain_text>     special_texts; // after loading
    size_t                          longest_token = 0; // in bytes; 0 where a token may stand for any text
    deep_thread                     worker;
    std::atomic<bool>               abandoned{ false }; // the worker ended within llama.cpp
    kv_layout                       layout;
    std::unique_ptr<admission>      admits;   // after loading, as the next one
    std::unique_ptr<prefix_cache>   prefixes;
    std::unique_ptr<slot_schedule>  schedule;
    std::shared_ptr<page_ledger>    ledger; // what keys and values take, in all of its contexts
    std::mutex                      fit_mutex;
    std::optional<state_fit>        fit; // guarded by `fit_mutex`
    json                            fixed_info;

    std::map<std::string, const server_http_context::handler_t *> handlers;

    // What a caller may see while other threads run; guarded by `mutex`.
    std::mutex                                    mutex;
    std::condition_variable                       changed;
    bool                                          closing      = false;
    bool                                          failed       = false; // the worker thread ended with an exception
    size_t                                        calls_inside = 0;
    size_t                                        needing_slot = 0;
    std::map<request *, std::weak_ptr<request>>   live;
};

} // namespace kvfold
