package io.kvfold.hub;

import io.kvfold.KvfoldException;
import io.kvfold.ModelAccessException;
import io.kvfold.ModelDownloadException;
import io.kvfold.ModelNotFoundException;
import java.net.URI;
import java.net.http.HttpHeaders;
import java.time.Duration;
import java.time.Instant;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.time.format.DateTimeParseException;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** An answer other than success, and what it means. */
final class HubFailure extends Exception {

    private static final long serialVersionUID = 1L;

    private static final Pattern RESET = Pattern.compile(";\\s*t=(\\d{1,9})");

    private final int status;
    private final transient HttpHeaders headers;
    private final URI uri;

    /** @param uri that was asked */
    HubFailure(int status, HttpHeaders headers, URI uri) {
        super(uri.getHost() + " answered " + status
                + headers.firstValue("X-Error-Message")
                        .map(text -> " (" + text + ")")
                        .orElse(""));
        this.status = status;
        this.headers = headers;
        this.uri = uri;
    }

    int status() {
        return status;
    }

    /** Whether the same request may succeed later. */
    boolean isTemporary() {
        return status == 408 || status == 429 || status >= 500;
    }

    /** How long the hub asks to be left alone. */
    Optional<Duration> wait(Instant now) {
        Optional<Duration> retryAfter =
                headers.firstValue("Retry-After").flatMap(text -> retryAfter(text.strip(), now));
        if (retryAfter.isPresent() || status != 429) {
            return retryAfter;
        }
        return headers.firstValue("RateLimit")
                .map(RESET::matcher)
                .filter(Matcher::find)
                .map(reset -> Duration.ofSeconds(Integer.parseInt(reset.group(1))));
    }

    private static Optional<Duration> retryAfter(String text, Instant now) {
        if (text.matches("\\d{1,9}")) {
            return Optional.of(Duration.ofSeconds(Long.parseLong(text)));
        }
        try {
            Duration wait = Duration.between(
                    now,
                    ZonedDateTime.parse(text, DateTimeFormatter.RFC_1123_DATE_TIME)
                            .toInstant());
            return Optional.of(wait.isNegative() ? Duration.ZERO : wait);
        } catch (DateTimeParseException e) {
            return Optional.empty();
        }
    }

    /** The error to end with; says what to do about it. */
    KvfoldException exception(ModelName name, HubSettings settings) {
        String repository = name.repository();
        String host = settings.endpoint().getHost();
        boolean token = settings.token() != null;
        String code = headers.firstValue("X-Error-Code").orElse("");
        if (code.equals("GatedRepo")) {
            String licence = "accept its licence at " + settings.endpoint() + '/' + repository;
            return new ModelAccessException(repository + " is gated: " + licence
                    + (token
                            ? " with the account of the token from " + settings.tokenSource()
                                    + ", or wait until its owner grants access"
                            : ", then set HF_TOKEN to a token of that account"));
        }
        if (code.equals("RevisionNotFound")) {
            return new ModelNotFoundException(repository + " has no revision " + name.revision());
        }
        if (code.equals("EntryNotFound")) {
            return new ModelNotFoundException(repository + " has no "
                    + uri.getPath().replaceFirst(".*/resolve/[^/]*/", "") + " at revision " + name.revision());
        }
        if (status == 401 && token && !code.equals("RepoNotFound")) {
            return new ModelAccessException(host + " does not accept the token from " + settings.tokenSource()
                    + ": make a new one, or remove it");
        }
        if (status == 401 || status == 404 || code.equals("RepoNotFound")) {
            return new ModelNotFoundException(
                    host + " has no model " + repository + ", or it is private: check the name"
                            + (token
                                    ? ", or whether the token from " + settings.tokenSource() + " may read it"
                                    : ", or set HF_TOKEN to a token that may read it"));
        }
        if (status == 403) {
            return new ModelAccessException(getMessage() + ": "
                    + (token
                            ? "the token from " + settings.tokenSource() + " has no permission to read " + repository
                            : "set HF_TOKEN to a token that may read " + repository));
        }
        if (status == 429) {
            return new ModelDownloadException(getMessage() + ": too many requests; try again "
                    + wait(Instant.now())
                            .map(wait -> "in " + wait.toSeconds() + " s")
                            .orElse("later")
                    + (token ? "" : ", or set HF_TOKEN, which allows for more"));
        }
        return new ModelDownloadException("cannot fetch " + name + ": " + getMessage());
    }
}
