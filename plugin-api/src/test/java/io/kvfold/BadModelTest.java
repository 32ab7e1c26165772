package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import io.kvfold.gguf.GgufFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Files that are no model, opened with the built library. */
@Timeout(300)
class BadModelTest {

    @TempDir
    static Path directory;

    private static Path model;

    @BeforeAll
    static void writeModel() throws Exception {
        RealLibrary.require();
        model = TinyModel.write(directory.resolve("tiny.gguf"), 1);
    }

    @Test
    void namesTheFileThatIsMissing() {
        Path missing = directory.resolve("no such größe.gguf");
        assertThatThrownBy(() -> Engine.open(missing))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining(missing.toString());
    }

    @Test
    void refusesADirectory() {
        assertThatThrownBy(() -> Engine.open(directory))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining(directory.toString());
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "GG", "GGUF", "this is a text and not a model"})
    void refusesAFileThatIsNoGguf(String content) throws IOException {
        Path file = Files.writeString(directory.resolve("text.gguf"), content);
        assertThatThrownBy(() -> Engine.open(file))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("text.gguf");
    }

    @Test
    void refusesAFileThatWasTruncatedAnywhere() throws IOException {
        byte[] whole = Files.readAllBytes(model);
        Random random = new Random(3);
        for (int i = 0; i < 50; i++) {
            int length = i == 0 ? whole.length - 1 : random.nextInt(whole.length);
            Path file = Files.write(directory.resolve("truncated.gguf"), Arrays.copyOf(whole, length));
            assertThatThrownBy(() -> Engine.open(file))
                    .as("%d of %d bytes", length, whole.length)
                    .isInstanceOf(InvalidModelException.class);
        }
    }

    @Test
    void survivesAThousandMutationsOfAHeader() {
        String output = new ForkedJvm()
                .withRealLibrary()
                .within(Duration.ofMinutes(4))
                .run(
                        Mutating.class,
                        model.toString(),
                        directory.resolve("mutant.gguf").toString(),
                        "1000")
                .outputOfSuccess();
        System.out.println(output.strip());
        assertThat(output).contains("still alive");
    }

    /** Overwrites one to four bytes before the tensor data, and opens what comes out. */
    static final class Mutating {
        private Mutating() {}

        public static void main(String[] args) throws IOException {
            Path model = Path.of(args[0]);
            Path mutant = Path.of(args[1]);
            byte[] whole = Files.readAllBytes(model);
            int header = (int) GgufFile.open(model).dataOffset();
            Random random = new Random(20240521);
            Map<String, Integer> outcomes = new TreeMap<>();
            for (int i = 0; i < Integer.parseInt(args[2]); i++) {
                byte[] bytes = whole.clone();
                for (int n = 1 + random.nextInt(4); n > 0; n--) {
                    // half of the changes hit counts, lengths and types, which lie near the start of a GGUF file
                    int place = random.nextInt(random.nextBoolean() ? 512 : header);
                    bytes[place] =
                            (byte) (random.nextBoolean() ? random.nextInt(256) : bytes[place] ^ 1 << random.nextInt(8));
                }
                Files.write(mutant, bytes);
                outcomes.merge(outcome(mutant), 1, Integer::sum);
            }
            System.out.println(outcomes);
            if (!outcome(model).equals("answered")) {
                throw new AssertionError("the unchanged model no longer answers");
            }
            System.out.println("still alive");
        }

        private static String outcome(Path model) {
            try (Engine engine = Engine.builder()
                    .model(model)
                    .contextSize(256)
                    .slots(1)
                    .threads(1)
                    .open()) {
                engine.call(
                        "/completion",
                        JsonNodeFactory.instance.objectNode().put("prompt", "a").put("n_predict", 2));
                return "answered";
            } catch (KvfoldException e) {
                if (String.valueOf(e.getMessage()).isBlank()) {
                    throw new AssertionError("no message", e);
                }
                return e.getClass().getSimpleName();
            }
        }
    }
}
