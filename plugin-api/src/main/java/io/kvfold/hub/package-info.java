/** Models by name: fetched from a Hugging Face hub into the cache that all of a user's programs share. */
@NullMarked
package io.kvfold.hub;

import org.jspecify.annotations.NullMarked;
