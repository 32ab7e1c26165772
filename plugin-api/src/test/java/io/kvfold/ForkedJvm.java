package io.kvfold;

import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;

/** Runs a main class in a JVM of its own, for what would harm, or could not be seen in, the JVM of the tests. */
public final class ForkedJvm {

    /** How it ended; {@code exit} is -1 if it had to be killed. */
    public record Result(int exit, String output) {
        /** Standard output and error, if it ended well. */
        public String outputOfSuccess() {
            if (exit != 0) {
                throw new AssertionError("the JVM ended with " + exit + ":\n" + output);
            }
            return output;
        }
    }

    private final List<String> command = new ArrayList<>();
    private final Map<String, String> environment = new HashMap<>();
    private String classPath = System.getProperty("java.class.path");
    private String nativeAccess = "--enable-native-access=ALL-UNNAMED";
    private Duration limit = Duration.ofSeconds(60);
    private String input = "";

    public ForkedJvm() {
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    }

    /** Java 24 and later then refuse to load any native library. */
    public ForkedJvm denyingNativeAccess() {
        nativeAccess = "--illegal-native-access=deny";
        return this;
    }

    public ForkedJvm with(String jvmArgument) {
        command.add(jvmArgument);
        return this;
    }

    /** Runs on the library that the tests run on. */
    public ForkedJvm withRealLibrary() {
        String path = System.getProperty("kvfold.library.path");
        return path == null ? this : with("-Dkvfold.library.path=" + path);
    }

    public ForkedJvm withEnvironment(String name, String value) {
        environment.put(name, value);
        return this;
    }

    public ForkedJvm withFirstOnClassPath(Path directory) {
        classPath = directory + File.pathSeparator + classPath;
        return this;
    }

    /** Lets a shell run {@code setUp} first, in the process that the JVM is then. */
    public ForkedJvm after(String setUp) {
        command.addAll(0, List.of("sh", "-c", setUp + " && exec \"$@\"", "sh"));
        return this;
    }

    /** What comes on standard input before its end. */
    public ForkedJvm withInput(String input) {
        this.input = input;
        return this;
    }

    /** Another class path, made of the one that the tests run on. */
    public ForkedJvm withClassPath(UnaryOperator<String> change) {
        classPath = change.apply(classPath);
        return this;
    }

    public ForkedJvm within(Duration limit) {
        this.limit = limit;
        return this;
    }

    private ProcessBuilder builder(Class<?> main, String... arguments) {
        List<String> all = new ArrayList<>(command);
        if (Runtime.version().feature() >= 24) {
            all.add(nativeAccess);
        }
        all.addAll(List.of("-cp", classPath, main.getName()));
        all.addAll(List.of(arguments));
        ProcessBuilder builder = new ProcessBuilder(all).redirectErrorStream(true);
        builder.environment().putAll(environment);
        return builder;
    }

    /** Starts it and leaves the rest to the caller, who has to end it; its output goes nowhere. */
    public Process start(Class<?> main, String... arguments) throws IOException {
        return builder(main, arguments)
                .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .start();
    }

    public Result run(Class<?> main, String... arguments) {
        try {
            Path output = Files.createTempFile("forked", ".log");
            try {
                Process process =
                        builder(main, arguments).redirectOutput(output.toFile()).start();
                try (OutputStream in = process.getOutputStream()) {
                    in.write(input.getBytes(StandardCharsets.UTF_8));
                }
                boolean ended = process.waitFor(limit.toMillis(), TimeUnit.MILLISECONDS);
                if (!ended) {
                    process.destroyForcibly().waitFor();
                }
                return new Result(
                        ended ? process.exitValue() : -1,
                        new String(Files.readAllBytes(output), StandardCharsets.UTF_8)
                                + (ended ? "" : "\nkilled after " + limit));
            } finally {
                Files.delete(output);
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new AssertionError("interrupted", e);
        }
    }
}
