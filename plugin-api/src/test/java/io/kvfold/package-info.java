@NullMarked
package io.kvfold;

import org.jspecify.annotations.NullMarked;
