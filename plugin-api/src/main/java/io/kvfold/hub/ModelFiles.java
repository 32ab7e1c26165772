package io.kvfold.hub;

import io.kvfold.ModelNotFoundException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * Which files of a repository make up a model, by llama.cpp's rules (common/download.cpp).
 *
 * @param parts paths of the model, in the order of its parts
 * @param projector path of its projector for images
 */
record ModelFiles(List<String> parts, Optional<String> projector) {

    private static final String SUFFIX = ".gguf";
    private static final String PROJECTOR = "mmproj";
    private static final List<String> COMPANIONS =
            List.of(PROJECTOR, "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-");
    private static final List<String> PREFERRED = List.of("Q4_K_M", "Q8_0");
    private static final Pattern SPLIT =
            Pattern.compile("(.*-)(\\d{5})(-of-(\\d{5})\\.gguf)", Pattern.CASE_INSENSITIVE);
    private static final Pattern BITS =
            Pattern.compile("(?<![a-z0-9])(?:iq|q|bf|f|mxfp)(\\d+)", Pattern.CASE_INSENSITIVE);
    private static final int LISTED = 20;

    static boolean isModelFile(String path) {
        return path.toLowerCase(Locale.ROOT).endsWith(SUFFIX);
    }

    /**
     * Chooses the files that a name means.
     *
     * @param all paths of the repository's files, in the hub's order
     * @throws ModelNotFoundException if there are none; the message lists what there is
     */
    static ModelFiles choose(ModelName name, Collection<String> all) {
        List<String> files = all.stream().filter(ModelFiles::isModelFile).toList();
        List<String> models = files.stream().filter(file -> !isCompanion(file)).toList();
        if (models.isEmpty() && name.file().isEmpty()) {
            throw new ModelNotFoundException(
                    name.repository() + " holds no GGUF file; 'kvfold convert' makes one of a Hugging Face folder");
        }
        String chosen = name.file().isPresent()
                ? find(files, name.file().get()::equals)
                        .orElseThrow(() -> absent(name, "file " + name.file().get(), files))
                : name.quantization().isPresent()
                        ? find(models, tagged(name.quantization().get()))
                                .orElseThrow(() -> absent(
                                        name, "file with " + name.quantization().get() + " in its name", models))
                        : PREFERRED.stream()
                                .flatMap(tag -> find(models, tagged(tag)).stream())
                                .findFirst()
                                .orElseGet(() -> models.get(0));
        return new ModelFiles(
                parts(name, chosen, files), isCompanion(chosen) ? Optional.empty() : projector(chosen, files));
    }

    /** Whether a name means this file, or all of several of which it is one. */
    static boolean matches(ModelName name, String path) {
        if (name.file().isPresent()) {
            String file = name.file().get();
            Matcher split = SPLIT.matcher(file);
            Matcher other = SPLIT.matcher(path);
            return path.equals(file)
                    || (split.matches()
                            && other.matches()
                            && split.group(1).equals(other.group(1))
                            && split.group(3).equals(other.group(3)));
        }
        return isModelFile(path)
                && name.quantization()
                        .map(ModelFiles::tagged)
                        .map(tag -> tag.test(path))
                        .orElse(true);
    }

    private static Optional<String> find(List<String> files, Predicate<String> wanted) {
        return files.stream().filter(wanted).findFirst();
    }

    private static Predicate<String> tagged(String tag) {
        return Pattern.compile(Pattern.quote(tag) + "[.-]", Pattern.CASE_INSENSITIVE)
                .asPredicate();
    }

    private static boolean isCompanion(String path) {
        String file = fileName(path).toLowerCase(Locale.ROOT);
        return COMPANIONS.stream().anyMatch(file::contains);
    }

    private static ModelNotFoundException absent(ModelName name, String what, List<String> files) {
        String listed = String.join(", ", files.subList(0, Math.min(LISTED, files.size())));
        return new ModelNotFoundException(name.repository() + " has no " + what + "; there are "
                + (files.isEmpty() ? "no GGUF files" : listed)
                + (files.size() > LISTED ? " and " + (files.size() - LISTED) + " more" : ""));
    }

    private static List<String> parts(ModelName name, String chosen, List<String> files) {
        Matcher split = SPLIT.matcher(chosen);
        if (!split.matches()) {
            return List.of(chosen);
        }
        List<String> parts = new ArrayList<>();
        int count = Integer.parseInt(split.group(4));
        for (int i = 1; i <= count; i++) {
            String part = split.group(1) + String.format(Locale.ROOT, "%05d", i) + split.group(3);
            if (!files.contains(part)) {
                throw new ModelNotFoundException(
                        name.repository() + " has no " + part + ", part " + i + " of the " + count + " of the model");
            }
            parts.add(part);
        }
        return parts;
    }

    /** In the model's folder or one above it: the nearest folder, then the same quantisation, then the closest bits. */
    private static Optional<String> projector(String model, List<String> files) {
        Optional<String> tag = tag(model);
        return files.stream()
                .filter(file -> fileName(file).toLowerCase(Locale.ROOT).contains(PROJECTOR))
                .filter(file -> model.startsWith(folder(file)))
                .min(Comparator.comparing((String file) -> -folder(file).length())
                        .thenComparing(file -> tag.isPresent() && tag(file).equals(tag) ? 0 : 1)
                        .thenComparing(file -> Math.abs(bits(file) - bits(model))));
    }

    private static Optional<String> tag(String path) {
        return Stream.of(fileName(path)
                        .toLowerCase(Locale.ROOT)
                        .replaceAll("\\.gguf$", "")
                        .split("[.-]"))
                .filter(word -> BITS.matcher(word).lookingAt())
                .findFirst();
    }

    private static int bits(String path) {
        Matcher bits = BITS.matcher(fileName(path));
        return bits.find() ? Integer.parseInt(bits.group(1)) : 0;
    }

    private static String fileName(String path) {
        return path.substring(path.lastIndexOf('/') + 1);
    }

    /** With a slash at its end; empty for the root. */
    private static String folder(String path) {
        return path.substring(0, path.lastIndexOf('/') + 1);
    }
}
