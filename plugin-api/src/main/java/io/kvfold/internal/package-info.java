/** The seam between the public API and the native library; not for use outside this project. */
@NullMarked
package io.kvfold.internal;

import org.jspecify.annotations.NullMarked;
