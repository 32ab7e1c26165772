/** Spring Boot's auto-configuration of Kvfold: an engine, LangChain4j's models over it, health and meters. */
@NullMarked
package io.kvfold.langchain4j.spring;

import org.jspecify.annotations.NullMarked;
