package io.kvfold.examples;

import dev.langchain4j.memory.chat.MessageWindowChatMemory;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.service.AiServices;
import dev.langchain4j.service.SystemMessage;
import dev.langchain4j.service.UserMessage;
import dev.langchain4j.service.V;
import io.kvfold.demo.DemoModel;
import io.kvfold.langchain4j.KvfoldChatModel;
import java.nio.file.Path;

/**
 * An application that was written for another model: only {@link #model} knows about Kvfold. Arguments: none, or a GGUF file
 * and a text to look into.
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
        if (args.length != 0 && args.length != 2) {
            throw new IllegalArgumentException("arguments: none, or <model.gguf> <text>");
        }
        Path file = args.length == 0 ? DemoModel.FOLDED.file() : Path.of(args[0]);
        try (KvfoldChatModel model = model(file)) {
            run(model, args.length == 0 ? "A cat sat in the sun." : args[1]);
        }
    }

    /** The application. Nothing here depends on which model it is. */
    static void run(ChatModel model, String text) {
        Assistant assistant = AiServices.builder(Assistant.class)
                .chatModel(model)
                .chatMemory(MessageWindowChatMemory.withMaxMessages(10))
                .build();
        System.out.println(assistant.answer(text));

        Extractor extractor = AiServices.create(Extractor.class, model);
        System.out.println(extractor.animalIn(text));
    }

    // Before:
    // OpenAiChatModel.builder().baseUrl("http://localhost:11434/v1").modelName("llama3.2").temperature(0.0).build()
    private static KvfoldChatModel model(Path file) {
        return KvfoldChatModel.builder()
                .modelPath(file)
                .slots(1)
                .temperature(0.0)
                .maxOutputTokens(256)
                .build();
    }
}
