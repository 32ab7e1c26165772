@NullMarked
package io.kvfold.langchain4j.spring;

import org.jspecify.annotations.NullMarked;
