/** Programs of one file each, to read and to paste. */
@NullMarked
package io.kvfold.examples;

import org.jspecify.annotations.NullMarked;
