/** An independent computation of shared keys and values, and the native engine against it. */
@NullMarked
package io.kvfold.reference;

import org.jspecify.annotations.NullMarked;
