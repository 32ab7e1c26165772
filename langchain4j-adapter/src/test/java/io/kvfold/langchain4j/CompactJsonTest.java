package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class CompactJsonTest {

    @Test
    void dropsWhitespaceBetweenTokensOnly() {
        assertThat(new CompactJson().append("{\n  \"a b\" : [ 1,\t2 ],\r\n \"c\": \" \\\" x \\\\\" }"))
                .isEqualTo("{\"a b\":[1,2],\"c\":\" \\\" x \\\\\"}");
    }

    @Test
    void keepsItsPlaceBetweenFragments() {
        CompactJson json = new CompactJson();

        assertThat(json.append("{ \"a")).isEqualTo("{\"a");
        assertThat(json.append(" b\\")).isEqualTo(" b\\");
        assertThat(json.append("\" c")).isEqualTo("\" c");
        assertThat(json.append("\" : 1 }")).isEqualTo("\":1}");
    }
}
