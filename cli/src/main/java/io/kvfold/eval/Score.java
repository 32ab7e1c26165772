package io.kvfold.eval;

import io.kvfold.bench.Subject;

/**
 * What one question gave.
 *
 * @param length tokens of prompt and answer
 * @param depth of the needle in the text, from 0 to 1; NaN where there is not one
 * @param value from 0 to 1
 * @param kvBytesPerToken what keys and values took in the end, of each token
 */
public record Score(Subject subject, Task task, int length, double depth, double value, double kvBytesPerToken) {}
