package io.kvfold.bench;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.function.ToDoubleFunction;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.BitmapEncoder.BitmapFormat;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
import org.knowm.xchart.style.Styler.LegendPosition;

/** Results as pictures: speed over the number of sequences, memory over the context that it holds. */
public final class Plots {

    private Plots() {}

    /** Writes {@code throughput.png}, {@code first-token.png} and {@code kv-cache.png}; returns their paths. */
    public static List<Path> write(List<Result> results, Path folder) throws IOException {
        Files.createDirectories(folder);
        Curves speed = new Curves(
                "sequences side by side",
                result -> result.subject().label() + ", " + result.workload(),
                result -> result.sequences());
        Curves memory = new Curves(
                "context of all sequences, tokens",
                result -> result.subject().label(),
                result -> result.sequences() * (double) result.workload().tokens());
        return List.of(
                speed.plot(
                        results,
                        folder.resolve("throughput.png"),
                        "Throughput",
                        "tokens of answers per second, all sequences",
                        result -> result.spread(Sample::throughput).median()),
                speed.plot(
                        results,
                        folder.resolve("first-token.png"),
                        "Time to the first token",
                        "seconds, median",
                        result -> result.firstToken(0.5)),
                memory.plot(
                        results,
                        folder.resolve("kv-cache.png"),
                        "KV cache",
                        "MiB",
                        result -> result.samples().get(0).kvBytes() / 1048576.0));
    }

    /** What is drawn over what: the name of a result's curve, and its place on the horizontal axis. */
    private record Curves(String axis, Function<Result, String> name, ToDoubleFunction<Result> place) {

        Path plot(List<Result> results, Path file, String title, String unit, ToDoubleFunction<Result> figure)
                throws IOException {
            XYChart chart = new XYChartBuilder()
                    .width(960)
                    .height(600)
                    .title(title)
                    .xAxisTitle(axis)
                    .yAxisTitle(unit)
                    .build();
            chart.getStyler().setYAxisMin(0.0);
            chart.getStyler().setLegendPosition(LegendPosition.OutsideS);
            Map<String, List<Result>> curves = new LinkedHashMap<>();
            for (Result result : results) {
                curves.computeIfAbsent(name.apply(result), any -> new ArrayList<>())
                        .add(result);
            }
            curves.forEach((label, points) -> {
                points.sort(Comparator.comparingDouble(place));
                chart.addSeries(
                        label,
                        points.stream().mapToDouble(place).toArray(),
                        points.stream().mapToDouble(figure).toArray());
            });
            BitmapEncoder.saveBitmap(chart, file.toString(), BitmapFormat.PNG);
            return file;
        }
    }
}
