package io.kvfold.hub;

import io.kvfold.InvalidRequestException;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * The name of a model on a hub: {@code hf:owner/name[:quant|/file][@revision]}.
 *
 * <p>{@code hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF} is a repository, of which llama.cpp's rule takes one file: Q4_K_M, else Q8_0,
 * else the first. {@code :Q5_K_M} asks for another quantisation, {@code /folder/model.gguf} for a file; {@code @v1.0} for a
 * branch, a tag or a commit other than {@code main}.
 *
 * <p>Immutable.
 */
public final class ModelName {

    /** What every name begins with. */
    public static final String PREFIX = "hf:";

    static final String DEFAULT_REVISION = "main";

    private static final String FORM = "hf:owner/name[:quant|/file][@revision]";

    private static final int LONGEST_REPOSITORY = 256; // llama.cpp's limit

    private static final String WORD = "[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*";
    private static final Pattern NAME = Pattern.compile(PREFIX + "(?<repository>" + WORD + "/" + WORD + ")"
            + "(?::(?<quant>[A-Za-z0-9_.-]+)|/(?<file>[^@]+))?(?:@(?<revision>.+))?");
    private static final Pattern COMMIT = Pattern.compile("[0-9a-f]{40}");

    private final String text;
    private final String repository;
    private final @Nullable String quantization;
    private final @Nullable String file;
    private final String revision;

    private ModelName(String text, Matcher parts) {
        this.text = text;
        this.repository = parts.group("repository");
        this.quantization = parts.group("quant");
        this.file = parts.group("file");
        String asked = parts.group("revision");
        this.revision = asked == null ? DEFAULT_REVISION : asked;
    }

    /** Whether a text is meant as a name, and not as a path: whether it begins with {@link #PREFIX}. */
    public static boolean isName(String text) {
        return text.startsWith(PREFIX);
    }

    /**
     * Reads a name.
     *
     * @throws InvalidRequestException if the text is none; the message shows the form
     */
    public static ModelName parse(String text) {
        Matcher parts = NAME.matcher(text);
        if (!parts.matches()) {
            throw new InvalidRequestException("'" + text + "' is not the name of a model, which is " + FORM);
        }
        ModelName name = new ModelName(text, parts);
        if (name.repository.length() > LONGEST_REPOSITORY) {
            throw new InvalidRequestException(
                    "'" + name.repository + "' has " + name.repository.length()
                            + " characters, a repository's name has " + LONGEST_REPOSITORY + " at most",
                    (long) name.repository.length(),
                    (long) LONGEST_REPOSITORY);
        }
        if (name.file != null && !isPath(name.file)) {
            throw new InvalidRequestException("'" + name.file + "' in " + text + " is not the path of a file");
        }
        if (!isPath(name.revision)) {
            throw new InvalidRequestException("'" + name.revision + "' in " + text + " is not a branch, tag or commit");
        }
        return name;
    }

    /** Whether a text from a user or a hub names something below a folder, on every system. */
    static boolean isPath(String text) {
        for (String part : text.split("/", -1)) {
            if (part.isBlank()
                    || part.equals(".")
                    || part.equals("..")
                    || part.chars().anyMatch(c -> c < ' ' || "\\:*?\"<>|".indexOf(c) >= 0)) {
                return false;
            }
        }
        return true;
    }

    /** {@code owner/name}. */
    public String repository() {
        return repository;
    }

    /** Such as {@code Q4_K_M}; case does not matter. */
    public Optional<String> quantization() {
        return Optional.ofNullable(quantization);
    }

    /** The path of a file in the repository. */
    public Optional<String> file() {
        return Optional.ofNullable(file);
    }

    /** A branch, a tag or a commit; {@code main} unless the name says otherwise. */
    public String revision() {
        return revision;
    }

    /** Whether the revision is a commit, which never changes. */
    boolean isPinned() {
        return COMMIT.matcher(revision).matches();
    }

    /** As it was parsed. */
    @Override
    public String toString() {
        return text;
    }

    @Override
    public boolean equals(@Nullable Object other) {
        return other instanceof ModelName name && text.equals(name.text);
    }

    @Override
    public int hashCode() {
        return text.hashCode();
    }
}
