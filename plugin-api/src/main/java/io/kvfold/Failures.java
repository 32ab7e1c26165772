package io.kvfold;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.internal.NativeStatus;
import io.kvfold.internal.NativeStatusException;
import org.jspecify.annotations.Nullable;

/** From a native status to the exception that a caller sees. */
final class Failures {

    private Failures() {}

    static KvfoldException from(NativeStatusException failure) {
        @Nullable JsonNode error = failure.error().length == 0 ? null : Json.read(failure.error());
        String message = error == null ? "" : error.path("message").asText();
        if (message.isEmpty()) {
            message = "libkvfold failed with status " + failure.status();
        }
        @Nullable Long value = number(error, "value");
        @Nullable Long limit = number(error, "limit");
        return switch (failure.status()) {
            case NativeStatus.ERROR_INVALID_ARGUMENT -> new InvalidRequestException(message, value, limit);
            case NativeStatus.ERROR_UNKNOWN_OPTION -> new UnknownOptionException(message, value, limit);
            case NativeStatus.ERROR_MODEL_NOT_FOUND -> new ModelNotFoundException(message, value, limit);
            case NativeStatus.ERROR_MODEL_INVALID -> new InvalidModelException(message, value, limit);
            case NativeStatus.ERROR_PLAN_INVALID -> new InvalidPlanException(message, value, limit);
            case NativeStatus.ERROR_CONTEXT_EXCEEDED -> new ContextExceededException(message, value, limit);
            case NativeStatus.ERROR_QUEUE_FULL -> new QueueFullException(message, value, limit);
            case NativeStatus.ERROR_OUT_OF_MEMORY -> new NativeOutOfMemoryException(message, value, limit);
            case NativeStatus.ERROR_CANCELLED -> new GenerationCancelledException(message, value, limit);
            case NativeStatus.ERROR_CLOSED -> new EngineClosedException(message, value, limit);
            case NativeStatus.ERROR_UNSUPPORTED -> new UnsupportedOperationByModelException(message, value, limit);
            case NativeStatus.ERROR_STATE -> new KvStateException(message, value, limit);
            case NativeStatus.ERROR_ADDRESS -> new ServerAddressException(message, value, limit);
            case NativeStatus.ERROR_BUDGET_EXCEEDED -> new KvBudgetExceededException(message, value, limit);
            default -> new InternalEngineException(message, value, limit);
        };
    }

    private static @Nullable Long number(@Nullable JsonNode error, String field) {
        JsonNode number = error == null ? null : error.get(field);
        return number == null || !number.isNumber() ? null : Long.valueOf(number.asLong());
    }
}
