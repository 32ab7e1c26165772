package io.kvfold.eval;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.bench.Subject;
import java.awt.Color;
import java.awt.Font;
import java.awt.Graphics2D;
import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Function;
import java.util.function.ToDoubleFunction;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import javax.imageio.ImageIO;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.HeatMapChart;
import org.knowm.xchart.HeatMapChartBuilder;

/** Scores as Markdown, as JSON and as a picture. */
public final class Report {

    private static final int GRID_WIDTH = 420;
    private static final int GRID_HEIGHT = 360;

    private Report() {}

    private record Row(Subject subject, int length) {}

    private record Cell(Subject subject, Task task, int length, double depth) {}

    /** Means in percent: a line for each subject and length, a column for each task. */
    public static String markdown(List<Score> scores) {
        List<Task> tasks = scores.stream().map(Score::task).distinct().toList();
        StringBuilder table = new StringBuilder("| model, plan, KV type | tokens | KV bytes per token |");
        tasks.forEach(task -> table.append(" ").append(task).append(" |"));
        table.append(" mean |\n|---|---|---|")
                .append("---|".repeat(tasks.size() + 1))
                .append("\n");
        by(scores, score -> new Row(score.subject(), score.length())).forEach((row, all) -> {
            table.append(String.format(
                    Locale.ROOT,
                    "| %s | %d | %.0f |",
                    row.subject().label(),
                    row.length(),
                    mean(all, Score::kvBytesPerToken)));
            Map<Task, List<Score>> columns = by(all, Score::task);
            Stream.concat(tasks.stream().map(columns::get), Stream.of(all)) // all tasks have as many questions
                    .forEach(some ->
                            table.append(String.format(Locale.ROOT, " %.0f%% |", 100 * mean(some, Score::value))));
            table.append("\n");
        });
        return table.toString();
    }

    /** Means: an entry for each subject, task, length and depth. */
    public static ObjectNode json(List<Score> scores) {
        ObjectNode root = JsonNodeFactory.instance.objectNode();
        ArrayNode results = root.putArray("results");
        by(scores, score -> new Cell(score.subject(), score.task(), score.length(), score.depth()))
                .forEach((cell, all) -> {
                    ObjectNode entry = cell.subject()
                            .addTo(results.addObject())
                            .put("task", cell.task().toString())
                            .put("tokens", cell.length());
                    if (!Double.isNaN(cell.depth())) {
                        entry.put("depth", cell.depth());
                    }
                    entry.put("questions", all.size())
                            .put("score", mean(all, Score::value))
                            .put("kv_bytes_per_token", mean(all, Score::kvBytesPerToken));
                });
        return root;
    }

    /** Draws how often the single needle was found, by depth and length, a grid for each subject. */
    public static void plot(List<Score> scores, Path file) throws IOException {
        List<HeatMapChart> grids = new ArrayList<>();
        by(scores.stream().filter(score -> score.task() == Task.SINGLE).toList(), Score::subject)
                .forEach((subject, all) -> grids.add(grid(subject.label(), all)));
        int columns = (int) Math.ceil(Math.sqrt(grids.size()));
        int rows = (grids.size() + columns - 1) / columns;
        BufferedImage image = new BufferedImage(columns * GRID_WIDTH, rows * GRID_HEIGHT, BufferedImage.TYPE_INT_RGB);
        Graphics2D graphics = image.createGraphics();
        graphics.setColor(Color.WHITE);
        graphics.fillRect(0, 0, image.getWidth(), image.getHeight());
        for (int i = 0; i < grids.size(); i++) {
            graphics.drawImage(
                    BitmapEncoder.getBufferedImage(grids.get(i)),
                    i % columns * GRID_WIDTH,
                    i / columns * GRID_HEIGHT,
                    null);
        }
        graphics.dispose();
        ImageIO.write(image, "png", file.toFile());
    }

    private static HeatMapChart grid(String title, List<Score> scores) {
        List<Integer> lengths =
                scores.stream().map(Score::length).distinct().sorted().toList();
        List<Double> depths =
                scores.stream().map(Score::depth).distinct().sorted().toList();
        List<Number[]> cells = new ArrayList<>();
        by(scores, score -> new Cell(score.subject(), score.task(), score.length(), score.depth()))
                .forEach((cell, all) -> cells.add(new Number[] {
                    lengths.indexOf(cell.length()),
                    depths.indexOf(cell.depth()),
                    Math.round(100 * mean(all, Score::value))
                }));
        HeatMapChart chart = new HeatMapChartBuilder()
                .width(GRID_WIDTH)
                .height(GRID_HEIGHT)
                .title(title)
                .xAxisTitle("tokens")
                .yAxisTitle("depth of the needle, %")
                .build();
        chart.getStyler()
                .setMin(0)
                .setMax(100)
                .setShowValue(true)
                .setHeatMapValueDecimalPattern("0")
                .setRangeColors(new Color[] {new Color(0xd95f02), new Color(0xf7f7f7), new Color(0x1b9e77)})
                .setLegendVisible(false)
                .setChartBackgroundColor(Color.WHITE)
                .setChartTitleFont(new Font(Font.SANS_SERIF, Font.BOLD, 11));
        chart.addSeries(
                "found, %",
                lengths, depths.stream().map(depth -> Math.round(100 * depth)).toList(), cells);
        return chart;
    }

    private static double mean(List<Score> scores, ToDoubleFunction<Score> figure) {
        return scores.stream().mapToDouble(figure).average().orElseThrow();
    }

    private static <K> Map<K, List<Score>> by(List<Score> scores, Function<Score, K> key) {
        return scores.stream().collect(Collectors.groupingBy(key, LinkedHashMap::new, Collectors.toList()));
    }
}
