package io.kvfold.hub;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.http.HttpHeaders;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Optional;
import java.util.OptionalLong;
import org.jspecify.annotations.Nullable;

/**
 * An answer of a hub, or of the host that it redirected to.
 *
 * @param id what the hub calls the content, if it says so
 */
record HubAnswer(int status, HttpHeaders headers, @Nullable String id, HubBody body) implements AutoCloseable {

    Optional<String> header(String name) {
        return headers.firstValue(name);
    }

    OptionalLong length() {
        return headers.firstValueAsLong("Content-Length");
    }

    /** The whole body. */
    byte[] bytes(int limit, Runnable whileWaiting) throws IOException, InterruptedException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        for (List<ByteBuffer> piece = body.next(whileWaiting); !piece.isEmpty(); piece = body.next(whileWaiting)) {
            for (ByteBuffer buffer : piece) {
                byte[] copy = new byte[buffer.remaining()];
                buffer.get(copy);
                bytes.writeBytes(copy);
            }
            if (bytes.size() > limit) {
                throw new IOException("the answer has more than " + limit + " bytes");
            }
        }
        return bytes.toByteArray();
    }

    @Override
    public void close() {
        body.close();
    }
}
