package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Layers on other hosts: two server processes on loopback. */
class RpcServersTest {

    private static final int LAYERS = 8;

    @TempDir
    static Path directory;

    private static Path model;
    private static Server first;
    private static Server second;

    private final List<Server> servers = new ArrayList<>();

    /** A process that lends its CPU. */
    private record Server(Process process, String address) {}

    @BeforeAll
    static void writeModel() throws Exception {
        RealLibrary.require();
        model = TinyModel.write(directory.resolve("tiny.gguf"), 1, LAYERS);
        first = startServer(freePort());
        second = startServer(freePort());
    }

    @AfterAll
    static void stopSharedServers() throws Exception {
        stop(Stream.of(first, second).filter(Objects::nonNull).toList());
    }

    @AfterEach
    void stopServers() throws Exception {
        stop(servers);
    }

    private static void stop(List<Server> servers) throws InterruptedException {
        for (Server server : servers) {
            server.process().destroyForcibly().waitFor();
        }
    }

    /** Arguments: a port. */
    static final class Serving {
        private Serving() {}

        public static void main(String[] args) {
            NativeLibrary.serveRpc("127.0.0.1", Integer.parseInt(args[0]), 1);
        }
    }

    private static int freePort() throws IOException {
        try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            return socket.getLocalPort();
        }
    }

    private static Server startServer(int port) throws Exception {
        Process process = new ForkedJvm().withRealLibrary().start(Serving.class, String.valueOf(port));
        while (!listens(port)) {
            assertThat(process.isAlive()).as("the server runs").isTrue();
            Thread.sleep(20);
        }
        return new Server(process, "127.0.0.1:" + port);
    }

    private Server startServerOfThisTest(int port) throws Exception {
        Server server = startServer(port);
        servers.add(server);
        return server;
    }

    private static boolean listens(int port) {
        try (Socket socket = new Socket()) {
            socket.connect(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 1000);
            return true;
        } catch (IOException e) {
            return false;
        }
    }

    private static Engine.Builder builder(String plan) {
        return Engine.builder()
                .model(model)
                .contextSize(1024)
                .slots(1)
                .threads(1)
                .flashAttention(FlashAttention.OFF)
                .kvPlan(KvPlan.parse(plan, LAYERS));
    }

    private static float[] logits(Engine engine) {
        int[] tokens = IntStream.range(0, 40).map(i -> 3 + i * 7 % 50).toArray();
        Logits logits = engine.evaluate(tokens);
        float[] values = new float[tokens.length * logits.vocabularySize()];
        for (int i = 0; i < tokens.length; i++) {
            logits.row(i).get(values, i * logits.vocabularySize(), logits.vocabularySize());
        }
        return values;
    }

    private static Set<String> devices(Engine engine) {
        return engine.info().offload().buffers().stream()
                .map(EngineInfo.Buffers::device)
                .collect(Collectors.toSet());
    }

    @ParameterizedTest
    @ValueSource(strings = {"standard", "cla:2", "lckv:2", "sandwich-middle:3", "0_6_6_1_4_4_7_7", "streaming:16"})
    void computesTheSameWithLayersOnTwoHosts(String plan) throws Exception {
        float[] expected;
        try (Engine here = builder(plan).open()) {
            expected = logits(here);
        }
        // six of the eight layers and the output leave this process: readers and producers are on three devices
        try (Engine split = builder(plan)
                .rpcServers(first.address(), second.address())
                .gpuLayers(7)
                .open()) {
            assertThat(devices(split))
                    .anyMatch(name -> name.contains(first.address()))
                    .anyMatch(name -> name.contains(second.address()));
            assertThat(split.info().offload().layersOffloaded()).isEqualTo(6);
            assertThat(logits(split)).containsExactly(expected, within(1e-4f));
        }
    }

    @Test
    void leavesOtherEnginesOfTheProcessAlone() throws Exception {
        Server server = startServerOfThisTest(freePort());
        try (Engine remote = builder("standard").rpcServers(server.address()).open();
                Engine local = builder("standard").open()) {
            assertThat(devices(remote)).anyMatch(name -> name.contains(server.address()));
            assertThat(devices(local)).noneMatch(name -> name.contains(server.address()));
        }
        server.process().destroyForcibly().waitFor();
        try (Engine local = builder("standard").open()) {
            assertThat(logits(local)).isNotEmpty();
        }
        assertThat(NativeLibrary.info().devices())
                .noneMatch(device -> device.description().contains(server.address()));
    }

    @Test
    void saysWhenAServerDoesNotAnswer() throws Exception {
        String address = "127.0.0.1:" + freePort();
        assertThatThrownBy(() -> builder("standard").rpcServers(address).open())
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining(address);
    }

    @Test
    void failsTheRequestAndLivesOnWhenAServerGoesAway() throws Exception {
        int port = freePort();
        Server server = startServerOfThisTest(port);
        ObjectNode body = JsonNodeFactory.instance
                .objectNode()
                .put("prompt", "once upon a time")
                .put("n_predict", 900)
                .put("ignore_eos", true)
                .put("stream", true);
        try (Engine engine = builder("cla:2").rpcServers(server.address()).open()) {
            try (Generation generation = engine.complete(body)) {
                assertThat(generation.next()).isNotNull();
                server.process().destroyForcibly().waitFor();
                assertThatThrownBy(() -> {
                            while (generation.next() != null) {}
                        })
                        .isInstanceOf(KvfoldException.class);
            }
            assertThatThrownBy(() -> engine.call("/completion", body.deepCopy().put("stream", false)))
                    .isInstanceOf(KvfoldException.class);
        }
        assertThatThrownBy(() -> builder("cla:2").rpcServers(server.address()).open())
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining(server.address());
        startServerOfThisTest(port);
        try (Engine again = builder("cla:2").rpcServers(server.address()).open()) {
            assertThat(logits(again)).isNotEmpty();
        }
    }

    @Test
    void saysWhenItCannotListen() throws Exception {
        try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            assertThatThrownBy(() -> NativeLibrary.serveRpc("127.0.0.1", socket.getLocalPort(), 1))
                    .isInstanceOf(ServerAddressException.class)
                    .hasMessageContaining(String.valueOf(socket.getLocalPort()));
        }
        assertThatThrownBy(() -> NativeLibrary.serveRpc("127.0.0.1", 70000, 1))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("70000")
                .hasMessageContaining("65535");
    }
}
