// Connections of llama-server's HTTP layer. Implemented in serving/http_connections.cpp.
#pragma once

#include <memory>

namespace httplib {
class Server;
}

// Called where upstream has made a server that nothing was set on yet: puts one in its place whose connections have bounds.
void kvfold_http_server(std::unique_ptr<httplib::Server> & server);
