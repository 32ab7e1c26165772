package io.kvfold;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The files through which one request reads and writes the state of a session: the store's own, or copies that the
 * store fills before and takes over after. Does not refer to the generation, so that a cleaner can own it.
 */
final class SessionFiles implements Runnable {

    private static final Logger LOG = LoggerFactory.getLogger(SessionFiles.class);

    private final Session session;
    private final @Nullable Path copies; // a folder; null if the store's own file is used
    private final Path load;
    private final Path save;

    private SessionFiles(Session session, @Nullable Path copies, Path load, Path save) {
        this.session = session;
        this.copies = copies;
        this.load = load;
        this.save = save;
    }

    /**
     * What the request begins with.
     *
     * @return null if the store fails and the session goes on without it
     * @throws KvStateException if the store fails and the session is strict
     */
    static @Nullable SessionFiles open(Session session) {
        try {
            if (session.store() instanceof SessionDirectory directory) {
                Path file = directory.file(session.key());
                return new SessionFiles(session, null, file, file);
            }
            Path copies = Files.createTempDirectory("kvfold-session");
            SessionFiles files =
                    new SessionFiles(session, copies, copies.resolve("load.kvstate"), copies.resolve("save.kvstate"));
            try {
                session.store().load(session.key(), files.load);
            } catch (Exception e) {
                files.run();
                throw e;
            }
            return files;
        } catch (Exception e) { // a store may be anything, also one in a language without checked exceptions
            fail(session, "cannot be loaded", e);
            return null;
        }
    }

    /** As {@code kvfold_request_open_state()} takes it. */
    byte[] toJson() {
        ObjectNode state =
                Json.MAPPER.createObjectNode().put("load", load.toString()).put("strict", session.isStrict());
        if (!session.isReadOnly()) {
            state.put("save", save.toString());
        }
        return Json.write(state);
    }

    /** The request is complete, and its state written if it could be. */
    void complete() {
        if (copies == null || !Files.exists(save)) {
            return;
        }
        try {
            session.store().save(session.key(), save);
            Files.deleteIfExists(save);
        } catch (Exception e) {
            fail(session, "cannot be saved", e);
        }
    }

    /** Deletes the copies. */
    @Override
    public void run() {
        if (copies == null) {
            return;
        }
        try {
            Files.deleteIfExists(load);
            Files.deleteIfExists(save);
            Files.deleteIfExists(copies);
        } catch (IOException e) {
            LOG.warn("copies of a session's state are left in {}", copies, e);
        }
    }

    private static void fail(Session session, String what, Exception cause) {
        String message = session + " " + what + ": " + cause;
        if (session.isStrict()) {
            throw new KvStateException(message, cause);
        }
        LOG.warn("{}", message, cause);
    }
}
