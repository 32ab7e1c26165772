// The connections of one HTTP server: a thread each, a limit to how many there are, deadlines for what a client sends and
// takes, and an end to all of them when the server closes.
//
// cpp-httplib's own timeouts are per system call, so a client that sends a byte now and then keeps its connection for ever.
#pragma once

#include "hooks/http-connections.h"

#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace kvfold {

class client_connection;

class http_connections {
  public:
    // `stall_seconds` is what a client may take to send a request, or to take a piece of an answer, beyond one second for
    // each `bytes_per_second`.
    http_connections(size_t most, int stall_seconds);
    ~http_connections();
    http_connections(const http_connections &)             = delete;
    http_connections & operator=(const http_connections &) = delete;

    static constexpr size_t bytes_per_second = 64u << 10;
    static constexpr size_t max_body         = 64u << 20;  // of one request
    static constexpr size_t max_bodies       = 256u << 20; // of all requests together, beyond `free_body` of each
    static constexpr size_t free_body        = 1u << 20;

    // While one lives, servers that llama-server's HTTP layer makes on this thread keep their connections in `here`.
    struct scope {
        explicit scope(http_connections & here);
        ~scope();
        scope(const scope &)             = delete;
        scope & operator=(const scope &) = delete;

        static http_connections * innermost();

      private:
        http_connections * outer;
    };

    // Ends every connection: what reads from it or writes to it fails at once, and none is taken on any more.
    void shut_down();

    // Waits for the threads. Only after shut_down(), and before a server is destroyed whose connections are in here.
    void join();

    // Runs `serve` on a thread of its own; where there is no place, in that of the connection that has been incomplete for
    // longest. False if there is none.
    bool run(std::function<void()> && serve);

    // Gives errors that no handler has answered a body, which is JSON. Only when the server that was made in a scope has its handlers.
    void explain_errors();

    // Whether a file is a Unix socket that nobody listens on.
    static bool is_abandoned_socket(const std::string & path);

    // Told by the handler of a request on the thread of its connection: that it has the whole request, and that it goes on
    // to write another piece of the answer.
    static void request_is_complete();
    static void piece_begins();

  private:
    friend class client_connection;
    friend void ::kvfold_http_server(std::unique_ptr<httplib::Server> & server);

    struct worker {
        std::thread thread;
        bool        done = false; // guarded by `mutex`
    };

    void reap(std::unique_lock<std::mutex> & lock);
    bool drop_incomplete();
    bool take_memory(size_t bytes);
    void give_memory(size_t bytes);

    const size_t most;
    const int    stall_seconds;

    std::mutex                     mutex;
    std::condition_variable        changed;
    bool                           closed = false;
    std::list<worker>              workers;
    std::list<client_connection *> open; // the oldest first
    size_t                         bodies = 0;
    httplib::Server *              server = nullptr;
};

} // namespace kvfold
