@NullMarked
package io.kvfold.examples.spring;

import org.jspecify.annotations.NullMarked;
