package io.kvfold.cli;

import java.util.Arrays;

/** A bar for each layer's score, as an SVG picture. */
final class ScorePlot {

    private static final int BAR = 22;
    private static final int HEIGHT = 200;
    private static final int LEFT = 40;
    private static final int TOP = 20;

    private ScorePlot() {}

    /**
     * Draws scores from 0 to 1.
     *
     * @param lazy layers in another colour
     * @param threshold a number at which a line is drawn, or empty
     */
    static String svg(double[] scores, int[] lazy, String threshold) {
        int width = LEFT + BAR * scores.length + 20;
        StringBuilder out = new StringBuilder();
        out.append(Values.format(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\""
                        + " font-size=\"11\">%n",
                width, TOP + HEIGHT + 40));
        out.append(Values.format("<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>%n"));
        for (int tenth = 0; tenth <= 10; tenth += 2) {
            double y = y(tenth / 10.0);
            out.append(Values.format(
                    "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>"
                            + "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.1f</text>%n",
                    LEFT, width - 20, y, y, LEFT - 6, y + 4, tenth / 10.0));
        }
        for (int layer = 0; layer < scores.length; layer++) {
            int current = layer;
            boolean isLazy = Arrays.stream(lazy).anyMatch(l -> l == current);
            double score = Math.max(0, Math.min(1, scores[layer]));
            int x = LEFT + BAR * layer;
            out.append(Values.format(
                    "<rect x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" fill=\"%s\"><title>layer %d: %.4f</title>"
                            + "</rect><text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%d</text>%n",
                    x + 3,
                    y(score),
                    BAR - 6,
                    HEIGHT * score,
                    isLazy ? "#d95f02" : "#1b6ca8",
                    layer,
                    scores[layer],
                    x + BAR / 2,
                    TOP + HEIGHT + 14,
                    layer));
        }
        if (!threshold.isEmpty()) {
            double y = y(Double.parseDouble(threshold));
            out.append(Values.format(
                    "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"black\" stroke-dasharray=\"4\"/>%n",
                    LEFT, width - 20, y, y));
        }
        out.append(Values.format(
                "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">layer; orange: lazy%s</text>%n</svg>%n",
                width / 2, TOP + HEIGHT + 32, threshold.isEmpty() ? "" : ", dashed: threshold " + threshold));
        return out.toString();
    }

    private static double y(double score) {
        return TOP + HEIGHT * (1 - score);
    }
}
