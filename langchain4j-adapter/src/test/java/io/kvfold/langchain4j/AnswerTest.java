package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.langchain4j.exception.InternalServerException;
import dev.langchain4j.model.chat.response.PartialResponse;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class AnswerTest {

    private static final String ENVELOPE = """
            {"choices":[{"finish_reason":null,"index":0,"delta":%s}],"created":1,"id":"chatcmpl-1","model":"m",\
            "system_fingerprint":"b0","object":"chat.completion.chunk"}""";

    private static final String LAST = """
            {"choices":[{"finish_reason":"%2$s","index":0,"delta":%1$s}],"usage":{"prompt_tokens":1,"completion_tokens":1}}""";

    private static byte[] chunk(String delta) {
        return ENVELOPE.formatted(delta).getBytes(StandardCharsets.UTF_8);
    }

    private static List<Object> events(byte[] chunk) {
        List<Object> events = new ArrayList<>();
        new Answer("m", false, tokens -> 0).accept(chunk, events::add);
        return events;
    }

    @ParameterizedTest
    @ValueSource(strings = {"word", " a", "", "\u00e9 \u4e8c \ud83d\ude00", "}}],"})
    void readsTheTextOfAPlainChunk(String text) {
        byte[] chunk = chunk("{\"content\":\"" + text + "\"}");

        assertThat(Answer.plainText(chunk)).isEqualTo(text);
        assertThat(events(chunk)).isEqualTo(text.isEmpty() ? List.of() : List.of(new PartialResponse(text)));
    }

    @Test
    void readsEscapesWithAParser() {
        byte[] chunk = chunk("{\"content\":\"say \\\"hi\\\"\\n\"}");

        assertThat(Answer.plainText(chunk)).isNull();
        assertThat(events(chunk)).containsExactly(new PartialResponse("say \"hi\"\n"));
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "{\"content\":\"a\",\"reasoning_content\":\"b\"}",
                "{\"role\":\"assistant\",\"content\":null}",
                "{\"content\":\"a"
            })
    void takesNothingElseForPlain(String delta) {
        assertThat(Answer.plainText(chunk(delta))).isNull();
    }

    @Test
    void hasATextAlsoWhereThinkingHasUsedUpTheTokens() {
        Answer answer = new Answer("m", true, tokens -> 0);
        answer.accept(chunk("{\"reasoning_content\":\"hm\"}"), event -> {});
        answer.accept(LAST.formatted("{}", "length").getBytes(StandardCharsets.UTF_8), event -> {});

        assertThat(answer.toResponse().aiMessage().text()).isEmpty();
        assertThat(answer.toResponse().aiMessage().thinking()).isEqualTo("hm");
    }

    @Test
    void keepsTheThinkingOfTheAnswerBefore() {
        Answer before = new Answer("m", true, tokens -> 0);
        before.accept(chunk("{\"reasoning_content\":\"first\"}"), event -> {});
        Answer answer = new Answer("m", true, tokens -> 0).after(before);
        answer.accept(chunk("{\"reasoning_content\":\"again\"}"), event -> {});
        answer.accept(LAST.formatted("{\"content\":\"{}\"}", "stop").getBytes(StandardCharsets.UTF_8), event -> {});

        assertThat(answer.toResponse().aiMessage().thinking()).isEqualTo("first");
        assertThat(answer.toResponse().aiMessage().text()).isEqualTo("{}");
    }

    @Test
    void saysWhatIsNoJson() {
        assertThatThrownBy(() -> events("{".getBytes(StandardCharsets.UTF_8)))
                .isInstanceOf(InternalServerException.class)
                .hasMessageContaining("not JSON");
    }
}
