package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.hub.Models;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.function.Supplier;

/** What one call of the command returned and printed. */
record CommandRun(int exitCode, String out, String err) {

    static CommandRun of(Supplier<Engine.Builder> builders, String... arguments) {
        return of(builders, Models::fromEnvironment, arguments);
    }

    static CommandRun of(Supplier<Engine.Builder> builders, Supplier<Models> models, String... arguments) {
        StringWriter out = new StringWriter();
        StringWriter err = new StringWriter();
        int exitCode = Main.commandLine(builders, models)
                .setOut(new PrintWriter(out))
                .setErr(new PrintWriter(err, true))
                .execute(arguments);
        return new CommandRun(exitCode, out.toString(), err.toString());
    }
}
