package io.kvfold.cli;

import io.kvfold.hub.ModelName;
import io.kvfold.hub.Models;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.PrintWriter;
import java.util.List;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.TypeConversionException;

/** Asks a person which model to talk to. */
final class ModelMenu {

    private record Offer(String name, String what) {}

    /** Instruct models of plain architectures, for which every KV plan can be tried; Apache-2.0. */
    private static final List<Offer> OFFERS = List.of(
            new Offer(ModelFile.DEMO_FOLDED.toString(), "comes along; shows the folded cache, knows nothing"),
            new Offer("hf:HuggingFaceTB/SmolLM2-360M-Instruct-GGUF", "about 0.4 GB to fetch"),
            new Offer("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF", "about 0.5 GB to fetch"),
            new Offer("hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF", "about 1.1 GB to fetch"));

    private final Models models;
    private final ModelFile.Converter converter;

    ModelMenu(Models models) {
        this.models = models;
        this.converter = new ModelFile.Converter(() -> models);
    }

    /** The choice; null if the input ended. Only what is chosen is fetched, and only when it is opened. */
    @Nullable
    ModelFile ask(BufferedReader in, PrintWriter out) throws IOException {
        out.println("No --model was given. Which one?");
        for (int i = 0; i < OFFERS.size(); i++) {
            Offer offer = OFFERS.get(i);
            boolean cached = ModelName.isName(offer.name())
                    && models.cached(ModelName.parse(offer.name())).isPresent();
            out.println(
                    Values.format("  %d  %-46s %s", i + 1, offer.name(), cached ? "fetched already" : offer.what()));
        }
        while (true) {
            out.print("Number, name or file [1]: ");
            out.flush();
            String line = in.readLine();
            if (line == null) {
                return null;
            }
            String text = line.strip();
            try {
                return converter.convert(choice(text));
            } catch (TypeConversionException e) {
                out.println(e.getMessage());
            }
        }
    }

    private static String choice(String text) {
        if (text.isEmpty()) {
            return OFFERS.get(0).name();
        }
        if (!text.matches("\\d{1,9}")) {
            return text;
        }
        int number = Integer.parseInt(text);
        if (number < 1 || number > OFFERS.size()) {
            throw new TypeConversionException("There are 1 to " + OFFERS.size() + ", not " + number + ".");
        }
        return OFFERS.get(number - 1).name();
    }
}
