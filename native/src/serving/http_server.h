// llama-server's HTTP layer in front of an engine.
#pragma once

#include "serving/request_host.h"

#include <memory>
#include <string>

namespace kvfold {

struct http_server {
    // Listens when it returns. Throws KVFOLD_ERROR_ADDRESS, or as parse_server_options().
    static std::unique_ptr<http_server> open(const std::shared_ptr<request_host> & owner, const std::string & options);

    // Ends the requests that came through it and stops listening.
    virtual ~http_server() = default;

    // The answer of kvfold_serve().
    virtual json info() const = 0;
};

} // namespace kvfold
