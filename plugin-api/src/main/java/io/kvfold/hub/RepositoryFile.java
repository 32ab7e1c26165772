package io.kvfold.hub;

import java.util.regex.Pattern;

/**
 * A file that a hub lists.
 *
 * @param id what its blob is called: the SHA-256 of the content, or of a small file that git itself keeps git's SHA-1
 */
record RepositoryFile(String path, String id, long bytes) {

    private static final Pattern ID = Pattern.compile("[0-9a-f]{64}|[0-9a-f]{40}");

    static boolean isId(String text) {
        return ID.matcher(text).matches();
    }
}
