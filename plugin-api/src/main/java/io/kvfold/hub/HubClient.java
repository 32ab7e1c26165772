package io.kvfold.hub;

import io.kvfold.ModelDownloadException;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Flow;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * HTTP as a hub speaks it. Redirects are followed here and not by the HTTP client, because the token belongs to the hub alone
 * and an encrypted connection must not become a plain one.
 */
final class HubClient {

    /** Waits; replaced in tests. */
    interface Pause {
        void of(Duration time, Runnable whileWaiting) throws InterruptedException;
    }

    /** What a try is for; a failure of it may pass. */
    interface Attempt<T> {
        T run() throws IOException, InterruptedException, HubFailure;
    }

    private static final int MAX_TRIES = 5;
    private static final int MAX_REDIRECTS = 10;
    private static final Duration FIRST_WAIT = Duration.ofSeconds(1);
    private static final Duration LONGEST_WAIT = Duration.ofMinutes(5);
    private static final Duration CONNECT_TIMEOUT = Duration.ofSeconds(10);
    private static final Duration PATIENCE = Duration.ofSeconds(30);
    private static final long POLL_MILLIS = 200;
    private static final int LARGEST_ANSWER = 64 << 20;
    private static final Set<Integer> REDIRECTS = Set.of(301, 302, 303, 307, 308);

    private static final Pattern NEXT_PAGE = Pattern.compile("<([^>]+)>;\\s*rel=\"next\"");
    private static final String USER_AGENT = userAgent();

    private final HttpClient http;
    private final HubSettings settings;
    private final Duration patience;
    private final Pause pause;

    HubClient(HubSettings settings, Duration patience, Pause pause) {
        this.settings = settings;
        this.patience = patience;
        this.pause = pause;
        this.http = HttpClient.newBuilder()
                .followRedirects(HttpClient.Redirect.NEVER)
                .connectTimeout(CONNECT_TIMEOUT)
                .version(HttpClient.Version.HTTP_1_1) // one stream; a window of HTTP/2 would only limit it
                .build();
    }

    HubClient(HubSettings settings) {
        this(settings, PATIENCE, HubClient::sleep);
    }

    HubSettings settings() {
        return settings;
    }

    /**
     * A document of the hub's API.
     *
     * @param next where it goes on
     */
    record Document(byte[] content, Optional<URI> next) {}

    /** GETs a document of the API; tries again where that may help. */
    Document document(ModelName name, URI uri, Transfer transfer) throws InterruptedException {
        return retrying(name, transfer, () -> {
            try (HubAnswer answer = get(uri, Map.of(), transfer)) {
                return new Document(answer.bytes(LARGEST_ANSWER, transfer::check), nextPage(uri, answer));
            }
        });
    }

    private static Optional<URI> nextPage(URI uri, HubAnswer answer) {
        return answer.header("Link")
                .map(NEXT_PAGE::matcher)
                .filter(Matcher::find)
                .map(link -> uri.resolve(link.group(1)));
    }

    /**
     * Runs an attempt until it succeeds, five times in a row have brought nothing, or a failure is final.
     *
     * @throws io.kvfold.KvfoldException that says why
     */
    <T> T retrying(ModelName name, Transfer transfer, Attempt<T> attempt) throws InterruptedException {
        Duration wait = FIRST_WAIT;
        for (int tries = 1; ; tries++) {
            long before = transfer.bytes();
            @Nullable Duration asked = null;
            String reason;
            RuntimeException failure;
            try {
                return attempt.run();
            } catch (HubFailure e) {
                failure = e.exception(name, settings);
                asked = e.wait(Instant.now()).orElse(null);
                reason = String.valueOf(e.getMessage());
                if (!e.isTemporary() || (asked != null && asked.compareTo(LONGEST_WAIT) > 0)) {
                    throw failure;
                }
            } catch (IOException e) {
                reason = String.valueOf(e.getMessage());
                failure = new ModelDownloadException("cannot fetch " + name + ": " + reason, e);
            }
            if (transfer.bytes() > before) {
                tries = 1;
                wait = FIRST_WAIT;
            }
            if (tries == MAX_TRIES) {
                throw failure;
            }
            Duration pauseTime = asked == null ? wait : asked;
            transfer.retry(reason, pauseTime);
            pause.of(pauseTime, transfer::check);
            wait = wait.multipliedBy(2);
        }
    }

    /**
     * GETs, following redirects. The caller closes the answer, which is a success.
     *
     * @throws HubFailure for any other status
     * @throws IOException if there is no answer
     */
    HubAnswer get(URI uri, Map<String, String> headers, Transfer transfer)
            throws IOException, InterruptedException, HubFailure {
        @Nullable String id = null;
        URI current = uri;
        for (int hops = 0; hops <= MAX_REDIRECTS; hops++) {
            HttpResponse<Flow.Publisher<List<ByteBuffer>>> response = send(current, headers, transfer);
            HubBody body = new HubBody(response.body(), patience);
            if (id == null) {
                id = response.headers()
                        .firstValue("X-Linked-Etag")
                        .map(tag -> tag.replaceFirst("^W/", "").replace("\"", ""))
                        .orElse(null);
            }
            int status = response.statusCode();
            if (status / 100 == 2) {
                return new HubAnswer(status, response.headers(), id, body);
            }
            body.close();
            String location = response.headers().firstValue("Location").orElse(null);
            if (!REDIRECTS.contains(status) || location == null) {
                throw new HubFailure(status, response.headers(), current);
            }
            current = redirected(current, location);
        }
        throw new ModelDownloadException(uri.getHost() + " redirected more than " + MAX_REDIRECTS + " times");
    }

    static URI redirected(URI from, String location) {
        URI to;
        try {
            to = from.resolve(location);
        } catch (IllegalArgumentException e) {
            throw new ModelDownloadException(from.getHost() + " redirects to an address that is none: " + location, e);
        }
        boolean known = "http".equals(to.getScheme()) || "https".equals(to.getScheme());
        if (!known || to.getHost() == null || ("https".equals(from.getScheme()) && "http".equals(to.getScheme()))) {
            throw new ModelDownloadException(
                    from.getScheme() + "://" + from.getHost() + " redirects to " + to.getScheme() + "://" + to.getHost()
                            + ", which is not followed: what begins encrypted stays so");
        }
        return to;
    }

    private HttpResponse<Flow.Publisher<List<ByteBuffer>>> send(URI uri, Map<String, String> headers, Transfer transfer)
            throws IOException, InterruptedException {
        HttpRequest.Builder request = HttpRequest.newBuilder(uri)
                .timeout(patience)
                .header("User-Agent", USER_AGENT)
                .header("Accept-Encoding", "identity");
        headers.forEach(request::header);
        if (settings.token() != null && isHub(uri)) {
            request.header("Authorization", "Bearer " + settings.token());
        }
        CompletableFuture<HttpResponse<Flow.Publisher<List<ByteBuffer>>>> response =
                http.sendAsync(request.build(), HttpResponse.BodyHandlers.ofPublisher());
        boolean answered = false;
        try {
            while (true) {
                transfer.check();
                try {
                    HttpResponse<Flow.Publisher<List<ByteBuffer>>> answer =
                            response.get(POLL_MILLIS, TimeUnit.MILLISECONDS);
                    answered = true;
                    return answer;
                } catch (TimeoutException e) {
                    // look whether to go on
                }
            }
        } catch (ExecutionException e) {
            answered = true;
            Throwable cause = e.getCause();
            throw new IOException("no answer from " + uri.getHost() + ": " + (cause == null ? e : cause), cause);
        } finally {
            if (!answered) {
                response.cancel(true);
            }
        }
    }

    private static String userAgent() {
        String version = HubClient.class.getPackage().getImplementationVersion();
        return "kvfold/" + (version == null ? "unknown" : version) + "; java/"
                + Runtime.version().feature();
    }

    private boolean isHub(URI uri) {
        URI hub = settings.endpoint();
        return hub.getScheme().equals(uri.getScheme())
                && hub.getHost().equalsIgnoreCase(uri.getHost())
                && port(hub) == port(uri);
    }

    private static int port(URI uri) {
        return uri.getPort() >= 0 ? uri.getPort() : uri.getScheme().equals("https") ? 443 : 80;
    }

    private static void sleep(Duration time, Runnable whileWaiting) throws InterruptedException {
        long deadline = System.nanoTime() + time.toNanos();
        for (long left = time.toMillis(); left > 0; left = (deadline - System.nanoTime()) / 1_000_000) {
            whileWaiting.run();
            Thread.sleep(Math.min(left, POLL_MILLIS));
        }
    }
}
