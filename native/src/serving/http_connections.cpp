#include "serving/http_connections.h"

#include <cpp-httplib/httplib.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#if defined(_WIN32)
#    include <winsock2.h>
#else
#    include <fcntl.h>
#    include <poll.h>
#    include <sys/socket.h>
#    include <sys/stat.h>
#    include <sys/un.h>
#    include <unistd.h>
#endif

namespace kvfold {

using clock = std::chrono::steady_clock;

// Longer than clients keep idle connections (20 minutes with JDK 17), since a request that comes while one is closed is lost, and
// Java's client does not send a POST again. Where there is no place left the oldest goes.
static constexpr int    keep_alive_seconds  = 30*60;
static constexpr int    keep_alive_requests = 100;
static constexpr int    send_buffer         = 64 << 10; // what a client that has stopped reading leaves in the kernel
static constexpr size_t read_buffer         = 16 << 10;

#if defined(_WIN32)

static void make_nonblocking(socket_t sock) {
    u_long on = 1;
    ioctlsocket(sock, FIONBIO, &on);
}

static bool would_block() { return WSAGetLastError() == WSAEWOULDBLOCK; }

static int  poll_one(pollfd & what, int ms) { return WSAPoll(&what, 1, ms); }
static void end_both_ways(socket_t sock) { shutdown(sock, SD_BOTH); }
static void end_writing(socket_t sock) { shutdown(sock, SD_SEND); }

static constexpr int send_flags = 0;

#else

static void make_nonblocking(socket_t sock) { fcntl(sock, F_SETFL, fcntl(sock, F_GETFL, 0) | O_NONBLOCK); }

static bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

static int  poll_one(pollfd & what, int ms) { return poll(&what, 1, ms); }
static void end_both_ways(socket_t sock) { shutdown(sock, SHUT_RDWR); }
static void end_writing(socket_t sock) { shutdown(sock, SHUT_WR); }

#    if defined(MSG_NOSIGNAL)
static constexpr int send_flags = MSG_NOSIGNAL;
#    else
static constexpr int send_flags = 0;
#    endif

#endif

static bool wait_for(socket_t sock, short events, clock::time_point until) {
    while (true) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - clock::now()).count();
        pollfd     what = { sock, events, 0 };
        const int  n    = poll_one(what, (int) std::clamp<long long>(left, 0, 1 << 30));
        if (n > 0) {
            return true;
        }
        if (left <= 0 || (n < 0 && !would_block())) {
            return false;
        }
    }
}

// ---- one connection ---------------------------------------------------------------------------------------------------

static thread_local client_connection * current = nullptr;

class client_connection final : public httplib::Stream {
  public:
    client_connection(http_connections & all, socket_t sock) : all(all), sock(sock), outer(current) {
        make_nonblocking(sock);
        httplib::set_socket_opt(sock, SOL_SOCKET, SO_SNDBUF, send_buffer);
        current = this;
        std::lock_guard<std::mutex> lock(all.mutex);
        own = all.open.insert(all.open.end(), this);
        if (all.closed) {
            end_both_ways(sock);
        }
    }

    ~client_connection() override {
        current = outer;
        finish_request();
        {
            std::lock_guard<std::mutex> lock(all.mutex);
            all.open.erase(own); // from here on nobody else uses the socket
        }
        // closed with unread bytes, the peer would see a reset and not the answer
        end_writing(sock);
        const auto until = clock::now() + std::chrono::milliseconds(100);
        for (size_t drained = 0; drained < (1u << 20) && wait_for(sock, POLLIN, until);) {
            const ssize_t n = ::recv(sock, buffer, sizeof(buffer), 0);
            if (n <= 0) {
                break;
            }
            drained += n;
        }
        httplib::detail::close_socket(sock);
    }

    // False where no other request comes.
    bool await_request(int seconds) {
        finish_request();
        const bool comes = begin < end || wait_for(sock, POLLIN, clock::now() + std::chrono::seconds(seconds));
        request          = clock::now();
        return comes;
    }

    void complete() {
        std::lock_guard<std::mutex> lock(all.mutex);
        incomplete = false;
    }

    void piece_begins() { written = no_piece; }

    bool is_readable() const override { return begin < end; }

    bool wait_readable() const override { return begin < end || wait_for(sock, POLLIN, read_deadline()); }

    bool wait_writable() const override { return wait_for(sock, POLLOUT, write_deadline()); }

    bool is_peer_alive() const override {
        char          byte;
        pollfd        what = { sock, POLLIN, 0 };
        const ssize_t n    = poll_one(what, 0) > 0 ? ::recv(sock, &byte, 1, MSG_PEEK) : 1;
        return n > 0 || (n < 0 && would_block());
    }

    ssize_t read(char * into, size_t size) override {
        if (begin == end && !fill()) {
            return -1;
        }
        const size_t n = std::min(size, end - begin);
        memcpy(into, buffer + begin, n);
        begin += n;
        return (ssize_t) n;
    }

    const char * buffered_data(size_t & size) const override {
        size = end - begin;
        return size > 0 ? buffer + begin : nullptr;
    }

    void consume_buffered(size_t size) override { begin += size; }

    ssize_t write(const char * from, size_t size) override {
        if (written == no_piece) {
            written = 0;
            piece   = clock::now();
        }
        while (wait_writable()) {
            const ssize_t n = ::send(sock, from, size, send_flags);
            if (n >= 0) {
                written += n;
                return n;
            }
            if (!would_block()) {
                break;
            }
        }
        return -1;
    }

    // Nobody asks: process_request() is given both.
    void get_remote_ip_and_port(std::string &, int &) const override {}
    void get_local_ip_and_port(std::string &, int &) const override {}

    socket_t socket() const override { return sock; }

    time_t duration() const override {
        return std::chrono::duration_cast<std::chrono::milliseconds>(clock::now() - request).count();
    }

  private:
    friend class http_connections;

    clock::time_point deadline(clock::time_point since, size_t bytes) const {
        return since + std::chrono::seconds(all.stall_seconds) +
               std::chrono::milliseconds(1000 * bytes / http_connections::bytes_per_second);
    }

    clock::time_point read_deadline() const { return deadline(request, received); }

    clock::time_point write_deadline() const { return written == no_piece ? deadline(clock::now(), 0) : deadline(piece, written); }

    bool fill() {
        while (wait_for(sock, POLLIN, read_deadline())) {
            const ssize_t n = ::recv(sock, buffer, sizeof(buffer), 0);
            if (n > 0) {
                begin = 0;
                end   = (size_t) n;
                received += end;
                piece_begins();
                return received <= http_connections::free_body + borrowed || borrow();
            }
            if (n == 0 || !would_block()) {
                break;
            }
        }
        return false;
    }

    bool borrow() {
        const size_t more = received - http_connections::free_body - borrowed;
        if (!all.take_memory(more)) {
            return false;
        }
        borrowed += more;
        return true;
    }

    void finish_request() {
        all.give_memory(borrowed);
        borrowed = 0;
        received = 0;
        piece_begins();
        std::lock_guard<std::mutex> lock(all.mutex);
        incomplete = true;
    }

    static constexpr size_t no_piece = ~size_t(0);

    http_connections &                       all;
    const socket_t                           sock;
    client_connection * const                outer;
    std::list<client_connection *>::iterator own;

    bool              incomplete = true; // guarded by `all.mutex`: no handler has the whole request
    clock::time_point request    = clock::now(); // when it began
    clock::time_point piece;
    size_t            received = 0; // of this request
    size_t            written  = no_piece; // of this piece
    size_t            borrowed = 0;

    char   buffer[read_buffer];
    size_t begin = 0, end = 0; // of what was received and not read
};

// ---- all of them ------------------------------------------------------------------------------------------------------

static thread_local http_connections * innermost_scope = nullptr;

http_connections::scope::scope(http_connections & here) : outer(innermost_scope) { innermost_scope = &here; }

http_connections::scope::~scope() { innermost_scope = outer; }

http_connections * http_connections::scope::innermost() { return innermost_scope; }

http_connections::http_connections(size_t most, int stall_seconds) : most(most), stall_seconds(stall_seconds) {}

http_connections::~http_connections() {
    shut_down();
    join();
}

void http_connections::shut_down() {
    std::lock_guard<std::mutex> lock(mutex);
    closed = true;
    for (const auto * connection : open) {
        end_both_ways(connection->sock);
    }
}

void http_connections::join() {
    std::unique_lock<std::mutex> lock(mutex);
    while (!workers.empty()) {
        changed.wait(lock, [&] { return workers.empty() || workers.front().done; });
        reap(lock);
    }
}

// Joins the threads that have ended.
void http_connections::reap(std::unique_lock<std::mutex> & lock) {
    std::list<worker> ended;
    for (auto each = workers.begin(); each != workers.end();) {
        const auto next = std::next(each);
        if (each->done) {
            ended.splice(ended.end(), workers, each);
        }
        each = next;
    }
    lock.unlock();
    for (auto & each : ended) {
        each.thread.join();
    }
    lock.lock();
}

bool http_connections::drop_incomplete() {
    const auto oldest = std::find_if(open.begin(), open.end(), [](const auto * each) { return each->incomplete; });
    if (oldest == open.end()) {
        return false;
    }
    end_both_ways((*oldest)->sock);
    open.splice(open.end(), open, oldest); // so that the next one is another
    return true;
}

bool http_connections::run(std::function<void()> && serve) {
    std::unique_lock<std::mutex> lock(mutex);
    reap(lock);
    const auto has_place = [&] {
        return closed || (size_t) std::count_if(workers.begin(), workers.end(), [](const auto & each) { return !each.done; }) < most;
    };
    for (int left = 10; left > 0 && !has_place() && drop_incomplete(); left--) {
        changed.wait_for(lock, std::chrono::milliseconds(500), has_place);
    }
    if (!closed && has_place()) {
        workers.emplace_back();
        const auto own = std::prev(workers.end());
        try {
            own->thread = std::thread([this, own, serve] {
                serve();
                std::lock_guard<std::mutex> lock(mutex);
                own->done = true;
                changed.notify_all();
            });
            return true;
        } catch (const std::system_error &) {
            workers.erase(own); // no thread is to be had
        }
    }
    return false;
}

bool http_connections::take_memory(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    if (bodies + bytes > max_bodies) {
        return false;
    }
    bodies += bytes;
    return true;
}

void http_connections::give_memory(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    bodies -= bytes;
}

#if defined(_WIN32)

bool http_connections::is_abandoned_socket(const std::string &) { return false; }

#else

bool http_connections::is_abandoned_socket(const std::string & path) {
    struct stat what;
    sockaddr_un address = {};
    if (path.size() >= sizeof(address.sun_path) || lstat(path.c_str(), &what) != 0 || !S_ISSOCK(what.st_mode)) {
        return false;
    }
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path.c_str(), path.size());
    const int  asks      = ::socket(AF_UNIX, SOCK_STREAM, 0);
    const bool abandoned = asks >= 0 && ::connect(asks, (const sockaddr *) &address, sizeof(address)) != 0 && errno == ECONNREFUSED;
    if (asks >= 0) {
        ::close(asks);
    }
    return abandoned;
}

#endif

void http_connections::request_is_complete() {
    if (current) {
        current->complete();
    }
}

void http_connections::piece_begins() {
    if (current) {
        current->piece_begins();
    }
}

// ---- cpp-httplib's side -----------------------------------------------------------------------------------------------

static std::string json_error(int status, const std::string & message) {
    return "{\"error\":{\"code\":" + std::to_string(status) + ",\"message\":\"" + message + "\",\"type\":\"" +
           (status == 404 ? "not_found_error" : status < 500 ? "invalid_request_error" : "server_error") + "\"}}";
}

static std::string reason_of(int status) {
    switch (status) {
        case 400: return "the request is no HTTP request that can be read";
        case 404: return "there is no such route";
        case 413: return "the body has more than " + std::to_string(http_connections::max_body >> 20) + " MiB, or there is no room for it beside those of others";
        case 414: return "the path is too long";
        case 415: return "the body has an encoding that is not supported";
        case 431: return "the headers are too long";
        default:  return "the request was answered with status " + std::to_string(status);
    }
}

void http_connections::explain_errors() {
    server->set_error_handler([](const httplib::Request &, httplib::Response & answer) {
        if (answer.body.empty()) {
            answer.set_content(json_error(answer.status, reason_of(answer.status)), "application/json; charset=utf-8");
        }
    });
}

// llama-server says that a stream has failed when it has ended, which closes its connection although nobody has told the client.
static httplib::ContentProvider that_ends(httplib::ContentProvider && streams) {
    return [streams = std::move(streams)](size_t offset, size_t length, httplib::DataSink & sink) {
        bool              ended = false;
        httplib::DataSink until_end;
        until_end.write       = sink.write;
        until_end.is_writable = sink.is_writable;
        until_end.done        = [&] {
            sink.done();
            ended = true;
        };
        return streams(offset, length, until_end) || ended;
    };
}

struct bounded_server final : httplib::Server {
    explicit bounded_server(http_connections & connections) : connections(connections) {
        set_payload_max_length(http_connections::max_body);
        set_keep_alive_timeout(keep_alive_seconds); // what clients are told
        set_keep_alive_max_count(keep_alive_requests);
        set_post_routing_handler([](const httplib::Request &, httplib::Response & answer) {
            if (answer.content_provider_) {
                answer.content_provider_ = that_ends(std::move(answer.content_provider_));
            }
        });
    }

    http_connections & connections;

  private:
    // Called on a thread of the pool that all listeners share, which must not wait for a client.
    bool process_and_close_socket(socket_t sock) override {
        const bool taken = connections.run([this, sock] { serve(sock); });
        if (!taken) {
            refuse(sock);
        }
        return taken;
    }

    static void refuse(socket_t sock) {
        const std::string body   = R"({"error":{"code":503,"message":"too many connections","type":"unavailable_error"}})";
        const std::string answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
                                   "Connection: close\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
        make_nonblocking(sock);
        (void) !::send(sock, answer.data(), answer.size(), send_flags);
        end_both_ways(sock);
        httplib::detail::close_socket(sock);
    }

    void serve(socket_t sock) {
        client_connection connection(connections, sock);
        serve_guarded([&] {
            int idle = read_timeout_sec_;
            for (int left = keep_alive_requests; left > 0 && connection.await_request(idle); left--) {
                bool       closes = false, is_http = false; // else nobody knows where the next request begins
                const auto has_headers = [&](httplib::Request &) { is_http = true; };
                if (!process_request(connection, "", 0, "", 0, left == 1, closes, has_headers) || closes || !is_http) {
                    break;
                }
                idle = keep_alive_seconds;
            }
            return true;
        });
    }
};

} // namespace kvfold

void kvfold_http_server(std::unique_ptr<httplib::Server> & server) {
    if (auto * connections = kvfold::http_connections::scope::innermost()) {
        server              = std::make_unique<kvfold::bounded_server>(*connections);
        connections->server = server.get();
    }
}
