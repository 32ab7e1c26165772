/** Models by name, against a hub on this machine. */
@NullMarked
package io.kvfold.hub;

import org.jspecify.annotations.NullMarked;
