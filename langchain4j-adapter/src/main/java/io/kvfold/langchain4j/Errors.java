package io.kvfold.langchain4j;

import dev.langchain4j.exception.AuthenticationException;
import dev.langchain4j.exception.InternalServerException;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.LangChain4jException;
import dev.langchain4j.exception.ModelNotFoundException;
import dev.langchain4j.exception.NonRetriableException;
import dev.langchain4j.exception.RateLimitException;
import dev.langchain4j.exception.UnsupportedFeatureException;
import io.kvfold.ContextExceededException;
import io.kvfold.EngineClosedException;
import io.kvfold.GenerationCancelledException;
import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvBudgetExceededException;
import io.kvfold.KvStateException;
import io.kvfold.KvfoldException;
import io.kvfold.ModelAccessException;
import io.kvfold.NativeLibraryException;
import io.kvfold.QueueFullException;
import io.kvfold.UnknownOptionException;
import io.kvfold.UnsupportedOperationByModelException;
import java.util.concurrent.CancellationException;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/** The engine's exceptions as the ones LangChain4j's retries, fallbacks and metrics know; the original is the cause. */
final class Errors {

    private Errors() {}

    /** Runs {@code action} with the engine's exceptions translated. */
    static <T> T translating(Supplier<T> action) {
        try {
            return action.get();
        } catch (KvfoldException e) {
            throw translate(e);
        }
    }

    /** LangChain4j's counterpart of {@code error}; what is none of the engine's exceptions is returned as it is. */
    static RuntimeException translate(RuntimeException error) {
        if (!(error instanceof KvfoldException)) {
            return error;
        }
        String message = error.getMessage();
        if (error instanceof io.kvfold.ModelNotFoundException || error instanceof InvalidModelException) {
            return new ModelNotFoundException(message, error);
        }
        if (error instanceof ModelAccessException) {
            return new AuthenticationException(message, error);
        }
        if (error instanceof io.kvfold.InvalidRequestException
                || error instanceof ContextExceededException
                || error instanceof KvBudgetExceededException
                || error instanceof UnknownOptionException
                || error instanceof InvalidPlanException) {
            return new InvalidRequestException(message, error);
        }
        if (error instanceof QueueFullException) {
            return new RateLimitException(message, error);
        }
        if (error instanceof UnsupportedOperationByModelException) {
            return withCause(new UnsupportedFeatureException("not supported: " + message), error);
        }
        if (error instanceof GenerationCancelledException) {
            CancellationException cancelled = new CancellationException(message);
            cancelled.initCause(error);
            return cancelled;
        }
        if (error instanceof KvStateException
                || error instanceof EngineClosedException
                || error instanceof NativeLibraryException) {
            return new NonRetriableException(message, error);
        }
        return new InternalServerException(message, error);
    }

    static UnsupportedFeatureException unsupported(String what) {
        return new UnsupportedFeatureException(what + " is not supported by this model");
    }

    /** Throws unless {@code requested} is null or the loaded model's own name. */
    static void checkModelName(@Nullable String requested, String own) {
        if (requested != null && !requested.equals(own)) {
            throw new UnsupportedFeatureException("'modelName' parameter with value '" + requested
                    + "' is not supported: an engine has one model, and this one's name is '" + own + "'");
        }
    }

    private static <E extends LangChain4jException> E withCause(E exception, Throwable cause) {
        exception.initCause(cause);
        return exception;
    }
}
