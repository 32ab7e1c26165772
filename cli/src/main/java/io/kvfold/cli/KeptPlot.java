package io.kvfold.cli;

import io.kvfold.KeptTokens;
import java.util.Arrays;
import java.util.List;

/** Which tokens of a prompt are kept, as an SVG picture: a row for each layer or head, from the first token to the last. */
final class KeptPlot {

    private static final int WIDTH = 960;
    private static final int LEFT = 70;
    private static final int TOP = 30;
    private static final int LAYER = 14;
    private static final int HEAD = 8;
    private static final int GAP = 4;
    private static final int TICKS = 4;

    private KeptPlot() {}

    /**
     * The darker, the more of the heads keep a token, or of the tokens in one place where there are more than pixels.
     *
     * @param layers to draw, from the top to the bottom
     * @param title what evicted
     * @param byHead whether each head has a row
     */
    static String svg(KeptTokens kept, List<Integer> layers, String title, boolean byHead) {
        int places = Math.min(WIDTH, kept.tokens());
        double width = (double) WIDTH / places;
        StringBuilder rows = new StringBuilder();
        int y = TOP;
        for (int layer : layers) {
            int[][] heads = kept.positions()[layer];
            int count = byHead ? heads.length : 1;
            int height = byHead ? HEAD : LAYER;
            rows.append(Values.format(
                    "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">layer %d</text>%n",
                    LEFT - 6, y + (count * height + 9) / 2, layer));
            for (int row = 0; row < count; row++, y += height) {
                double[] shares = byHead ? shares(heads[row], kept.tokens()) : kept.shares(layer);
                String name = byHead ? "layer " + layer + ", head " + row : "layer " + layer;
                rows.append(Values.format(
                        "<g><title>%s: %d of %d tokens</title><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\""
                                + " fill=\"#f2f2f2\"/>%n",
                        name, kept.kept(layer), kept.tokens(), LEFT, y, WIDTH, height - 1));
                draw(rows, means(shares, places), width, y, height - 1);
                rows.append(Values.format("</g>%n"));
            }
            y += GAP;
        }
        StringBuilder out = new StringBuilder();
        out.append(Values.format(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\""
                        + " font-size=\"11\">%n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>%n",
                LEFT + WIDTH + 20, y + 36));
        out.append(Values.format(
                "<text x=\"%d\" y=\"%d\">%s, %d tokens; the darker, the more of the heads keep a token</text>%n",
                LEFT, TOP - 12, title, kept.tokens()));
        out.append(rows);
        for (int tick = 0; tick <= TICKS; tick++) {
            out.append(Values.format(
                    "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%d</text>%n",
                    LEFT + WIDTH * tick / TICKS, y + 14, (long) kept.tokens() * tick / TICKS));
        }
        return out.append(Values.format(
                        "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">token of the prompt</text>%n</svg>%n",
                        LEFT + WIDTH / 2, y + 30))
                .toString();
    }

    /** Neighbours of one shade are one rectangle. */
    private static void draw(StringBuilder out, double[] shares, double width, int y, int height) {
        for (int from = 0, to; from < shares.length; from = to) {
            to = from + 1;
            while (to < shares.length && shares[to] == shares[from]) {
                to++;
            }
            if (shares[from] > 0) {
                out.append(Values.format(
                        "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"#1b6ca8\" fill-opacity=\"%.2f\"/>%n",
                        LEFT + from * width, y, (to - from) * width, height, shares[from]));
            }
        }
    }

    private static double[] shares(int[] head, int tokens) {
        double[] shares = new double[tokens];
        Arrays.stream(head).forEach(token -> shares[token] = 1);
        return shares;
    }

    /** The means over runs of neighbours, as equally long as they can be. */
    static double[] means(double[] values, int runs) {
        double[] means = new double[runs];
        for (int run = 0; run < runs; run++) {
            int from = (int) ((long) run * values.length / runs);
            int to = (int) ((run + 1L) * values.length / runs);
            means[run] = Arrays.stream(values, from, to).average().orElse(0);
        }
        return means;
    }
}
