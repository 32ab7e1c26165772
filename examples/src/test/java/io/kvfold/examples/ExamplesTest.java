package io.kvfold.examples;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.kvfold.NativeLibrary;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The examples run on a real model, if a tiny one: what they print has the right shape, and no sense. */
class ExamplesTest {

    private static final Path MODEL = Path.of("../../shared/models/stories260K.gguf");

    @BeforeEach
    void needsAModel() {
        assumeTrue(Files.exists(MODEL), "no real model: " + MODEL + " is missing");
        assumeTrue(NativeLibrary.isAvailable(), () -> "no native library: " + NativeLibrary.unavailabilityCause());
    }

    @Test
    void streamsAnAnswer() {
        String printed = printedBy(() -> ChatExample.main(new String[] {MODEL.toString(), "Once upon a time"}));

        assertThat(printed).matches("(?s).+\\R\\[\\d+ tokens in, \\d+ out, \\d+ tokens/s, \\d+ KiB of KV cache]\\R");
    }

    @Test
    void runsAiServicesUnchanged() {
        String printed = printedBy(() -> DropInExample.main(new String[] {MODEL.toString(), "A cat sat in the sun."}));

        assertThat(printed).containsPattern("Animal\\[kind=(CAT|DOG|BIRD|null), friendly=(true|false)]");
    }

    private static String printedBy(Runnable program) {
        PrintStream before = System.out;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        try {
            program.run();
        } finally {
            System.setOut(before);
        }
        return printed.toString(StandardCharsets.UTF_8);
    }
}
