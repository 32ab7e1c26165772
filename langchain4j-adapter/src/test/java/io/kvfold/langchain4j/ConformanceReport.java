package io.kvfold.langchain4j;

import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.parsers.ParserConfigurationException;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;
import org.xml.sax.SAXException;

/**
 * Prints what failed in a run of LangChain4j's suites as Markdown, out of Surefire's reports. A program of one file, without
 * dependencies:
 *
 * <pre>{@code java ConformanceReport.java target/surefire-reports}</pre>
 */
final class ConformanceReport {

    private static final int LONGEST_MESSAGE = 90;

    private ConformanceReport() {}

    private record Failure(String reason, String message) {}

    private static final class Suite {
        private int run;
        private int failed;
        private int skipped;
        private final Map<String, List<Failure>> failures = new TreeMap<>();
    }

    /** Argument: Surefire's folder of reports. */
    public static void main(String[] args) throws IOException, ParserConfigurationException, SAXException {
        Map<String, Suite> suites = new TreeMap<>();
        try (DirectoryStream<Path> reports = Files.newDirectoryStream(Path.of(args[0]), "TEST-*ConformanceTest.xml")) {
            for (Path report : reports) {
                String name =
                        report.getFileName().toString().replaceAll(".*\\.Kvfold(\\w+)ConformanceTest\\.xml", "$1");
                suites.put(name, read(report));
            }
        }
        System.out.println("| suite | tests | passed | failed | switched off |\n|---|---|---|---|---|");
        suites.forEach((name, suite) -> System.out.printf(
                "| %s | %d | %d | %d | %d |%n",
                name, suite.run, suite.run - suite.failed - suite.skipped, suite.failed, suite.skipped));
        System.out.println("\n| suite | test | failures | reason | what the first one says |\n|---|---|---|---|---|");
        suites.forEach((name, suite) -> suite.failures.forEach((test, failures) -> {
            Failure first = failures.get(0);
            System.out.printf(
                    "| %s | `%s` | %d | %s | %s |%n", name, test, failures.size(), first.reason(), first.message());
        }));
    }

    private static Suite read(Path report) throws IOException, ParserConfigurationException, SAXException {
        Suite suite = new Suite();
        NodeList tests = DocumentBuilderFactory.newInstance()
                .newDocumentBuilder()
                .parse(report.toFile())
                .getElementsByTagName("testcase");
        for (int i = 0; i < tests.getLength(); i++) {
            Element test = (Element) tests.item(i);
            suite.run++;
            suite.skipped += test.getElementsByTagName("skipped").getLength();
            for (String kind : List.of("failure", "error")) {
                if (test.getElementsByTagName(kind).item(0) instanceof Element failure) {
                    suite.failed++;
                    String name = test.getAttribute("name").replaceAll("\\(.*", "");
                    suite.failures
                            .computeIfAbsent(name, first -> new ArrayList<>())
                            .add(new Failure(reason(name, failure), message(failure)));
                }
            }
        }
        return suite;
    }

    /** A failure of the model, or the exception that no model can be blamed for. */
    private static String reason(String test, Element failure) {
        String type = failure.getAttribute("type");
        String message = failure.getAttribute("message");
        if (message.contains("but a slot holds")) {
            return "context";
        }
        if (message.startsWith("Failed to parse")) {
            return "no end";
        }
        if (type.startsWith("dev.langchain4j.exception") || type.endsWith("TimeoutException")) {
            return "**" + type.replaceAll(".*\\.", "") + "**";
        }
        if (test.contains("force")) {
            return "other call";
        }
        return test.contains("tool") || test.contains("return") ? "no call" : "other answer";
    }

    private static String message(Element failure) {
        String text = failure.hasAttribute("message") ? failure.getAttribute("message") : failure.getTextContent();
        String line = text.replaceAll("Last chat request:[\\s\\S]*", "")
                .replaceAll("\\s+", " ")
                .replaceAll("[|<>`*\\[\\]$]", " ")
                .strip();
        return line.length() <= LONGEST_MESSAGE
                ? line
                : line.substring(0, LONGEST_MESSAGE).strip() + " …";
    }
}
