/** The {@code kvfold} command. */
@NullMarked
package io.kvfold.cli;

import org.jspecify.annotations.NullMarked;
