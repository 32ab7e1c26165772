@NullMarked
package io.kvfold.internal.jna;

import org.jspecify.annotations.NullMarked;
