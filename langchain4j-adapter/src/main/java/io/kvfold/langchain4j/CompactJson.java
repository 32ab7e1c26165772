package io.kvfold.langchain4j;

/** Drops the whitespace between the tokens of one JSON text that arrives in fragments. Not thread-safe. */
final class CompactJson {

    private boolean inString;
    private boolean escaped;

    /** The part of {@code fragment} that is not whitespace between tokens. */
    String append(String fragment) {
        StringBuilder compact = new StringBuilder(fragment.length());
        for (int i = 0; i < fragment.length(); i++) {
            char c = fragment.charAt(i);
            if (inString) {
                inString = escaped || c != '"';
                escaped = !escaped && c == '\\';
                compact.append(c);
            } else if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
                inString = c == '"';
                compact.append(c);
            }
        }
        return compact.toString();
    }
}
