package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.langchain4j.model.chat.response.CompleteToolCall;
import dev.langchain4j.model.chat.response.PartialToolCall;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class ToolCallsTest {

    private final ToolCalls calls = new ToolCalls();
    private final List<Object> events = new ArrayList<>();

    @Test
    void repeatsIdAndNameOnEveryPartialAndDropsEmptyOnes() {
        accept("{\"index\": 0, \"id\": \"a\", \"function\": {\"name\": \"f\", \"arguments\": \"\"}}");
        accept("{\"index\": 0, \"function\": {\"arguments\": \"{\"}}");
        accept("{\"index\": 0, \"function\": {\"arguments\": \" \\n\"}}");
        accept("{\"index\": 0, \"function\": {\"arguments\": \"\\\"x\\\":\"}}");
        accept("{\"index\": 0, \"function\": {\"arguments\": \" 1}\"}}");
        calls.complete(events::add);

        assertThat(events)
                .containsExactly(
                        partial(0, "a", "f", "{\"x\":"),
                        partial(0, "a", "f", "1}"),
                        complete(0, "a", "f", "{\"x\":1}"));
    }

    @Test
    void holdsBackWhitespaceInsideAStringUntilSomethingFollows() {
        accept("{\"index\": 0, \"id\": \"a\", \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"x\\\":\\\"\"}}");
        accept("{\"index\": 0, \"function\": {\"arguments\": \"  \"}}");
        accept("{\"index\": 0, \"function\": {\"arguments\": \"b\\\"}\"}}");
        calls.complete(events::add);

        assertThat(events)
                .containsExactly(
                        partial(0, "a", "f", "{\"x\":\""),
                        partial(0, "a", "f", "  b\"}"),
                        complete(0, "a", "f", "{\"x\":\"  b\"}"));
    }

    @Test
    void forgetsACallThatTheLimitHasCutShort() {
        accept("{\"index\": 0, \"id\": \"a\", \"function\": {\"name\": \"f\", \"arguments\": \"{}\"}}");
        accept("{\"index\": 1, \"id\": \"b\", \"function\": {\"name\": \"g\", \"arguments\": \"{\\\"x\\\": 12\"}}");
        calls.dropUnfinished();
        calls.complete(events::add);

        assertThat(calls.requests()).extracting(call -> call.name()).containsExactly("f");
        assertThat(events).contains(complete(0, "a", "f", "{}"));
    }

    @Test
    void givesACallWithoutArgumentsOnePartial() {
        accept("{\"index\": 0, \"id\": \"a\", \"function\": {\"name\": \"f\"}}");
        calls.complete(events::add);

        assertThat(events).containsExactly(partial(0, "a", "f", "{}"), complete(0, "a", "f", "{}"));
    }

    @Test
    void givesSplitBracesOnePartial() {
        accept("{\"index\": 0, \"id\": \"a\", \"function\": {\"name\": \"f\", \"arguments\": \"{\"}}");
        accept("{\"index\": 0, \"function\": {\"arguments\": \"}\"}}");
        calls.complete(events::add);

        assertThat(events).containsExactly(partial(0, "a", "f", "{}"), complete(0, "a", "f", "{}"));
    }

    @Test
    void completesACallBeforeTheNextOnesArgumentsEvenIfItsHeaderCameEarlier() {
        accept("{\"index\": 0, \"id\": \"a\", \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"x\\\":\"}}");
        accept("{\"index\": 1, \"id\": \"b\", \"function\": {\"name\": \"g\"}}");
        accept("{\"index\": 0, \"function\": {\"arguments\": \"1}\"}}");
        accept("{\"index\": 1, \"function\": {\"arguments\": \"{\\\"y\\\":2}\"}}");
        calls.complete(events::add);

        assertThat(events)
                .containsExactly(
                        partial(0, "a", "f", "{\"x\":"),
                        partial(0, "a", "f", "1}"),
                        complete(0, "a", "f", "{\"x\":1}"),
                        partial(1, "b", "g", "{\"y\":2}"),
                        complete(1, "b", "g", "{\"y\":2}"));
    }

    @Test
    void takesTheLastNameOfAParserThatGuessedAtFirst() {
        accept("{\"index\": 0, \"id\": \"a\", \"function\": {\"name\": \"get\"}}");
        accept(
                "{\"index\": 0, \"id\": \"a\", \"function\": {\"name\": \"getWeather\", \"arguments\": \"{\\\"x\\\":1}\"}}");
        calls.complete(events::add);

        assertThat(events)
                .containsExactly(
                        partial(0, "a", "getWeather", "{\"x\":1}"), complete(0, "a", "getWeather", "{\"x\":1}"));
    }

    @Test
    void inventsDistinctIdsWhereTheModelsFormatHasNone() {
        accept("{\"index\": 0, \"function\": {\"name\": \"f\", \"arguments\": \"{}\"}}");
        accept("{\"index\": 1, \"function\": {\"name\": \"f\", \"arguments\": \"{}\"}}");
        calls.complete(events::add);

        assertThat(calls.requests()).extracting("id").doesNotContain("").doesNotHaveDuplicates();
        assertThat(((PartialToolCall) events.get(0)).id())
                .isEqualTo(calls.requests().get(0).id());
    }

    @Test
    void failsWhenACallGoesOnAfterTheNextOneBegan() {
        accept("{\"index\": 0, \"id\": \"a\", \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"x\\\":\"}}");
        accept("{\"index\": 1, \"id\": \"b\", \"function\": {\"name\": \"g\", \"arguments\": \"{}\"}}");

        assertThatThrownBy(() -> accept("{\"index\": 0, \"function\": {\"arguments\": \"1}\"}}"))
                .isInstanceOf(IllegalStateException.class);
    }

    private void accept(String delta) {
        try {
            calls.accept(new ObjectMapper().readTree(delta), 0, events::add);
        } catch (JsonProcessingException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private static PartialToolCall partial(int index, String id, String name, String arguments) {
        return PartialToolCall.builder()
                .index(index)
                .id(id)
                .name(name)
                .partialArguments(arguments)
                .build();
    }

    private static CompleteToolCall complete(int index, String id, String name, String arguments) {
        return new CompleteToolCall(
                index,
                dev.langchain4j.agent.tool.ToolExecutionRequest.builder()
                        .id(id)
                        .name(name)
                        .arguments(arguments)
                        .build());
    }
}
