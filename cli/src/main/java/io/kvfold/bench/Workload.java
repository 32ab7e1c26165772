package io.kvfold.bench;

/**
 * What every sequence does.
 *
 * @param prompt tokens of its prompt
 * @param generate tokens of its answer
 */
public record Workload(int prompt, int generate) {

    private static final int CELL_PADDING = 256;

    public int tokens() {
        return prompt + generate;
    }

    /** The cells that llama.cpp gives a sequence of so many tokens. */
    static int padded(int tokens) {
        return Math.multiplyExact((tokens + CELL_PADDING - 1) / CELL_PADDING, CELL_PADDING);
    }

    /** As in the tables of the LCKV paper: {@code 512+1024}. */
    @Override
    public String toString() {
        return prompt + "+" + generate;
    }
}
