package io.kvfold.cli;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CoderResult;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** Texts that a command reads. */
final class TextFile {

    private TextFile() {}

    /** The text of a UTF-8 file. */
    static String read(Path file) throws IOException {
        if (Files.isDirectory(file)) {
            throw new IOException(file + " is a directory, not a text");
        }
        return decode(Files.readAllBytes(file), file.toString());
    }

    /** @param source what the error names */
    static String decode(byte[] content, String source) throws IOException {
        CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder();
        ByteBuffer bytes = ByteBuffer.wrap(content);
        CharBuffer text = CharBuffer.allocate(content.length);
        CoderResult result = decoder.decode(bytes, text, true);
        if (result.isError()) {
            throw new IOException(String.format(
                    "%s is not UTF-8: byte 0x%02X at offset %d", source, content[bytes.position()], bytes.position()));
        }
        return text.flip().toString();
    }
}
