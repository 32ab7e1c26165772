package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.kvfold.KvPlan;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The reference itself, against vectors of the authors' code of LCKV (with its decoding corrected). */
final class GoldenReferenceTest {
    @ParameterizedTest
    @CsvSource({
        "llama, 0_1_2_3_4_5_6_7",
        "cla2, 0_0_2_2_4_4_6_6",
        "lckv_w2, 0_6x6_7",
        "lckv_w2_nodiag, 0_6x6_7;strict",
        "yoco_sw8, 0s_1s_2s_3s_4_4_4_4;window=9", // made with flash attention: the window is one wider
    })
    void theReferenceGivesTheGoldenLogits(String name, String plan) throws IOException {
        Path folder = Golden.folder(name);
        assumeTrue(Files.isDirectory(folder), "NOT compared with golden vectors: there is no folder " + folder);
        Golden golden = Golden.read(folder);
        ReferenceModel model = golden.model(KvPlan.parse(plan));
        int[] tokens = golden.tokens();

        double sequential =
                LogitDifference.greatest(model.sequential(tokens), golden.expectedRows("logits_exact_sequential"));
        double one = LogitDifference.greatest(
                inChunks(model, tokens, 32), golden.expectedRows("logits_prefill32_iter9_then_decode8"));
        double two = LogitDifference.greatest(
                inChunks(model, tokens, 16, 16), golden.expectedRows("logits_prefill16x2_iter9_then_decode8"));

        System.out.printf("golden %-14s sequential %.1e, 32 %.1e, 16+16 %.1e%n", name, sequential, one, two);
        assertThat(sequential).isLessThan(1e-4);
        assertThat(one).isLessThan(1e-4);
        assertThat(two).isLessThan(1e-4);
    }

    /** The given chunks with 9 passes each, then the rest token by token. */
    private static double[][] inChunks(ReferenceModel model, int[] tokens, int... chunks) {
        ReferenceModel.Sequence sequence = model.newSequence();
        List<double[]> logits = new ArrayList<>();
        for (int chunk : chunks) {
            int from = logits.size();
            logits.addAll(Arrays.asList(sequence.append(9, Arrays.copyOfRange(tokens, from, from + chunk))));
        }
        while (logits.size() < tokens.length) {
            logits.addAll(Arrays.asList(sequence.append(1, tokens[logits.size()])));
        }
        return logits.toArray(double[][]::new);
    }
}
