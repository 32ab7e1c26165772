package io.kvfold.javallama;

import static org.assertj.core.api.Assertions.assertThat;

import de.kherud.llama.LlamaOutput;
import de.kherud.llama.ModelParameters;
import de.kherud.llama.Pair;
import io.kvfold.Engine;
import io.kvfold.ScriptedEngine;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class RerankTest {

    private final ScriptedEngine scripted = ScriptedEngine.answering("""
            {"results": [{"index": 1, "relevance_score": 2.5}, {"index": 2, "relevance_score": 0.5},
                         {"index": 0, "relevance_score": -1}]}""");
    private final Engine engine = scripted.open();
    private final LlamaModel model = new LlamaModel(new ModelOptions(new ModelParameters().enableReranking()), engine);

    @AfterEach
    void close() {
        model.close();
        assertThat(scripted.closes()).isEqualTo(1);
    }

    @Test
    void givesEveryDocumentItsScore() {
        LlamaOutput output = model.rerank("q", "a", "b", "c");
        assertThat(output.text).isEqualTo("q");
        assertThat(output.probabilities)
                .containsEntry("a", -1f)
                .containsEntry("b", 2.5f)
                .containsEntry("c", 0.5f);
        assertThat(scripted.lastRequest().route()).isEqualTo("/v1/rerank");
        assertThat(scripted.lastRequest().body()).hasToString("""
                {"query":"q","documents":["a","b","c"]}""");
    }

    @Test
    void ranksIfAsked() {
        assertThat(model.rerank(true, "q", "a", "b", "c"))
                .extracting(Pair::getKey)
                .containsExactly("b", "c", "a");
        assertThat(model.rerank(false, "q", "a", "b", "c"))
                .extracting(Pair::getKey)
                .containsExactly("a", "b", "c");
        assertThat(model.rerank(true, "q", "same", "same", "same")).hasSize(3);
    }
}
