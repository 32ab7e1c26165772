package io.kvfold.javallama.programs.original;

import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaModel;
import de.kherud.llama.LlamaOutput;
import de.kherud.llama.ModelParameters;
import de.kherud.llama.Pair;
import de.kherud.llama.args.Sampler;
import java.util.Arrays;
import java.util.List;

/** A program that uses what java-llama.cpp's README shows: {@code Storyteller model.gguf}. */
public final class Storyteller {

    private Storyteller() {}

    public static void main(String[] args) {
        ModelParameters parameters = new ModelParameters()
                .setModel(args[0])
                .setCtxSize(512)
                .setThreads(1)
                .disableLog();
        try (LlamaModel model = new LlamaModel(parameters)) {
            tokens(model);
            story(model);
            conversation(model);
            constrained(model);
            template(model);
        }
        System.out.println("closed");
    }

    private static void tokens(LlamaModel model) {
        int[] tokens = model.encode("Lily went to the park.");
        System.out.println(Arrays.toString(tokens));
        System.out.println(model.decode(tokens));
    }

    private static void story(LlamaModel model) {
        InferenceParameters parameters = new InferenceParameters("Once upon a time")
                .setTemperature(0)
                .setCachePrompt(false)
                .setNPredict(100);
        System.out.println(model.complete(parameters));
        int outputs = 0;
        for (LlamaOutput output : model.generate(parameters)) {
            System.out.print(output);
            outputs++;
        }
        System.out.println();
        System.out.println(outputs + " outputs");
    }

    private static void conversation(LlamaModel model) {
        String prompt = "Tom and Mia talk.\n";
        for (String line : List.of("Tom: I have a red ball.", "Tom: Let us play.")) {
            prompt += line + "\nMia:";
            InferenceParameters parameters = new InferenceParameters(prompt)
                    .setTemperature(0)
                    .setCachePrompt(false)
                    .setPenalizeNl(true)
                    .setRepeatPenalty(1.1f)
                    .setStopStrings(".", "Tom:")
                    .setNPredict(40);
            StringBuilder answer = new StringBuilder();
            for (LlamaOutput output : model.generate(parameters)) {
                answer.append(output.text);
            }
            System.out.println("Mia:" + answer);
            prompt += answer + ".\n";
        }
    }

    private static void constrained(LlamaModel model) {
        InferenceParameters parameters = new InferenceParameters("The answer is ")
                .setGrammar("root ::= (\"yes\" | \"no\") \" \" [a-z]+")
                .setSamplers(Sampler.TOP_K)
                .setTopK(1)
                .setSeed(42)
                .setNPredict(12);
        System.out.println(model.complete(parameters));
    }

    private static void template(LlamaModel model) {
        List<Pair<String, String>> messages = List.of(
                new Pair<>("user", "Who are you?"),
                new Pair<>("assistant", "A \"story\" teller."),
                new Pair<>("user", "Tell one."));
        System.out.println(model.applyTemplate(new InferenceParameters("").setMessages("Be kind.", messages)));
    }
}
