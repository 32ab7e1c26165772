// What becomes of a connection of ggml-rpc whose server is gone. Implemented in process/rpc.cpp.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>

struct llama_context;

// Upstream ends the process when an RPC server does not answer. Here the connection is broken from then on: what is asked
// of it yields zeros, and graphs are refused.
class kvfold_rpc_connection {
public:
    void opened(const std::string & name);

    bool broken() const { return lost; }

    // Called after each exchange; always true, so that upstream goes on.
    bool survives(bool answered, void * answer, size_t size);

private:
    std::string       endpoint;
    std::atomic<bool> lost{ false };
};

// Whether a connection that the context computes with has broken, and its results so far are void.
bool kvfold_rpc_broken(const llama_context * ctx);
