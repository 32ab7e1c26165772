package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThatExceptionOfType;

import io.kvfold.Engine;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import java.nio.file.Path;

/** A plan that neither Java's parser nor that of the library takes. */
final class RefusedPlan {

    private RefusedPlan() {}

    /** Both name the reason. */
    static void check(Path file, int layers, String text, String why) {
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> KvPlan.parse(text, layers))
                .withMessageContaining(why);
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> Engine.builder()
                        .model(file)
                        .slots(1)
                        .threads(1)
                        .option("kv-plan", text)
                        .open()
                        .close())
                .withMessageContaining(why);
    }
}
