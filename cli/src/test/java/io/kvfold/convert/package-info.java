@NullMarked
package io.kvfold.convert;

import org.jspecify.annotations.NullMarked;
