/** Models to try Kvfold with, which come along as resources of the class path. */
@NullMarked
package io.kvfold.demo;

import org.jspecify.annotations.NullMarked;
