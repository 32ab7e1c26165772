package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;

class KvCacheStatsTest {

    private static KvCacheStats.Layer layer(int number, long row, @Nullable Long window, boolean mayBeLazy) {
        return new KvCacheStats.Layer(number, row, window, mayBeLazy, 0, 0, 0);
    }

    @Test
    void aWindowCountsNoMoreThanItsTokens() {
        KvCacheStats.Rows rows =
                new KvCacheStats.Rows(List.of(layer(0, 100, null, false), layer(1, 10, 64L, false)), 0);
        assertThat(rows.bytes(0)).isZero();
        assertThat(rows.bytes(50)).isEqualTo(50 * 110);
        assertThat(rows.bytes(1000)).isEqualTo(1000 * 100 + 64 * 10);
    }

    @Test
    void ofLayersThatMayBeLazyTheNarrowestThatMustBeCountTheirWindow() {
        List<KvCacheStats.Layer> layers =
                List.of(layer(0, 30, 10L, true), layer(1, 10, 10L, true), layer(2, 20, 10L, true));
        assertThat(new KvCacheStats.Rows(layers, 0).bytes(100)).isEqualTo(100 * 60);
        assertThat(new KvCacheStats.Rows(layers, 2).bytes(100)).isEqualTo(100 * 30 + 10 * 30);
        assertThat(new KvCacheStats.Rows(layers, 2).bytes(10)).isEqualTo(10 * 60);
    }

    @Test
    void aLedgerIsTheSumOfItsKinds() {
        assertThat(new KvCacheStats.Ledger(1, 20, 300, 4000).total()).isEqualTo(4021);
    }
}
