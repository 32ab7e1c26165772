/** Searches for KV plans of ordinary models: which layers may share, and which may retain less. */
@NullMarked
package io.kvfold.search;

import org.jspecify.annotations.NullMarked;
