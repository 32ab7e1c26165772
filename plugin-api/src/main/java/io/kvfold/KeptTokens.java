package io.kvfold;

import java.util.Arrays;

/**
 * Which tokens of a prompt are left when it has ended, under a plan that {@linkplain KvPlan#eviction() evicts}.
 *
 * @param tokens that the prompt had
 * @param positions [layers, KV heads, kept tokens], each list in ascending order, from 0. A layer that reads what another one
 *     stores has that one's; a layer with a window its sinks and the window
 */
public record KeptTokens(int tokens, int[][][] positions) {

    /** How many tokens each head of a layer keeps. */
    public int kept(int layer) {
        return positions[layer][0].length;
    }

    /** For each token of the prompt the share of a layer's heads that keep it, in [0, 1]. */
    public double[] shares(int layer) {
        double[] shares = new double[tokens];
        for (int[] head : positions[layer]) {
            Arrays.stream(head).forEach(token -> shares[token]++);
        }
        Arrays.setAll(shares, token -> shares[token] / positions[layer].length);
        return shares;
    }
}
