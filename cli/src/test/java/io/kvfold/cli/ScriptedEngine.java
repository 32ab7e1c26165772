package io.kvfold.cli;

import static org.mockito.ArgumentMatchers.any;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.when;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.Engine;
import io.kvfold.EngineInfo;
import io.kvfold.Generation;
import io.kvfold.KvCacheStats;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import org.jspecify.annotations.Nullable;

/** An engine that gives prepared answers and remembers what it was asked. */
final class ScriptedEngine {

    static final KvCacheStats STATS = new KvCacheStats(512, 64, 4, 2, 1024, 524288, 1, 0, 0);

    final Engine engine = mock(Engine.class);
    final List<JsonNode> requests = new ArrayList<>();
    private final Queue<Generation> answers = new ArrayDeque<>();

    ScriptedEngine() {
        when(engine.kvCacheStats()).thenReturn(STATS);
        EngineInfo info = mock(EngineInfo.class);
        EngineInfo.Model model = mock(EngineInfo.Model.class);
        when(engine.info()).thenReturn(info);
        when(info.model()).thenReturn(model);
        when(model.vocabularySize()).thenReturn(4);
        when(model.tokens()).thenReturn(new EngineInfo.SpecialTokens(1, 2));
        when(engine.chat(any())).thenAnswer(call -> answer(call.getArgument(0)));
        when(engine.complete(any())).thenAnswer(call -> answer(call.getArgument(0)));
    }

    /** The next request gets these chunks; an element is JSON or a RuntimeException to throw in its place. */
    ScriptedEngine then(Object... chunks) {
        Queue<Object> script = new ArrayDeque<>(List.of(chunks));
        Generation generation = mock(Generation.class);
        when(generation.next()).thenAnswer(call -> play(script.poll()));
        answers.add(generation);
        return this;
    }

    /** Runs the command line against this engine. */
    CommandRun run(String... arguments) {
        return CommandRun.of(builder -> engine, arguments);
    }

    static String delta(String text) {
        return "{\"choices\":[{\"index\":0,\"finish_reason\":null,\"delta\":{\"content\":\"" + text + "\"}}]}";
    }

    static String last(String finishReason) {
        return "{\"choices\":[{\"index\":0,\"finish_reason\":\"" + finishReason + "\",\"delta\":{}}],\"timings\":"
                + "{\"prompt_n\":7,\"prompt_per_second\":70.0,\"predicted_n\":2,\"predicted_per_second\":20.5}}";
    }

    private Generation answer(JsonNode request) {
        requests.add(request.deepCopy());
        return answers.remove();
    }

    private static @Nullable JsonNode play(@Nullable Object step) throws JsonProcessingException {
        if (step instanceof RuntimeException failure) {
            throw failure;
        }
        return step == null ? null : new ObjectMapper().readTree((String) step);
    }
}
