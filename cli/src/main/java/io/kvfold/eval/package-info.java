/** Measures what models find again in long texts, with tasks of any length that are made up from a seed. */
@NullMarked
package io.kvfold.eval;

import org.jspecify.annotations.NullMarked;
