package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.hub.Models;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.OutputStreamWriter;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.util.function.Supplier;
import picocli.CommandLine;
import picocli.CommandLine.IFactory;

/** Starts the {@code kvfold} command. */
public final class Main {

    private Main() {}

    public static void main(String... arguments) {
        // Models speak UTF-8, whatever the locale says.
        CommandLine command = commandLine(Engine::builder, Models::fromEnvironment)
                .setOut(new PrintWriter(
                        new OutputStreamWriter(new FileOutputStream(FileDescriptor.out), StandardCharsets.UTF_8)))
                .setErr(new PrintWriter(
                        new OutputStreamWriter(new FileOutputStream(FileDescriptor.err), StandardCharsets.UTF_8),
                        true));
        int exitCode = command.execute(arguments);
        command.getOut().flush();
        System.exit(exitCode);
    }

    /** The whole command, on engines of the given builders and a given hub. */
    static CommandLine commandLine(Supplier<Engine.Builder> builders, Supplier<Models> models) {
        IFactory factory = CommandLine.defaultFactory();
        CommandLine command = new CommandLine(new KvfoldCommand(models), new IFactory() {
            @Override
            public <K> K create(Class<K> type) throws Exception {
                if (type == EngineOptions.class) {
                    return type.cast(new EngineOptions(builders));
                }
                if (type == SubjectOptions.class) {
                    return type.cast(new SubjectOptions(builders));
                }
                if (type == ModelFile.Converter.class) {
                    return type.cast(new ModelFile.Converter(models));
                }
                return factory.create(type);
            }
        });
        Errors errors = new Errors();
        command.setExecutionExceptionHandler(errors)
                .setParameterExceptionHandler(errors)
                .setCaseInsensitiveEnumValuesAllowed(true)
                .setExpandAtFiles(false)
                .setUsageHelpAutoWidth(true);
        describe(command);
        for (CommandLine subcommand : command.getSubcommands().values()) {
            describe(subcommand);
            subcommand.getCommandSpec().usageMessage().abbreviateSynopsis(true);
        }
        return command;
    }

    private static void describe(CommandLine command) {
        command.getCommandSpec()
                .usageMessage()
                .sortOptions(false)
                .exitCodeListHeading("%nExit codes:%n")
                .exitCodeList(ExitCode.help());
    }
}
