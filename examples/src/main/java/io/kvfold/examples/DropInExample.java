package io.kvfold.examples;

import dev.langchain4j.memory.chat.TokenWindowChatMemory;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.service.AiServices;
import dev.langchain4j.service.SystemMessage;
import dev.langchain4j.service.UserMessage;
import dev.langchain4j.service.V;
import io.kvfold.Engine;
import io.kvfold.langchain4j.KvfoldChatModel;
import io.kvfold.langchain4j.KvfoldTokenCountEstimator;
import java.nio.file.Path;

/**
 * An application that was written for another model: only {@link #model} knows about Kvfold. Arguments: a GGUF file and a
 * text to look into.
 */
public final class DropInExample {

    /** What the application's code sees; LangChain4j implements it over any model. */
    interface Assistant {

        @SystemMessage("You answer in one sentence.")
        String answer(String question);
    }

    /** A value that the model's answer is read into; the answer is held to this shape while it is generated. */
    record Animal(Kind kind, boolean friendly) {

        enum Kind {
            CAT,
            DOG,
            BIRD
        }
    }

    interface Extractor {

        @UserMessage("Which animal is this text about? {{text}}")
        Animal animalIn(@V("text") String text);
    }

    private DropInExample() {}

    public static void main(String[] args) {
        if (args.length != 2) {
            throw new IllegalArgumentException("arguments: <model.gguf> <text>");
        }
        try (Engine engine = Engine.builder()
                .model(Path.of(args[0]))
                .contextSize(2048)
                .slots(1)
                .open()) {
            ChatModel model = model(engine);

            Assistant assistant = AiServices.builder(Assistant.class)
                    .chatModel(model)
                    .chatMemory(TokenWindowChatMemory.withMaxTokens(1024, new KvfoldTokenCountEstimator(engine)))
                    .build();
            System.out.println(assistant.answer(args[1]));

            Extractor extractor = AiServices.create(Extractor.class, model);
            System.out.println(extractor.animalIn(args[1]));
        }
    }

    // Before:
    // OllamaChatModel.builder().baseUrl("http://localhost:11434").modelName("llama3.2").temperature(0.0).build()
    private static ChatModel model(Engine engine) {
        return KvfoldChatModel.builder()
                .engine(engine)
                .temperature(0.0)
                .maxOutputTokens(256)
                .build();
    }
}
