package io.kvfold.reference;

/**
 * The shape of a decoder that the reference computes.
 *
 * @param architecture what distinguishes the three families below
 * @param vocabulary number of token ids
 * @param hidden width of the residual stream
 * @param feedForward width of the gated MLP
 * @param heads query heads
 * @param kvHeads key and value heads, a divisor of heads
 * @param headSize width of a head, even
 * @param epsilon of all RMS norms
 * @param ropeTheta base of the rotary frequencies
 */
record Shape(
        Architecture architecture,
        int vocabulary,
        int hidden,
        int feedForward,
        int heads,
        int kvHeads,
        int headSize,
        double epsilon,
        double ropeTheta) {

    enum Architecture {
        /** Bare projections. */
        LLAMA,
        /** Biases on the query, key and value projections. */
        QWEN2,
        /** RMS norms of each query and key head, before rotation. */
        QWEN3,
        /** Bare projections; llama.cpp runs it, as most of its architectures, with downward plans only. */
        EXAONE,
        /** Gate and up projections in one matrix; llama.cpp has a second graph for it, for models with windows of their own. */
        PHI3
    }

    /** A small one in which widths differ from each other where they can, so that none stands in for another unnoticed. */
    static Shape tiny(Architecture architecture) {
        // llama.cpp wants Qwen2's and Phi-3's as wide as their queries
        int hidden = architecture == Architecture.QWEN2 || architecture == Architecture.PHI3 ? 128 : 48;
        return new Shape(architecture, 96, hidden, 80, 4, 2, 32, 1e-5, 10000);
    }

    int queryWidth() {
        return heads * headSize;
    }

    int kvWidth() {
        return kvHeads * headSize;
    }
}
