package io.kvfold.cli;

import io.kvfold.NativeLibrary;
import java.io.PrintWriter;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code kvfold rpc-server}. */
@Command(
        name = "rpc-server",
        header = "Lends this host's GPU or CPU to a model on another host.",
        description = {
            "",
            "A command with --rpc there keeps layers of its model, with their keys and values, in the memory of this process"
                    + " and computes them here. It serves one model after the other. Both sides must be of the same"
                    + " version. Ctrl-C ends it.",
            "",
            "Nothing is encrypted and nobody is asked for a key: whoever reaches the port can use this process. For"
                    + " private networks only.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold rpc-server --host 192.168.0.2",
            "  kvfold chat -m model.gguf --rpc 192.168.0.2:50052,192.168.0.3:50052"
        })
final class RpcServerCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Option(
            names = "--host",
            paramLabel = "ADDRESS",
            description = "The address to listen on. Default: 127.0.0.1, which only this machine can reach.")
    private String host = "127.0.0.1";

    @Option(names = "--port", paramLabel = "N", description = "The port. Default: 50052.")
    private int port = 50052;

    @Option(
            names = {"-t", "--threads"},
            paramLabel = "N",
            description = "Threads that compute, if there is no GPU. Default: one per physical core.")
    private @Nullable Integer threads;

    @Override
    public Integer call() {
        PrintWriter out = spec.commandLine().getOut();
        out.println("serving " + host + ":" + port);
        out.flush();
        NativeLibrary.serveRpc(host, port, threads);
        return ExitCode.OK;
    }
}
