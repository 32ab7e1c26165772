package io.kvfold.cli;

import com.fasterxml.jackson.databind.JsonNode;
import java.time.Duration;
import java.time.Instant;
import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarStyle;
import org.jspecify.annotations.Nullable;

/**
 * A bar on standard error, if that is a terminal and the work turns out to take a while; nothing otherwise. One thread
 * at a time.
 */
final class Progress implements AutoCloseable {

    private static final Duration PATIENCE = Duration.ofMillis(500);

    private final String task;
    private final String unit;
    private final Instant start = Instant.now();
    private long total;
    private boolean closed;
    private @Nullable ProgressBar bar;

    /**
     * @param task what goes on, in one word
     * @param total the number that means finished, 0 if it is not known yet
     * @param unit what is counted, such as {@code " tokens"}
     */
    Progress(String task, long total, String unit) {
        this.task = task;
        this.total = total;
        this.unit = unit;
    }

    void stepTo(long done) {
        if (bar == null && !closed && Instant.now().isAfter(start.plus(PATIENCE))) {
            bar = start();
        }
        if (bar != null) {
            bar.stepTo(done);
        }
    }

    /** Shows how much of a prompt is computed if that is what a chunk of a streamed answer is about; returns whether. */
    boolean followPrompt(JsonNode chunk) {
        JsonNode prompt = chunk.path("prompt_progress");
        if (!prompt.isObject()) {
            return false;
        }
        total = prompt.path("total").asLong();
        stepTo(prompt.path("processed").asLong());
        return true;
    }

    /** Shows a figure behind the bar. */
    void message(String text) {
        if (bar != null) {
            bar.setExtraMessage(text);
        }
    }

    /** Removes the bar. Later steps show nothing. */
    @Override
    public void close() {
        closed = true;
        if (bar != null) {
            bar.close();
            bar = null;
        }
    }

    private @Nullable ProgressBar start() {
        int width = Console.errorWidth();
        if (width == 0) {
            return null;
        }
        return ProgressBar.builder()
                .setTaskName(task)
                .setInitialMax(total)
                .setUnit(unit, 1)
                .setStyle(ProgressBarStyle.ASCII)
                .setUpdateIntervalMillis(200)
                .startsFrom(0, Duration.between(start, Instant.now()))
                .clearDisplayOnFinish()
                .setConsumer(new ConsoleProgressBarConsumer(System.err, width - 1))
                .build();
    }
}
