package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;

final class ValuesTest {

    @Test
    void writesBytesWithThreeDigitsInABinaryUnit() {
        assertThat(Values.bytes(0)).isEqualTo("0 B");
        assertThat(Values.bytes(1023)).isEqualTo("1023 B");
        assertThat(Values.bytes(3 * 1024 + 256)).isEqualTo("3.25 KiB");
        assertThat(Values.bytes(40L << 20)).isEqualTo("40.0 MiB");
        assertThat(Values.bytes(512L << 30)).isEqualTo("512 GiB");
        assertThat(Values.bytes(Long.MAX_VALUE)).isEqualTo("8388608 TiB");
    }

    @Test
    void namesRangesOfNumbers() {
        assertThat(Values.ranges(List.of())).isEmpty();
        assertThat(Values.ranges(List.of(5))).isEqualTo("5");
        assertThat(Values.ranges(List.of(0, 3, 4, 5, 6, 7, 9, 10))).isEqualTo("0, 3 to 7, 9, 10");
    }
}
