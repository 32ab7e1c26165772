package io.kvfold.internal.jna;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** What {@code kvfold.h} declares. */
final class Header {

    static final Path FILE = Path.of("..", "native", "include", "kvfold.h");

    /** A C function: its return type and its parameter types, without {@code const} and spaces. */
    record Function(String name, String result, List<String> parameters) {}

    private final String text;

    Header() {
        try {
            text = Files.readString(FILE).replaceAll("(?s)/\\*.*?\\*/", "");
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    List<Function> functions() {
        List<Function> functions = new ArrayList<>();
        Matcher matcher = Pattern.compile("KVFOLD_API\\s+([^;(]+?)\\b(kvfold_\\w+)\\s*\\(([^)]*)\\)\\s*;")
                .matcher(text);
        while (matcher.find()) {
            List<String> parameters = new ArrayList<>();
            for (String parameter : matcher.group(3).split(",", -1)) {
                if (!parameter.strip().equals("void")) {
                    parameters.add(type(parameter.replaceFirst("\\w+\\s*$", "")));
                }
            }
            functions.add(new Function(matcher.group(2), type(matcher.group(1)), parameters));
        }
        return functions;
    }

    /** The enumerators whose name starts with {@code prefix}. */
    Map<String, Integer> constants(String prefix) {
        Map<String, Integer> constants = new TreeMap<>();
        Matcher matcher =
                Pattern.compile("\\b" + prefix + "(\\w+)\\s*=\\s*(-?\\d+)").matcher(text);
        while (matcher.find()) {
            constants.put(matcher.group(1), Integer.valueOf(matcher.group(2)));
        }
        return constants;
    }

    int abiVersion() {
        Matcher matcher =
                Pattern.compile("#define\\s+KVFOLD_ABI_VERSION\\s+(\\d+)").matcher(text);
        if (!matcher.find()) {
            throw new AssertionError("no KVFOLD_ABI_VERSION in " + FILE);
        }
        return Integer.parseInt(matcher.group(1));
    }

    private static String type(String text) {
        return text.replace("const", "").replaceAll("\\s+", "");
    }
}
