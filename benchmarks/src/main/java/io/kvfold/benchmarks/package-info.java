/** Measurements that take minutes and want a machine of their own; none of them is a test. */
@NullMarked
package io.kvfold.benchmarks;

import org.jspecify.annotations.NullMarked;
