/** libkvfold through JNA; the only package that knows it. {@link io.kvfold.internal.jna.JnaBridge} is the way in. */
@NullMarked
package io.kvfold.internal.jna;

import org.jspecify.annotations.NullMarked;
