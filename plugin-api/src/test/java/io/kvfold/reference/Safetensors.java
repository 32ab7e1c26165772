package io.kvfold.reference;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

/** The float32 and integer tensors of a safetensors file, as floats. Of golden vectors only: it trusts the file. */
final class Safetensors {
    private Safetensors() {}

    static Map<String, float[]> read(Path file) throws IOException {
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
        int header = Math.toIntExact(bytes.getLong(0));
        JsonNode tensors = new ObjectMapper().readTree(bytes.array(), 8, header);
        Map<String, float[]> values = new HashMap<>();
        for (Map.Entry<String, JsonNode> tensor : tensors.properties()) {
            if (tensor.getKey().equals("__metadata__")) {
                continue;
            }
            int from = 8 + header + tensor.getValue().at("/data_offsets/0").intValue();
            int to = 8 + header + tensor.getValue().at("/data_offsets/1").intValue();
            ByteBuffer data = bytes.slice(from, to - from).order(ByteOrder.LITTLE_ENDIAN);
            String type = tensor.getValue().get("dtype").textValue();
            int width = switch (type) {
                case "F32", "I32" -> 4;
                case "I64" -> 8;
                default -> throw new IOException(file + ": " + tensor.getKey() + " has the type " + type);
            };
            float[] value = new float[data.capacity() / width];
            for (int k = 0; k < value.length; k++) {
                value[k] = switch (type) {
                    case "F32" -> data.getFloat(k * width);
                    case "I32" -> data.getInt(k * width);
                    default -> data.getLong(k * width);
                };
            }
            values.put(tensor.getKey(), value);
        }
        return values;
    }
}
