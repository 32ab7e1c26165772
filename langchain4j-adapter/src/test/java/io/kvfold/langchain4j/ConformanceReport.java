package io.kvfold.langchain4j;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.engine.support.descriptor.MethodSource;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;

/** What failed in a run of LangChain4j's suites, and whether the model or this integration is to blame. */
final class ConformanceReport implements TestExecutionListener {

    private static final int LONGEST_MESSAGE = 90;

    /** One failure; {@code ours} if no model can be blamed for it. */
    record Failure(String suite, String test, String reason, boolean ours, String message) {}

    private static final class Suite {
        private int run;
        private int failed;
        private int skipped;
        private final Map<String, List<Failure>> failures = new TreeMap<>();
    }

    private final Map<String, Suite> suites = new TreeMap<>();

    @Override
    public void executionSkipped(TestIdentifier identifier, String reason) {
        identifier.getSource().filter(MethodSource.class::isInstance).ifPresent(source -> {
            Suite suite = suite((MethodSource) source);
            suite.run++;
            suite.skipped++;
        });
    }

    @Override
    public void executionFinished(TestIdentifier identifier, TestExecutionResult result) {
        if (!identifier.isTest() || !(identifier.getSource().orElse(null) instanceof MethodSource source)) {
            return;
        }
        Suite suite = suite(source);
        suite.run++;
        if (result.getStatus() == TestExecutionResult.Status.ABORTED) {
            suite.skipped++;
        } else if (result.getStatus() == TestExecutionResult.Status.FAILED) {
            suite.failed++;
            suite.failures
                    .computeIfAbsent(source.getMethodName(), first -> new ArrayList<>())
                    .add(failure(source, result.getThrowable().orElseThrow()));
        }
    }

    private Suite suite(MethodSource source) {
        return suites.computeIfAbsent(suiteName(source), name -> new Suite());
    }

    private static String suiteName(MethodSource source) {
        return source.getJavaClass().getSimpleName().replaceAll("^Kvfold(\\w+)ConformanceTest$", "$1");
    }

    private static Failure failure(MethodSource source, Throwable error) {
        String message = String.valueOf(error.getMessage());
        String type = error.getClass().getName();
        String test = source.getMethodName();
        String reason;
        boolean ours = false;
        if (message.contains("but a slot holds")) {
            reason = "context";
        } else if (message.startsWith("Failed to parse")) {
            reason = "no end";
        } else if (type.startsWith("dev.langchain4j.exception")
                || type.startsWith("io.kvfold")
                || type.endsWith("TimeoutException")) {
            reason = "**" + error.getClass().getSimpleName() + "**";
            ours = true;
        } else if (test.contains("force")) {
            reason = "other call";
        } else {
            reason = test.contains("tool") || test.contains("return") ? "no call" : "other answer";
        }
        return new Failure(suiteName(source), test, reason, ours, message);
    }

    /** Failures that no model can be blamed for. */
    List<Failure> ours() {
        return suites.values().stream()
                .flatMap(suite -> suite.failures.values().stream())
                .flatMap(List::stream)
                .filter(Failure::ours)
                .toList();
    }

    int tests() {
        return suites.values().stream().mapToInt(suite -> suite.run).sum();
    }

    int passed() {
        return suites.values().stream()
                .mapToInt(suite -> suite.run - suite.failed - suite.skipped)
                .sum();
    }

    /** The tables of docs/conformance.md. */
    String markdown() {
        StringBuilder out =
                new StringBuilder("| suite | tests | passed | failed | switched off |\n|---|---|---|---|---|\n");
        suites.forEach((name, suite) -> out.append(String.format(
                "| %s | %d | %d | %d | %d |%n",
                name, suite.run, suite.run - suite.failed - suite.skipped, suite.failed, suite.skipped)));
        out.append("\n| suite | test | failures | reason | what the first one says |\n|---|---|---|---|---|\n");
        suites.forEach((name, suite) -> suite.failures.forEach((test, failures) -> {
            Failure first = failures.get(0);
            out.append(String.format(
                    "| %s | `%s` | %d | %s | %s |%n",
                    name, test, failures.size(), first.reason(), shortened(first.message())));
        }));
        return out.toString();
    }

    private static String shortened(String message) {
        String line = message.replaceAll("Last chat request:[\\s\\S]*", "")
                .replaceAll("\\s+", " ")
                .replaceAll("[|<>`*\\[\\]$]", " ")
                .strip();
        return line.length() <= LONGEST_MESSAGE
                ? line
                : line.substring(0, LONGEST_MESSAGE).strip() + " …";
    }
}
