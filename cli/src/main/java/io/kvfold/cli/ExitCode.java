package io.kvfold.cli;

import io.kvfold.GenerationCancelledException;
import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.ModelAccessException;
import io.kvfold.ModelNotFoundException;
import io.kvfold.UnknownOptionException;
import java.util.LinkedHashMap;
import java.util.Map;

/** What the process returns to a script; the same for every command. */
final class ExitCode {

    static final int OK = 0;
    static final int ERROR = 1;
    static final int USAGE = 2;
    /** Returned by the launcher, before Java runs. */
    static final int MISSING_TOOL = 3;

    static final int MODEL = 4;
    static final int CANCELLED = 130;

    private ExitCode() {}

    static int of(Throwable error) {
        if (error instanceof ModelNotFoundException
                || error instanceof ModelAccessException
                || error instanceof InvalidModelException) {
            return MODEL;
        }
        if (error instanceof UnknownOptionException || error instanceof InvalidPlanException) {
            return USAGE;
        }
        return error instanceof GenerationCancelledException ? CANCELLED : ERROR;
    }

    /** The section at the end of every help page. */
    static Map<String, String> help() {
        Map<String, String> help = new LinkedHashMap<>();
        help.put("  " + OK, "success");
        help.put("  " + ERROR, "the command failed; one line on standard error says why");
        help.put("  " + USAGE, "an option or argument that does not exist or has no such value");
        help.put("  " + MISSING_TOOL, "a tool that the build needs is missing");
        help.put("  " + MODEL, "the model was not found, is not handed out or is not a valid model");
        help.put(String.valueOf(CANCELLED), "cancelled with Ctrl-C");
        return help;
    }
}
