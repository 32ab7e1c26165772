package io.kvfold.convert;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.InvalidModelException;
import io.kvfold.convert.ModelFolder.Tensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class SafetensorsTest {

    @TempDir
    Path folder;

    @ParameterizedTest
    @ValueSource(strings = {"F32", "F16", "BF16"})
    void readsRowsOfEveryType(String type) throws IOException {
        float[] values = {0, 1, -2, 0.5f, 3, 96};
        write(ModelFolder.safetensors(Map.of("a", new Tensor(type, new long[] {2, 3}, values))));

        Safetensors.Tensor tensor = Safetensors.open(folder).find("a");
        assertThat(tensor).isNotNull();
        float[] row = new float[3];
        new Safetensors.Rows(tensor).read(1, row);

        assertThat(row).containsExactly(0.5f, 3, 96);
        assertThat(tensor.rows()).isEqualTo(2);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   | truncated, tensor a ends at byte 8",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,2]}}   | has 2 bytes, expected 4",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}   | ends at byte 0",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}  | shape [-1]",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807,9],\"data_offsets\":[0,4]}} | has the shape",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}     | needs dtype, shape and data_offsets",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1e99]}} | needs dtype, shape and data_offsets",
                "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[2,4]}} | overlaps",
                "{\"a\":1,\"a\":2} | Duplicate field",
                "[1]           | not a JSON object",
                "{\"a\":       | Unexpected end-of-input"
            })
    void rejectsAHeaderThatContradictsTheFile(String header, String message) throws IOException {
        byte[] json = header.getBytes(StandardCharsets.UTF_8);
        write(ByteBuffer.allocate(8 + json.length + 4)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(json.length)
                .put(json)
                .array());

        assertThatThrownBy(() -> Safetensors.open(folder))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining(message);
    }

    @ParameterizedTest
    @ValueSource(longs = {0, 1, 9, 100_000_001, Long.MAX_VALUE, -1})
    void rejectsAHeaderThatIsLongerThanTheFile(long length) throws IOException {
        write(ByteBuffer.allocate(16)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(length)
                .array());

        assertThatThrownBy(() -> Safetensors.open(folder))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("the header has " + Long.toUnsignedString(length) + " bytes");
    }

    @Test
    void survivesRandomMutationsOfAHeader() throws IOException {
        byte[] whole = ModelFolder.safetensors(Map.of(
                "a", new Tensor("F32", new long[] {2, 3}, new float[6]),
                "b", new Tensor("F16", new long[] {4}, new float[4])));
        int headerBytes =
                (int) ByteBuffer.wrap(whole).order(ByteOrder.LITTLE_ENDIAN).getLong() + 8;
        Random random = new Random(7);
        int opened = 0;
        for (int round = 0; round < 2000; round++) {
            byte[] mutated = whole.clone();
            for (int i = 0; i <= random.nextInt(3); i++) {
                mutated[random.nextInt(headerBytes)] = (byte) random.nextInt(256);
            }
            write(round % 10 == 0 ? Arrays.copyOf(mutated, random.nextInt(whole.length)) : mutated);
            try {
                Safetensors.open(folder);
                opened++;
            } catch (InvalidModelException expected) {
                assertThat(expected).hasMessageContaining("safetensors");
            }
        }
        assertThat(opened).isPositive();
    }

    @Test
    void rejectsAnIndexThatLeavesTheFolderOrLies() throws IOException {
        ModelFolder model = ModelFolder.of(folder, "llama");
        model.writeSharded();
        String index = Files.readString(folder.resolve(Safetensors.INDEX_FILE));

        model.file(Safetensors.INDEX_FILE, index.replaceFirst("model-00001-of-00002", "../model-00001-of-00002"));
        assertThatThrownBy(() -> Safetensors.open(folder)).hasMessageContaining("expected the name of a file");
        model.file(Safetensors.INDEX_FILE, index.replaceFirst("model-00001-of-00002", "model-00003-of-00002"));
        assertThatThrownBy(() -> Safetensors.open(folder)).hasMessageContaining("which does not exist");
        model.file(Safetensors.INDEX_FILE, index.replaceFirst("model-00001-of-00002", "model-00002-of-00002"));
        assertThatThrownBy(() -> Safetensors.open(folder)).hasMessageContaining("which does not hold it");
        model.file(Safetensors.INDEX_FILE, "{}");
        assertThatThrownBy(() -> Safetensors.open(folder)).hasMessageContaining("no weight_map");
    }

    @Test
    void saysWhatIsThereInstead() throws IOException {
        assertThatThrownBy(() -> Safetensors.open(folder)).hasMessageContaining("neither model.safetensors nor");
        Files.createFile(folder.resolve("pytorch_model.bin"));
        assertThatThrownBy(() -> Safetensors.open(folder)).hasMessageContaining("only pytorch_model.bin");
    }

    private void write(byte[] bytes) throws IOException {
        Files.write(folder.resolve(Safetensors.SINGLE_FILE), bytes);
    }
}
