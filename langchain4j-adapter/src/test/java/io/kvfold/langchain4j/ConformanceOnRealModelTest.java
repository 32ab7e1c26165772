package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.platform.engine.discovery.ClassNameFilter.includeClassNamePatterns;
import static org.junit.platform.engine.discovery.DiscoverySelectors.selectPackage;

import io.kvfold.DownloadedModels;
import io.kvfold.RealLibrary;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.platform.launcher.LauncherDiscoveryRequest;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;

/**
 * LangChain4j's suites on the model that {@link ConformanceEngine} is given, by default SmolLM2. What they assert of an answer is
 * its content, which a small model misses; that no failure is this integration's is what is asserted here. The tables of
 * docs/conformance.md come out as {@code target/conformance.md}.
 */
@Tag("real-models")
class ConformanceOnRealModelTest {

    @Test
    void failsForNoReasonButTheModels() throws IOException {
        RealLibrary.require();
        boolean given = ConformanceEngine.isOnRealModel();
        ConformanceReport report = new ConformanceReport();
        LauncherDiscoveryRequest suites = LauncherDiscoveryRequestBuilder.request()
                .selectors(selectPackage(getClass().getPackageName()))
                .filters(includeClassNamePatterns(".*\\.Kvfold\\w+ConformanceTest"))
                .configurationParameter("junit.jupiter.execution.timeout.default", "5 m")
                .build();
        try {
            if (!given) {
                ConformanceEngine.useModel(DownloadedModels.smolLm2());
            }
            LauncherFactory.create().execute(suites, report);
        } finally {
            if (!given) {
                ConformanceEngine.useScript();
            }
        }

        Files.writeString(Path.of("target", "conformance.md"), report.markdown());
        System.out.println(report.markdown());
        assertThat(report.ours()).isEmpty();
        assertThat(report.tests()).isGreaterThan(150);
        assertThat(report.passed())
                .isGreaterThan(30); // listeners, usage, finish reasons and errors need no good answer
    }
}
