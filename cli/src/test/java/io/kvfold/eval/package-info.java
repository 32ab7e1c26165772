@NullMarked
package io.kvfold.eval;

import org.jspecify.annotations.NullMarked;
