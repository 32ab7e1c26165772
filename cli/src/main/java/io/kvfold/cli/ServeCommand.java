package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.EngineServer;
import java.io.PrintWriter;
import java.net.URI;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code kvfold serve}. */
@Command(
        name = "serve",
        header = "Serves a model over HTTP, to any client of OpenAI's API.",
        description = {
            "",
            "The routes are llama-server's: chat completions with streaming and tools, completions, responses, embeddings"
                    + " (--option embeddings), models, Anthropic's messages. Prompts that begin alike share what is in the"
                    + " KV cache. On this machine alone it answers only under its names (localhost) and to pages of it."
                    + " Ctrl-C ends it.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold serve",
            "  kvfold serve -m model.gguf --ctx 32768 --slots 4",
            "  kvfold serve -m model.gguf --port 0 --api-key-file keys.txt",
            "  curl http://127.0.0.1:8080/v1/chat/completions \\",
            "      -H 'Content-Type: application/json' \\",
            "      -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}'"
        })
final class ServeCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private EngineOptions engineOptions;

    @Mixin
    private final ContextOption context = new ContextOption();

    @Option(
            names = "--slots",
            paramLabel = "N",
            description = "Requests that are computed side by side. Default: ${DEFAULT-VALUE}.")
    private int slots = 4;

    @Option(
            names = "--host",
            paramLabel = "ADDRESS",
            description = "The address to listen on. Default: 127.0.0.1, which only this machine can reach.")
    private @Nullable String host;

    @Option(names = "--port", paramLabel = "N", description = "The port; 0 takes any that is free. Default: 8080.")
    private int port = 8080;

    @ArgGroup
    private @Nullable Keys keys;

    @Option(
            names = "--cors-origins",
            paramLabel = "ORIGINS",
            description = "Pages that may send requests from a browser. Default: those of this machine.")
    private @Nullable String corsOrigins;

    /** Who is let in. */
    private static final class Keys {
        @Option(names = "--api-key", paramLabel = "KEY", description = "A key that requests must bring.")
        private @Nullable String key;

        @Option(
                names = "--api-key-file",
                paramLabel = "FILE",
                description = "A file with such keys, one per line. Others on this machine cannot read it off the"
                        + " command line.")
        private @Nullable Path file;
    }

    @Override
    public Integer call() throws InterruptedException {
        try (Engine engine = engineOptions.open(context.size, slots);
                EngineServer server = start(engine)) {
            PrintWriter out = spec.commandLine().getOut();
            for (URI address : server.addresses()) {
                out.println("listening on " + address);
            }
            out.flush();
            new CountDownLatch(1).await(); // a signal ends the process, which closes the server
        }
        return ExitCode.OK;
    }

    private EngineServer start(Engine engine) {
        EngineServer.Builder builder = engine.server().port(port);
        if (host != null) {
            builder.host(host);
        }
        if (corsOrigins != null) {
            builder.option("cors-origins", corsOrigins);
        }
        if (keys != null && keys.key != null) {
            builder.apiKey(keys.key);
        } else if (keys != null && keys.file != null) {
            builder.option("api-key-file", keys.file.toString());
        } else if (host != null && !isLoopback(host)) {
            PrintWriter err = spec.commandLine().getErr();
            err.println("kvfold: whoever can reach " + host + " can use this model: there is no --api-key");
        }
        return builder.start();
    }

    private static boolean isLoopback(String host) {
        return host.startsWith("127.") || host.equals("localhost") || host.equals("::1") || host.endsWith(".sock");
    }
}
