package io.kvfold.examples.spring;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;

/**
 * Answers over HTTP from a model in this process. Argument: {@code --langchain4j.kvfold.engine.model-path=model.gguf}.
 *
 * <pre>
 * curl 'localhost:8080/chat?message=Why+is+the+sky+blue'
 * curl -N 'localhost:8080/stream?message=Tell+a+story'
 * curl 'localhost:8080/actuator/health'
 * curl 'localhost:8080/actuator/metrics/kvfold.kv.used'
 * </pre>
 */
@SpringBootApplication
public class ChatApplication {

    public static void main(String[] args) {
        SpringApplication.run(ChatApplication.class, args);
    }
}
