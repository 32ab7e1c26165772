/** Measures engines: speed, time to the first token, and memory, of several plans and types in turn. */
@NullMarked
package io.kvfold.bench;

import org.jspecify.annotations.NullMarked;
