package io.kvfold;

import org.jspecify.annotations.Nullable;

/** An {@link EngineServer} cannot listen on an address, for instance because the port is in use. */
public final class ServerAddressException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public ServerAddressException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }
}
