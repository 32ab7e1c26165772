package io.kvfold.cli;

import java.io.PrintWriter;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import picocli.CommandLine;
import picocli.CommandLine.IExecutionExceptionHandler;
import picocli.CommandLine.IParameterExceptionHandler;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.UnmatchedArgumentException;

/** Turns what went wrong into one line for the user, and a stack trace with {@code --verbose}. */
final class Errors implements IExecutionExceptionHandler, IParameterExceptionHandler {

    @Override
    public int handleExecutionException(Exception error, CommandLine command, ParseResult parsed) {
        PrintWriter err = command.getErr();
        err.println("kvfold: " + message(error));
        if (KvfoldCommand.isVerbose(command)) {
            error.printStackTrace(err);
        }
        err.flush();
        return ExitCode.of(error);
    }

    @Override
    public int handleParseException(ParameterException error, String[] arguments) {
        CommandLine command = error.getCommandLine();
        PrintWriter err = command.getErr();
        err.println("kvfold: " + message(error).replaceFirst("^Error: ", ""));
        UnmatchedArgumentException.printSuggestions(error, err);
        err.println("Try '" + command.getCommandSpec().qualifiedName() + " --help'.");
        err.flush();
        return ExitCode.USAGE;
    }

    static String message(Throwable error) {
        String message = error.getMessage();
        if (error instanceof NoSuchFileException) {
            return "there is no file " + message;
        }
        if (error instanceof AccessDeniedException) {
            return "no permission for " + message;
        }
        if (message == null || error instanceof FileSystemException || error instanceof NullPointerException) {
            return error.toString();
        }
        return message;
    }
}
