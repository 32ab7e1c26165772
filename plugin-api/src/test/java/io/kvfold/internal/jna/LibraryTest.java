package io.kvfold.internal.jna;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.jna.Pointer;
import com.sun.jna.ptr.PointerByReference;
import io.kvfold.RealLibrary;
import io.kvfold.internal.NativeStatus;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/** The header, the Java mapping and the built library declare the same functions. */
class LibraryTest {

    private static final Map<Class<?>, Set<String>> C_TYPES = Map.ofEntries(
            Map.entry(void.class, Set.of("void")),
            Map.entry(int.class, Set.of("int32_t")),
            Map.entry(long.class, Set.of("size_t")),
            Map.entry(byte[].class, Set.of("char*")),
            Map.entry(int[].class, Set.of("int32_t*")),
            Map.entry(FloatBuffer.class, Set.of("float*")),
            Map.entry(Pointer.class, Set.of("char*", "void*", "kvfold_engine*", "kvfold_request*", "kvfold_server*")),
            Map.entry(
                    PointerByReference.class,
                    Set.of("char**", "kvfold_engine**", "kvfold_request**", "kvfold_server**")),
            Map.entry(Library.LogCallback.class, Set.of("kvfold_log_callback")),
            Map.entry(Library.ProgressCallback.class, Set.of("kvfold_progress_callback")),
            Map.entry(Library.LogitsCallback.class, Set.of("kvfold_logits_callback")));

    private final Header header = new Header();

    @Test
    void mapsEveryFunctionOfTheHeaderAndNoOther() {
        Set<String> declared =
                header.functions().stream().map(Header.Function::name).collect(Collectors.toCollection(TreeSet::new));
        assertThat(declared).hasSizeGreaterThan(10);
        assertThat(names(List.of(Library.class.getDeclaredMethods()))).isEqualTo(declared);
        assertThat(names(bound())).isEqualTo(declared);
    }

    @Test
    void mapsEveryParameterToItsType() {
        Map<String, Header.Function> declared =
                header.functions().stream().collect(Collectors.toMap(Header.Function::name, Function.identity()));
        assertThat(bound()).allSatisfy(method -> {
            Header.Function function = declared.get(method.getName());
            assertThat(function).isNotNull();
            assertThat(C_TYPES.get(method.getReturnType())).contains(function.result());
            Class<?>[] parameters = method.getParameterTypes();
            assertThat(parameters).hasSameSizeAs(function.parameters());
            for (int i = 0; i < parameters.length; i++) {
                assertThat(C_TYPES.get(parameters[i]))
                        .contains(function.parameters().get(i));
            }
        });
    }

    @Test
    void hasTheAbiNumberOfTheHeader() {
        assertThat(Library.ABI_VERSION).isEqualTo(header.abiVersion());
    }

    @Test
    void hasTheStatusesAndLogLevelsOfTheHeader() throws IllegalAccessException {
        Map<String, Integer> statuses = new TreeMap<>();
        for (Field field : NativeStatus.class.getDeclaredFields()) {
            if (Modifier.isPublic(field.getModifiers())) {
                statuses.put(field.getName(), field.getInt(null));
            }
        }
        Map<String, Integer> declared = new TreeMap<>(header.constants("KVFOLD_ERROR_"));
        Map<String, Integer> expected = new TreeMap<>();
        declared.forEach((name, number) -> expected.put("ERROR_" + name, number));
        expected.putAll(header.constants("KVFOLD_(?=OK|DONE)"));
        assertThat(statuses).isEqualTo(expected);

        Map<String, Integer> levels = new TreeMap<>();
        for (NativeLog.NativeLevel level : NativeLog.NativeLevel.values()) {
            levels.put(level.name(), level.number);
        }
        assertThat(levels).isEqualTo(header.constants("KVFOLD_LOG_"));
    }

    @Test
    void findsExactlyTheseFunctionsInTheBuiltLibrary() throws Exception {
        Process nm = new ProcessBuilder(
                        "nm", "-D", "--defined-only", RealLibrary.file().toString())
                .redirectErrorStream(true)
                .start();
        String output = new String(nm.getInputStream().readAllBytes(), java.nio.charset.StandardCharsets.UTF_8);
        assertThat(nm.waitFor()).as(output).isZero();
        Set<String> exported = output.lines()
                .map(line -> line.substring(line.lastIndexOf(' ') + 1))
                .collect(Collectors.toCollection(TreeSet::new));
        assertThat(exported).isEqualTo(names(bound()));
    }

    private static List<Method> bound() {
        Class<?> functions = Arrays.stream(DirectLibrary.class.getDeclaredClasses())
                .filter(c -> c.getSimpleName().equals("Functions"))
                .findFirst()
                .orElseThrow();
        return Arrays.stream(functions.getDeclaredMethods())
                .filter(method -> Modifier.isNative(method.getModifiers()))
                .toList();
    }

    private static Set<String> names(List<Method> methods) {
        return methods.stream()
                .filter(method -> !method.isSynthetic())
                .map(Method::getName)
                .collect(Collectors.toCollection(TreeSet::new));
    }
}
