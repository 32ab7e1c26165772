@NullMarked
package io.kvfold.langchain4j;

import org.jspecify.annotations.NullMarked;
