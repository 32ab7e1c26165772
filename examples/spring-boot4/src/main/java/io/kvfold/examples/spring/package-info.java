/** A web application over a local model. */
@NullMarked
package io.kvfold.examples.spring;

import org.jspecify.annotations.NullMarked;
