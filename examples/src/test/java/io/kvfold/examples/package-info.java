@NullMarked
package io.kvfold.examples;

import org.jspecify.annotations.NullMarked;
