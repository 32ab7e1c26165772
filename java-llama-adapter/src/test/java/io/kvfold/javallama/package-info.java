@NullMarked
package io.kvfold.javallama;

import org.jspecify.annotations.NullMarked;
