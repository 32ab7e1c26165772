package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.ContextExceededException;
import io.kvfold.GenerationCancelledException;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

final class ConversationTest {

    private final ScriptedEngine script = new ScriptedEngine();
    private final Conversation conversation =
            new Conversation(script.engine, new SamplingOptions(), "Answer in one word.");
    private final List<String> pieces = new ArrayList<>();

    @Test
    void handsOverThePiecesOfAnAnswerAndItsTimings() {
        script.then(ScriptedEngine.delta("Bl"), ScriptedEngine.delta("ue"), ScriptedEngine.last("stop"));

        Conversation.Answer answer = conversation.ask("Which colour?", pieces::add);

        assertThat(pieces).containsExactly("Bl", "ue");
        assertThat(answer.cancelled()).isFalse();
        assertThat(answer.finishReason()).isEqualTo("stop");
        assertThat(answer.timings()).isEqualTo(new Timings(7, 70.0, 2, 20.5));
    }

    @Test
    void sendsEverythingThatWasSaid() {
        script.then(ScriptedEngine.delta("Blue"), ScriptedEngine.last("stop"))
                .then(ScriptedEngine.delta("Sky"), ScriptedEngine.last("stop"));
        conversation.ask("Which colour?", pieces::add);
        conversation.ask("Of what?", pieces::add);

        assertThat(script.requests.get(1).path("messages").findValuesAsText("role"))
                .containsExactly("system", "user", "assistant", "user");
        assertThat(script.requests.get(1).path("messages").findValuesAsText("content"))
                .containsExactly("Answer in one word.", "Which colour?", "Blue", "Of what?");
    }

    @Test
    void keepsThePartOfAnAnswerThatCameBeforeItWasCancelled() {
        script.then(ScriptedEngine.delta("Bl"), new GenerationCancelledException("cancelled"))
                .then(ScriptedEngine.last("stop"));

        assertThat(conversation.ask("Which colour?", pieces::add).cancelled()).isTrue();
        conversation.ask("Go on.", pieces::add);

        assertThat(script.requests.get(1).path("messages").findValuesAsText("content"))
                .containsExactly("Answer in one word.", "Which colour?", "Bl", "Go on.");
    }

    @Test
    void forgetsAQuestionThatFailed() {
        script.then(new ContextExceededException("the prompt has 600 tokens but a slot holds 512", 600L, 512L))
                .then(ScriptedEngine.last("stop"));

        assertThatThrownBy(() -> conversation.ask("A long one", pieces::add))
                .isInstanceOf(ContextExceededException.class);
        conversation.ask("A short one", pieces::add);

        assertThat(script.requests.get(1).path("messages").findValuesAsText("content"))
                .containsExactly("Answer in one word.", "A short one");
    }

    @Test
    void forgetsEverythingButTheSystemMessageOnReset() {
        script.then(ScriptedEngine.delta("Blue"), ScriptedEngine.last("stop")).then(ScriptedEngine.last("stop"));
        conversation.ask("Which colour?", pieces::add);
        conversation.reset();
        conversation.ask("Again?", pieces::add);

        assertThat(script.requests.get(1).path("messages").findValuesAsText("content"))
                .containsExactly("Answer in one word.", "Again?");
    }

    @Test
    void reportsSpeedAndTheKvCacheInCellsAndBytes() {
        script.then(ScriptedEngine.delta("Blue"), ScriptedEngine.last("length"));

        assertThat(conversation.report(conversation.ask("Which colour?", pieces::add)))
                .isEqualTo("[cut off; 2 tokens at 20.5 tokens/s, prompt 7 at 70.0;"
                        + " KV cache 64 of 512 cells, 64.0 KiB of 512 KiB]");
    }

    @Test
    void ignoresACancelBetweenAnswers() {
        conversation.cancel();
        script.then(ScriptedEngine.last("stop"));

        assertThat(conversation.ask("Which colour?", pieces::add).cancelled()).isFalse();
    }
}
