package io.kvfold.javallama;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import de.kherud.llama.ModelParameters;
import de.kherud.llama.args.CacheType;
import de.kherud.llama.args.PoolingType;
import io.kvfold.EngineOption;
import io.kvfold.InvalidRequestException;
import io.kvfold.NativeLibrary;
import io.kvfold.RealLibrary;
import io.kvfold.ScriptedEngine;
import io.kvfold.UnknownOptionException;
import io.kvfold.UnsupportedOperationByModelException;
import io.kvfold.hub.LocalHub;
import io.kvfold.hub.Models;
import java.lang.reflect.Method;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

class ModelOptionsTest {

    /** Refused by the engine itself, with its own reason. */
    private static final Set<String> REFUSED_BY_ENGINE = Set.of("log-file", "model-url");

    private static JsonNode opened(ModelParameters parameters) {
        ScriptedEngine scripted = ScriptedEngine.answering();
        new ModelOptions(parameters)
                .addTo(scripted.builder().model(java.nio.file.Path.of("default.gguf")))
                .open()
                .close();
        return scripted.openedWith().get(0);
    }

    private static ModelParameters parameters() {
        return new ModelParameters();
    }

    /** Parameters after a call of each setter of ModelParameters, by the argument that it adds. */
    private static Map<String, ModelParameters> settings() {
        Map<String, ModelParameters> settings = new TreeMap<>();
        for (Method setter : ModelParameters.class.getMethods()) {
            if (setter.getReturnType() == ModelParameters.class) {
                ModelParameters parameters = set(setter);
                settings.put(parameters.toArray()[1].substring("--".length()), parameters);
            }
        }
        return settings;
    }

    private static ModelParameters set(Method setter) {
        Object[] values = Arrays.stream(setter.getParameterTypes())
                .map(ModelOptionsTest::someValue)
                .toArray();
        try {
            ModelParameters parameters = parameters();
            setter.invoke(parameters, values);
            return parameters;
        } catch (ReflectiveOperationException e) {
            throw new AssertionError(setter.toString(), e);
        }
    }

    private static Object someValue(Class<?> type) {
        if (type.isArray()) {
            Object array = java.lang.reflect.Array.newInstance(type.getComponentType(), 1);
            java.lang.reflect.Array.set(array, 0, someValue(type.getComponentType()));
            return array;
        }
        if (type.isEnum()) {
            return type.getEnumConstants()[type.getEnumConstants().length - 1];
        }
        return type == int.class ? (Object) 1 : type == long.class ? 1L : type == float.class ? 0.5f : "text";
    }

    @Test
    void knowsWhichArgumentsHaveNoValue() {
        Set<String> flags = new TreeSet<>();
        settings().forEach((argument, parameters) -> {
            if (parameters.toArray().length == 2) {
                flags.add(argument);
            }
        });
        assertThat(flags).isEqualTo(new TreeSet<>(ModelOptions.FLAGS));
    }

    static Stream<Arguments> arguments() {
        return settings().entrySet().stream().map(entry -> Arguments.of(entry.getKey(), entry.getValue()));
    }

    @ParameterizedTest
    @MethodSource("arguments")
    void makesOfEveryArgumentAnOptionOrRefusesIt(String argument, ModelParameters parameters) {
        RealLibrary.require();
        if (ModelOptions.REMOVED.contains(argument)) {
            assertThatThrownBy(() -> opened(parameters))
                    .isInstanceOf(UnknownOptionException.class)
                    .hasMessageContaining('"' + argument + '"');
            return;
        }
        if (argument.equals("log-file")) {
            assertThatThrownBy(() -> opened(parameters))
                    .isInstanceOf(UnsupportedOperationByModelException.class)
                    .hasMessageContaining("\"log-file\"");
            return;
        }
        if (argument.equals("hf-repo")) {
            assertThatThrownBy(() -> opened(parameters))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("'hf:text' is not the name of a model");
            return;
        }
        Set<String> known = new TreeSet<>();
        for (EngineOption option : NativeLibrary.options()) {
            known.addAll(option.names());
            known.addAll(option.negated());
        }
        JsonNode options = opened(parameters);
        for (Map.Entry<String, JsonNode> option : options.properties()) {
            assertThat(known.contains(option.getKey()) || REFUSED_BY_ENGINE.contains(option.getKey()))
                    .as(option.getKey())
                    .isTrue();
        }
    }

    @Test
    void hasTheDefaultsOfJavaLlama() {
        JsonNode options = opened(parameters().setModel("a.gguf"));
        assertThat(options.path("model").asText()).isEqualTo("a.gguf");
        assertThat(options.path("parallel").asText()).isEqualTo("1");
        assertThat(options.has("ctx-size")).isFalse();
        assertThat(options.path("context-shift").asBoolean()).isTrue();
    }

    @Test
    void passesOnWhatHasKeptItsName() {
        JsonNode options = opened(parameters()
                .setCtxSize(128)
                .setParallel(3)
                .disableContextShift()
                .setCacheTypeK(CacheType.Q8_0)
                .setPoolingType(PoolingType.MEAN)
                .setGrammar("--")
                .setTemp(-0.5f)
                .enableEmbedding());
        assertThat(options.path("ctx-size").asText()).isEqualTo("128");
        assertThat(options.path("parallel").asText()).isEqualTo("3");
        assertThat(options.path("kv-unified-per-slot").asText()).isEqualTo("42");
        assertThat(options.path("context-shift").asBoolean(true)).isFalse();
        assertThat(options.path("cache-type-k").asText()).isEqualTo("q8_0");
        assertThat(options.path("pooling").asText()).isEqualTo("mean");
        assertThat(options.path("grammar").asText()).isEqualTo("--");
        assertThat(options.path("temp").asText()).isEqualTo("-0.5");
        assertThat(options.path("embedding").asBoolean()).isTrue();
    }

    @Test
    void translatesWhatHasBeenRenamed() {
        assertThat(opened(parameters().enableFlashAttn()).path("flash-attn").asText())
                .isEqualTo("on");
        assertThat(opened(parameters().enableMlock()).path("load-mode").asText())
                .isEqualTo("mmap+mlock");
        assertThat(opened(parameters().disableMmap()).path("load-mode").asText())
                .isEqualTo("none");
        assertThat(opened(parameters().disableMmap().enableMlock())
                        .path("load-mode")
                        .asText())
                .isEqualTo("mlock");
        assertThat(opened(parameters().addLoraScaledAdapter("a,b.gguf", 0.5f))
                        .path("lora-scaled")
                        .asText())
                .isEqualTo("a,b.gguf:0.5");
        assertThat(opened(parameters().setControlVectorLayerRange(1, 3))
                        .path("control-vector-layer-range")
                        .toString())
                .isEqualTo("[\"1\",\"3\"]");
        JsonNode draft =
                opened(parameters().setModelDraft("d.gguf").setDraftMax(5).setDraftMin(1));
        assertThat(draft.path("model-draft").asText()).isEqualTo("d.gguf");
        assertThat(draft.path("spec-type").asText()).isEqualTo("draft-simple");
        assertThat(draft.path("spec-draft-n-max").asText()).isEqualTo("5");
        assertThat(draft.path("spec-draft-n-min").asText()).isEqualTo("1");
    }

    @Test
    void takesAModelFromAHub(@TempDir Path cache) {
        try (LocalHub hub = LocalHub.start()) {
            hub.put("a/b", "m-Q8_0.gguf", new byte[10]).put("a/b", "m-F16.gguf", new byte[20]);
            hub.restrict("a/b", "hf_token", true);
            List<ModelParameters> all = List.of(
                    parameters().setModel("hf:a/b:Q8_0").setHfToken("hf_token"),
                    parameters().setHfRepo("a/b:Q8_0").setHfToken("hf_token"),
                    parameters().setHfRepo("a/b").setHfFile("m-F16.gguf").setHfToken("hf_token"));
            List<String> files = new ArrayList<>();
            for (ModelParameters parameters : all) {
                Models.Builder models =
                        Models.builder().endpoint(hub.endpoint()).cacheDirectory(cache);
                ScriptedEngine scripted = ScriptedEngine.answering();
                new ModelOptions(parameters, models)
                        .addTo(scripted.builder())
                        .open()
                        .close();
                JsonNode options = scripted.openedWith().get(0);
                assertThat(options.has("hf-repo") || options.has("hf-token")).isFalse();
                files.add(Path.of(options.path("model").asText()).getFileName().toString());
            }
            assertThat(files).containsExactly("m-Q8_0.gguf", "m-Q8_0.gguf", "m-F16.gguf");
        }
    }
}
