@NullMarked
package io.kvfold.cli;

import org.jspecify.annotations.NullMarked;
