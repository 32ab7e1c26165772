package io.kvfold;

/**
 * What the layers of a model store in the KV cache for one token sequence.
 *
 * @param keys [layers, tokens * width], each key rotated to its position
 * @param values [layers, tokens * width]
 * @param tokens of the sequence
 * @param width of one token's keys, all heads; the same for its values
 */
public record KeysAndValues(float[][] keys, float[][] values, int tokens, int width) {}
