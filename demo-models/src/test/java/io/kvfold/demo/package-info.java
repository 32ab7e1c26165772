@NullMarked
package io.kvfold.demo;

import org.jspecify.annotations.NullMarked;
