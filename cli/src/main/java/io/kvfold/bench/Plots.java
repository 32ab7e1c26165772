package io.kvfold.bench;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.ToDoubleFunction;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.BitmapEncoder.BitmapFormat;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
import org.knowm.xchart.style.Styler.LegendPosition;

/** Results as pictures: one curve per subject and workload over the number of sequences. */
public final class Plots {

    private Plots() {}

    /** Writes {@code throughput.png}, {@code first-token.png} and {@code kv-cache.png}; returns their paths. */
    public static List<Path> write(List<Result> results, Path folder) throws IOException {
        Files.createDirectories(folder);
        return List.of(
                plot(
                        results,
                        folder.resolve("throughput.png"),
                        "Throughput",
                        "tokens of answers per second, all sequences",
                        result -> result.spread(Sample::throughput).median()),
                plot(
                        results,
                        folder.resolve("first-token.png"),
                        "Time to the first token",
                        "seconds, median",
                        result -> result.firstToken(0.5)),
                plot(
                        results,
                        folder.resolve("kv-cache.png"),
                        "KV cache",
                        "MiB",
                        result -> result.samples().get(0).kvBytes() / 1048576.0));
    }

    private static Path plot(
            List<Result> results, Path file, String title, String unit, ToDoubleFunction<Result> figure)
            throws IOException {
        XYChart chart = new XYChartBuilder()
                .width(960)
                .height(600)
                .title(title)
                .xAxisTitle("sequences side by side")
                .yAxisTitle(unit)
                .build();
        chart.getStyler().setYAxisMin(0.0);
        chart.getStyler().setLegendPosition(LegendPosition.OutsideS);
        Map<String, List<Result>> curves = new LinkedHashMap<>();
        for (Result result : results) {
            curves.computeIfAbsent(result.subject().label() + ", " + result.workload(), name -> new ArrayList<>())
                    .add(result);
        }
        curves.forEach((name, points) -> chart.addSeries(
                name,
                points.stream().mapToDouble(Result::sequences).toArray(),
                points.stream().mapToDouble(figure).toArray()));
        BitmapEncoder.saveBitmap(chart, file.toString(), BitmapFormat.PNG);
        return file;
    }
}
