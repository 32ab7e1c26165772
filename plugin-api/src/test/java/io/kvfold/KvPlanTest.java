package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;

import io.kvfold.KvPlan.Group;
import io.kvfold.KvPlan.Partition;
import io.kvfold.KvPlan.Position;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.OptionalDouble;
import java.util.Random;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

final class KvPlanTest {
    /** The strings that the LCKV repository, the Systematic Study and the CLA paper give. */
    @ParameterizedTest
    @CsvSource({
        "22, lckv:2, 0_20x20_21",
        "22, lckv:10, 0_1_2_3_4_16x12_17_18_19_20_21",
        "22, lckv:0, 21x22",
        "22, lckv:1, 0_21x21",
        "22, sandwich-middle:3, 0_10x20_21",
        "22, sandwich-top:3, 0_20x20_21",
        "22, sandwich-bottom:3, 0_1x20_21",
        "22, sandwich-top:11, 0_1_2_3_4_16x12_17_18_19_20_21",
        "22, pizza-bottom:3, 0_1_2x20",
        "22, pizza-middle:3, 0_1_11x20",
        "22, pizza-top:3, 0_1_21x20",
        "22, lasagna-bottom:11, 0_0_2_2_4_4_6_6_8_8_10_10_12_12_14_14_16_16_18_18_20_20",
        "22, cla:2, 0_0_2_2_4_4_6_6_8_8_10_10_12_12_14_14_16_16_18_18_20_20",
        "22, mlkv:2, 0x11_11x11",
        "22, yoco:1024, 0s_1s_2s_3s_4s_5s_6s_7s_8s_9s_10s_11x11;window=1024",
        "10, cla:3, 0_1_1_1_4_4_4_7_7_7",
        "11, cla:3, 0_0_2_2_2_5_5_5_8_8_8",
        "5, cla:5, 0x5",
        "5, cla:1, 0_1_2_3_4",
        "20, cla:keep-ends, 0_1_1_3_3_5_5_7_7_9_9_11_11_13_13_15_15_17_17_19",
        "7, cla:keep-ends, 0_1_2_2_4_4_6",
        "20, cla:dense-front, 0_1_2_3_4_5_6_7_8_9x10_19",
        "20, cla:dense-back, 0_1x10_11_12_13_14_15_16_17_18_19",
        "8, lasagna-middle:3, 0_2x3_5x4",
        "8, lasagna-top:3, 0_3x3_7x4",
        "8, lasagna-bottom:3, 0_0_2x3_5x3",
        "8, lasagna-top:1, 7x8",
        "8, pizza-middle:1, 3x8",
        "9, mlkv:4, 0_0_2_2_4_4_6x3",
        "9, yoco:4, 0s_1s_2s_3s_4x5;window=4",
        "2, cla:keep-ends, 0_1",
        "2, cla:dense-front, 0_1",
        "3, cla:dense-back, 0_1_1",
        "4, standard, 0_1_2_3",
        "1, standard, 0",
        "1, lckv:0, 0",
    })
    void namesMeanTheMapsOfTheLiterature(int layers, String name, String map) {
        assertThat(KvPlan.parse(name, layers)).isEqualTo(KvPlan.parse(map));
    }

    @Test
    void theFactoriesAreWhatTheNamesStandFor() {
        assertThat(KvPlan.standard(22)).isEqualTo(KvPlan.parse("standard", 22));
        assertThat(KvPlan.crossLayerAttention(10, 3)).isEqualTo(KvPlan.parse("cla:3", 10));
        assertThat(KvPlan.keepEnds(20)).isEqualTo(KvPlan.parse("cla:keep-ends", 20));
        assertThat(KvPlan.denseFront(20)).isEqualTo(KvPlan.parse("cla:dense-front", 20));
        assertThat(KvPlan.denseBack(20)).isEqualTo(KvPlan.parse("cla:dense-back", 20));
        assertThat(KvPlan.layerCondensed(22, 2)).isEqualTo(KvPlan.parse("lckv:2", 22));
        assertThat(KvPlan.yoco(22, 1024)).isEqualTo(KvPlan.parse("yoco:1024", 22));
        assertThat(KvPlan.mlkv(22, 2)).isEqualTo(KvPlan.parse("mlkv:2", 22));
        assertThat(KvPlan.of(Partition.SANDWICH, Position.MIDDLE, 22, 3))
                .isEqualTo(KvPlan.parse("sandwich-middle:3", 22));
    }

    @Test
    void theLayersAreWrittenOut() {
        assertThat(KvPlan.parse("0_6x6_7")).hasToString("0_6_6_6_6_6_6_7");
        assertThat(KvPlan.parse("00_01sx2_3;window=0012")).hasToString("0_1s_1s_3;window=12");
        assertThat(KvPlan.parse("0_1s_1s_3s_3s_3s_0_7s_7s_9s_9s_9s_12_13s_13s_15s_15s_15s_12_19s_19s_19s;window=1024"))
                .hasToString("0_1s_1s_3s_3s_3s_0_7s_7s_9s_9s_9s_12_13s_13s_15s_15s_15s_12_19s_19s_19s;window=1024");
    }

    @Test
    void attributesArePrintedInOneOrder() {
        assertThat(KvPlan.parse("1s_1;passes=9;strict;window=8")).hasToString("1s_1;window=8;strict;passes=9");
        assertThat(KvPlan.parse("lckv:2;exact;strict", 4)).hasToString("0_2_2_3;strict;exact");
    }

    @Test
    void attributesCanBeAdded() {
        KvPlan plan = KvPlan.of(0, 2, 2).withStrictDiagonal(true).withPrefillPasses(4);
        assertThat(plan).hasToString("0_2_2;strict;passes=4");
        assertThat(plan.prefillPasses()).hasValue(4);
        assertThat(plan.withPrefillPasses(0).withStrictDiagonal(false)).hasToString("0_2_2;exact");
        assertThat(plan.withWindow(5, 0, 2)).hasToString("0s_2_2s;window=5;strict;passes=4");
        assertThat(plan.withWindow(5, 0).window()).hasValue(5);
        assertThat(KvPlan.of(0, 2, 2).prefillPasses()).isEmpty();
        assertThat(KvPlan.of(0, 2, 2).window()).isEmpty();
    }

    @Test
    void evictionIsPartOfAPlan() {
        KvPlan plan = KvPlan.parse("cla:2;skip=0;lag=128;sinks=2;evict=lagkv:0.250", 4);
        assertThat(plan).hasToString("0_0_2_2;evict=lagkv:0.25;sinks=2;skip=0");
        KvPlan uncapped = KvPlan.parse("standard;evict=corm:1.00;newest=8;queries=16;answer=1", 2);
        assertThat(uncapped).hasToString("0_1;evict=corm:1.0;queries=16;newest=8;answer=1");
        assertThat(KvPlan.parse(uncapped.toString())).isEqualTo(uncapped);
        Eviction eviction = plan.eviction().orElseThrow();
        assertThat(eviction.method()).isEqualTo(Eviction.Method.LAGKV);
        assertThat(eviction.parameters()).containsExactly(Map.entry("lag", 128), Map.entry("sinks", 2));
        assertThat(eviction.budget(2, 4, 1000)).isEqualTo(250);
        assertThat(eviction.budget(0, 4, 1000)).isEqualTo(1000);
        assertThat(KvPlan.of(0, 0, 2, 2).withEviction(eviction)).isEqualTo(plan);
        assertThat(plan.isStandard()).isFalse();
        assertThat(KvPlan.parse("cla:2;evict=snapkv:1024;recent=32;kernel=5", 4))
                .hasToString("0_0_2_2;evict=snapkv:1024;queries=32");
        Eviction pyramid = Eviction.keeping(Eviction.Method.PYRAMIDKV, 96).with("queries", 16);
        assertThat(IntStream.range(0, 5).mapToLong(layer -> pyramid.budget(layer, 5, 192)))
                .containsExactly(176L, 136L, 96L, 56L, 16L);
        Eviction inChunks = Eviction.keeping(Eviction.Method.KNORM, 100).inChunks(64);
        assertThat(KvPlan.parse("standard;at=chunk:64;evict=knorm:100", 2).eviction())
                .contains(inChunks);
        assertThat(inChunks).hasToString("evict=knorm:100;at=chunk:64");
        assertThat(inChunks.inChunks(Eviction.DEFAULT_CHUNK).skipping(1))
                .hasToString("evict=knorm:100;at=chunk;skip=1");
        assertThat(inChunks.atEnd()).hasToString("evict=knorm:100");
        assertThat(inChunks.peak(0, 2, 1000)).isEqualTo(164);
        assertThat(inChunks.peak(0, 2, 150)).isEqualTo(128);
        assertThat(inChunks.skipping(0).peak(0, 2, 1000)).isEqualTo(1000);
        assertThat(Eviction.keepingShare(Eviction.Method.TOVA, 0.25)
                        .inChunks(100)
                        .peak(0, 2, 1000))
                .isEqualTo(325);
        Eviction inAnswers = inChunks.inAnswers(50).skipping(1);
        assertThat(inAnswers).hasToString("evict=knorm:100;at=chunk:64;answer=50;skip=1");
        assertThat(Eviction.parse(inAnswers.toString())).isEqualTo(inAnswers);
        assertThat(inAnswers.answerPart()).hasValue(50);
        assertThat(inAnswers.inAnswers(0)).isEqualTo(inChunks.skipping(1));
        assertThat(inAnswers.answerPeak(0, 2, 30, 10_000)).isEqualTo(150);
        assertThat(inAnswers.answerPeak(0, 2, 30, 60)).isEqualTo(90);
        assertThat(inAnswers.answerPeak(1, 2, 30, 10_000)).isEqualTo(10_030);
        assertThat(inChunks.answerPeak(0, 2, 1000, 10_000)).isEqualTo(10_100);
        assertThat(Eviction.keepingShare(Eviction.Method.TOVA, 0.25)
                        .inAnswers(100)
                        .answerPeak(0, 2, 1000, 990))
                .isEqualTo(475 + 90);
        assertThat(KvPlan.standard(2).withEviction(Eviction.keeping(Eviction.Method.KNORM, 64)))
                .hasToString("0_1;evict=knorm:64")
                .isEqualTo(KvPlan.parse("0_1;evict=knorm:64"));
    }

    @Test
    void windowsAndEvictionHaveTheSameSinks() {
        KvPlan plan = KvPlan.parse("yoco:8;evict=streaming:64;sinks=2", 4);
        assertThat(plan).hasToString("0s_1s_2_2;window=8;sinks=2;evict=streaming:64");
        assertThat(plan.eviction().orElseThrow().parameters()).containsEntry("sinks", 2);
        assertThat(KvPlan.parse(plan.toString())).isEqualTo(plan);
        assertThat(KvPlan.parse("standard;evict=streaming:64;sinks=2", 2))
                .hasToString("0_1;evict=streaming:64;sinks=2");
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> KvPlan.yoco(4, 8)
                        .withEviction(
                                Eviction.keeping(Eviction.Method.STREAMING, 64).with("sinks", 2)))
                .withMessageContaining("sinks=2");
    }

    @Test
    void everyPlanIsReadBackFromItsText() {
        Random random = new Random(7);
        for (int round = 0; round < 2000; round++) {
            int layers = 1 + random.nextInt(40);
            KvPlan plan = KvPlan.of(
                    IntStream.range(0, layers).map(i -> random.nextInt(layers)).toArray());
            if (random.nextBoolean()) {
                int[] windowed = IntStream.range(0, layers)
                        .filter(i -> random.nextBoolean())
                        .toArray();
                plan = windowed.length == 0 ? plan : plan.withWindow(1 + random.nextInt(5000), windowed);
            }
            plan = plan.withStrictDiagonal(random.nextBoolean());
            plan = random.nextBoolean() ? plan : plan.withPrefillPasses(random.nextInt(20));
            assertThat(KvPlan.parse(plan.toString())).isEqualTo(plan).hasSameHashCodeAs(plan);
            assertThat(KvPlan.parse(plan.toString(), layers)).hasToString(plan.toString());
        }
    }

    @Test
    void producingAndReadingElsewhereAreIndependent() {
        KvPlan plan = KvPlan.parse("0_2_1_3_5_4_6_6");
        assertThat(IntStream.range(0, 8).filter(plan::isProducer)).containsExactly(0, 1, 2, 3, 4, 5, 6);
        assertThat(IntStream.range(0, 8).filter(plan::isUpward)).containsExactly(1, 4);
        assertThat(plan.kvLayerCount()).isEqualTo(7);
        assertThat(plan.kvLayer(7)).isEqualTo(6);
        assertThat(plan.isUpward()).isTrue();
        assertThat(plan.groups())
                .containsExactly(
                        new Group(0, 0, false),
                        new Group(1, 2, true),
                        new Group(3, 3, false),
                        new Group(4, 5, true),
                        new Group(6, 7, false));
    }

    @Test
    void thereIsNoTransitiveReading() {
        KvPlan plan = KvPlan.parse("0_1_2_5_4_7_6_7");
        assertThat(plan.kvLayer(3)).isEqualTo(5);
        assertThat(plan.kvLayer(5)).isEqualTo(7);
        assertThat(plan.isProducer(5)).isTrue();
        assertThat(plan.isProducer(3)).isFalse();
        assertThat(plan.groups()).containsExactly(new Group(0, 2, false), new Group(3, 7, true));
    }

    @ParameterizedTest
    @CsvSource({
        "0_1_2_3, 0-3",
        "0_0_2_2, 0-3",
        "0_6x6_7, 0-0 1-6* 7-7",
        "0_10x20_21, 0-0 1-10* 11-21",
        "21x22, 0-21*",
        "0_3x3_7x4, 0-0 1-3* 4-7*",
        "1_3_2_2_4, 0-3* 4-4",
        "0, 0-0",
    })
    void groupsAreThoseOfTheIterationPlan(String map, String expected) {
        String actual = String.join(
                " ",
                KvPlan.parse(map).groups().stream()
                        .map(g -> g.first() + "-" + g.last() + (g.iterated() ? "*" : ""))
                        .toList());
        assertThat(actual).isEqualTo(expected);
    }

    @Test
    void groupsCoverEveryLayerOnceAndHoldTheirUpwardReaders() {
        Random random = new Random(11);
        for (int round = 0; round < 2000; round++) {
            int layers = 1 + random.nextInt(12);
            KvPlan plan = KvPlan.of(
                    IntStream.range(0, layers).map(i -> random.nextInt(layers)).toArray());
            List<Integer> covered = new ArrayList<>();
            for (Group group : plan.groups()) {
                boolean upward = false;
                for (int i = group.first(); i <= group.last(); i++) {
                    covered.add(i);
                    upward |= plan.isUpward(i);
                    assertThat(plan.kvLayer(i)).isLessThanOrEqualTo(group.last());
                }
                assertThat(upward).isEqualTo(group.iterated());
            }
            assertThat(covered)
                    .containsExactlyElementsOf(
                            IntStream.range(0, layers).boxed().toList());
        }
    }

    @Test
    void theDiagonalIsMaskedForUpwardReadersAndEverywhereWhenStrict() {
        KvPlan plan = KvPlan.parse("0_2_2_3");
        assertThat(IntStream.range(0, 4).filter(plan::masksDiagonal)).containsExactly(1);
        assertThat(IntStream.range(0, 4).filter(plan.withStrictDiagonal(true)::masksDiagonal))
                .containsExactly(0, 1, 2, 3);
        assertThat(plan.strictDiagonal()).isFalse();
        assertThat(plan.withStrictDiagonal(true).strictDiagonal()).isTrue();
    }

    @Test
    void aProducerKeepsOnlyTheWindowIfAllItsReadersUseIt() {
        KvPlan plan = KvPlan.parse("0s_1s_1s_3s_3;window=9");
        assertThat(IntStream.range(0, 5).filter(plan::usesWindow)).containsExactly(0, 1, 2, 3);
        assertThat(IntStream.range(0, 5).filter(plan::keepsOnlyWindow)).containsExactly(0, 1);
    }

    @Test
    void onlyThePlainIdentityIsStandard() {
        assertThat(KvPlan.standard(3).isStandard()).isTrue();
        assertThat(KvPlan.standard(3).isUpward()).isFalse();
        assertThat(KvPlan.standard(3).withPrefillPasses(9).isStandard()).isTrue();
        assertThat(KvPlan.standard(3).withStrictDiagonal(true).isStandard()).isFalse();
        assertThat(KvPlan.standard(3).withWindow(8, 1).isStandard()).isFalse();
        assertThat(KvPlan.of(0, 1, 1).isStandard()).isFalse();
    }

    @Test
    void theNineMapsHaveTheLayersTheyPromise() {
        for (int layers = 1; layers <= 40; layers++) {
            for (int kvLayers = 1; kvLayers <= layers; kvLayers++) {
                for (Partition partition : Partition.values()) {
                    for (Position position : Position.values()) {
                        KvPlan plan = KvPlan.of(partition, position, layers, kvLayers);
                        assertThat(plan.kvLayerCount()).isEqualTo(kvLayers);
                        assertThat(plan.layers()).isEqualTo(layers);
                        assertThat(kvLayers == 1 || plan.kvLayer(0) == 0 || position == Position.BOTTOM)
                                .isTrue();
                        assertThat(position == Position.BOTTOM && plan.isUpward())
                                .isFalse();
                    }
                }
                assertThat(KvPlan.layerCondensed(layers, kvLayers - 1))
                        .isEqualTo(KvPlan.of(Partition.SANDWICH, Position.TOP, layers, kvLayers));
                if (layers % kvLayers == 0) {
                    assertThat(KvPlan.crossLayerAttention(layers, layers / kvLayers))
                            .isEqualTo(KvPlan.mlkv(layers, kvLayers));
                }
            }
        }
    }

    @Test
    void thePlanCannotBeChangedFromOutside() {
        int[] map = {0, 0};
        KvPlan plan = KvPlan.of(map);
        map[1] = 1;
        plan.kvLayers()[1] = 1;
        assertThat(plan).hasToString("0_0");
    }

    @Test
    void aPictureShowsWhoReadsWhom() {
        assertThat(KvPlan.parse("0_3x3_4;strict;passes=9").picture()).isEqualTo("""
                        5 layers, 3 with a KV cache, strict diagonal, prefill passes 9
                         4  KV
                         3  KV <+
                         2     -+  reads 3 above
                         1     -+  reads 3 above
                         0  KV""");
        assertThat(KvPlan.parse("0_2_1s_3s_0;window=8;exact").picture()).isEqualTo("""
                        5 layers, 4 with a KV cache, window 8, exact prefill
                         4     -+      reads 0
                         3  KV  |      in the window
                         2  KV <|-+-+  reads 1 in the window
                         1  KV <|-+-+  reads 2 above
                         0  KV <+""");
    }

    @Test
    void aLazyLayerRetainsSinksAndRecentTokens() {
        KvPlan plan = KvPlan.standard(4).withRetention(4, 1024, 1, 3);
        assertThat(plan).hasToString("0_1s_2_3s;window=1024;sinks=4");
        assertThat(plan.sinks()).isEqualTo(4);
        assertThat(plan.keepsOnlyWindow(1)).isTrue();
        assertThat(plan.isStandard()).isFalse();
        assertThat(plan.picture()).startsWith("4 layers, 4 with a KV cache, window 1024 and 4 sinks\n");
        assertThat(plan).isNotEqualTo(plan.withSinks(0)).isNotEqualTo(plan.withSinks(5));
        assertThat(plan.withStrictDiagonal(true).withPrefillPasses(2).sinks()).isEqualTo(4);
        assertThat(KvPlan.parse("0_1s_2_3s;sinks=4;window=1024")).isEqualTo(plan);
        assertThat(KvPlan.parse("streaming", 3)).hasToString("0s_1s_2s;window=1024;sinks=4");
        assertThat(KvPlan.parse("streaming:50", 2)).hasToString("0s_1s;window=50;sinks=4");
        assertThat(KvPlan.parse("yoco:8;sinks=2", 2)).hasToString("0s_1;window=8;sinks=2");
    }

    @Test
    void lazyLayersCanBeLeftToTheEngine() {
        KvPlan plan = KvPlan.simLayerKv(4, OptionalDouble.of(0.9));
        assertThat(plan).hasToString("0_1_2_3;window=1024;sinks=4;lazy=0.9");
        assertThat(plan.isStandard()).isFalse();
        assertThat(plan.mayBeLazy(1)).isTrue();
        assertThat(plan.mayKeepOnlyWindow(1)).isTrue();
        assertThat(plan.keepsOnlyWindow(1)).isFalse();
        assertThat(plan.picture())
                .startsWith("4 layers, 4 with a KV cache, window 1024 and 4 sinks, automatic retention lazy=0.9\n");
        assertThat(plan)
                .isNotEqualTo(KvPlan.simLayerKv(4, OptionalDouble.empty()))
                .isNotEqualTo(KvPlan.standard(4));
        assertThat(KvPlan.lightTransfer(4, 2)).hasToString("0_1_2_3;window=1020;sinks=4;full=2");

        KvPlan shared = KvPlan.parse("0_0_2_2s;lazy=0.250;window=8;sinks=2;queries=5;decide=end;keep=1_0_1", 4);
        assertThat(shared).hasToString("0_0_2_2s;window=8;sinks=2;lazy=0.25;queries=5;decide=end;keep=0_1");
        assertThat(IntStream.range(0, 4).filter(shared::mayBeLazy)).containsExactly(2);
        assertThat(IntStream.range(0, 4).filter(shared::mayKeepOnlyWindow)).containsExactly(2);
        assertThat(shared.withPrefillPasses(3).withStrictDiagonal(true).automaticRetention())
                .isEqualTo(shared.automaticRetention());
        AutomaticRetention how = shared.automaticRetention().orElseThrow();
        assertThat(how)
                .isEqualTo(AutomaticRetention.above(0.25)
                        .withQueries(5)
                        .withDecision(AutomaticRetention.Decision.END)
                        .withKeptFull(0, 1));
        assertThat(how.hashCode()).isEqualTo(shared.automaticRetention().hashCode());
        assertThat(KvPlan.parse("0_0_2_2").withAutomaticRetention(2, 8, how).kvLayers())
                .containsExactly(0, 0, 2, 2);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "simlayerkv                    | 0_1_2;window=1024;sinks=4;lazy=default",
                "simlayerkv:0.850;keep=2       | 0_1_2;window=1024;sinks=4;lazy=0.85;keep=2",
                "simlayerkv:1;window=8;sinks=9 | 0_1_2;window=8;sinks=9;lazy=1",
                "lighttransfer:0               | 0_1_2;window=1020;sinks=4;full=0",
                "cla:2;lazy=0                  | 0_1_1;window=1024;sinks=4;lazy=0",
                "standard;full=3;decide=decode | 0_1_2;window=1020;sinks=4;full=3;decide=decode",
                "yoco:8;lazy=0.000001          | 0s_1_1;window=8;sinks=4;lazy=0.000001",
                "0_1s_2;lazy=default;queries=512;decide=early;strict | 0_1s_2;window=1024;sinks=4;lazy=default;queries=512;strict",
            })
    void automaticRetentionIsWrittenAsTextAndReadBack(String text, String canonical) {
        KvPlan plan = KvPlan.parse(text, 3);
        assertThat(plan).hasToString(canonical);
        assertThat(KvPlan.parse(canonical)).isEqualTo(plan);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "simlayerkv:1.1  | the threshold of lazy layers is 1.1, allowed are 0 to 1 with at most 6 digits after the point",
                "standard;lazy=-0.5 | \"-0.5\" is no threshold of lazy layers: a number from 0 to 1 with at most 6 digits after the point",
                "standard;lazy=0.1234567 | \"0.1234567\" is no threshold of lazy layers: a number from 0 to 1 with at most 6 digits after the point",
                "standard;lazy=  | \"\" is no threshold of lazy layers: a number from 0 to 1 with at most 6 digits after the point",
                "lighttransfer:5 | full=5 is more than the 4 layers to choose from",
                "standard;full=3;keep=0_1 | full=3 is more than the 2 layers to choose from",
                "standard;lazy=0.5;full=1 | the KV plan \"standard;lazy=0.5;full=1\" gives lazy or full twice",
                "simlayerkv;full=1 | the KV plan \"simlayerkv;full=1\" gives lazy or full twice",
                "standard;lazy=0.5;queries=513 | queries=513 is not from 1 to 512",
                "standard;lazy=0.5;queries=0 | queries=0 in the KV plan is too small, the least is 1",
                "standard;lazy=0.5;keep=4 | there is no layer 4: the layers are 0 to 3",
                "standard;lazy=0.5;keep=0_1_2_3 | automatic retention has no layer to decide on",
                "cla:2;lazy=0.5;keep=0_2 | automatic retention could free nothing: all that its layers read is read in full by layers that it leaves alone",
                "streaming;lazy=0.5 | automatic retention has no layer to decide on",
                "lckv:2;lazy=0.5 | automatic retention needs layers that read downward, but this plan has upward readers",
                "standard;lazy=0.5;decide=later | \"later\" is no time to decide; there are early, end and decode",
                "standard;keep=1 | queries, decide and keep belong to automatic retention: lazy=THRESHOLD or full=N",
                "standard;lazy=0.5;window=0 | window=0 in the KV plan is too small, the least is 1",
                "standard;lazy=0.5;sinks=0 | sinks=0 in the KV plan is too small, the least is 1",
            })
    void automaticRetentionOutOfRangeIsRefused(String text, String message) {
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> KvPlan.parse(text, 4))
                .withMessage(message);
    }

    @Test
    void theLargestPlanIsDrawnToo() {
        int[] mutual = IntStream.range(0, KvPlan.MAX_LAYERS)
                .map(i -> KvPlan.MAX_LAYERS - 1 - i)
                .toArray();
        assertThat(KvPlan.of(mutual).picture().lines()).hasSize(KvPlan.MAX_LAYERS + 1);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "0_1_9_3    | layer 2 reads layer 9, but the layers are 0 to 3 | 9 | 3",
                "0_0_0      | the KV plan has 3 layers, but the model has 4 | 3 | 4",
                "0x513      | a KV plan has at most 512 layers, not 513 | 513 | 512",
                "0x512_0x999999999 | a KV plan has at most 512 layers, not 1000000511 | 1000000511 | 512",
                "0_1x0      | layer 1 of the KV plan \"0_1x0\" is repeated 0 times | 0 | 1",
                "0_1s;window=8;sinks=0 | sinks=0 in the KV plan is too small, the least is 1 | 0 | 1",
                "0x4;passes=0 | passes=0 in the KV plan is too small, the least is 1 | 0 | 1",
                "0sx4;window=0 | window=0 in the KV plan is too small, the least is 1 | 0 | 1",
                "cla:0      | cla:0 needs a group size of at least 1 | 0 | 1",
                "cla:5      | cla:5 needs groups of 5 layers, but there are only 4 layers | 5 | 4",
                "lckv:4     | lckv:4 needs 0 to 3 warm-up layers among 4 layers | 4 | 3",
                "sandwich-middle:5 | sandwich-middle:5 needs 1 to 4 KV layers | 5 | 4",
                "pizza-top:0 | pizza-top:0 needs 1 to 4 KV layers | 0 | 4",
                "mlkv:7     | lasagna-bottom:7 needs 1 to 4 KV layers | 7 | 4",
                "yoco:0     | window=0 is too small, the least is 1: the position itself | 0 | 1",
            })
    void aNumberOutOfRangeIsNamedWithItsLimit(String text, String message, long value, long limit) {
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> KvPlan.parse(text, 4))
                .withMessage(message)
                .satisfies(e -> assertThat(e.value()).hasValue(value))
                .satisfies(e -> assertThat(e.limit()).hasValue(limit));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "0__0_0     | layer 1 of the KV plan \"0__0_0\" is \"\", which is not a layer number, alone or followed by s",
                "0_-1_0_0   | layer 1 of the KV plan \"0_-1_0_0\" is \"-1\", which is not a layer number, alone or followed by s",
                "0_0_0_0_   | layer 4 of the KV plan \"0_0_0_0_\" is \"\", which is not a layer number, alone or followed by s",
                "0_1S_0_0   | layer 1 of the KV plan \"0_1S_0_0\" is \"1S\", which is not a layer number, alone or followed by s",
                "0_ 1_0_0   | layer 1 of the KV plan \"0_ 1_0_0\" is \" 1\", which is not a layer number, alone or followed by s",
                "0_1x2s_0   | layer 1 of the KV plan \"0_1x2s_0\" is \"1x2s\", which is not a layer number, alone or followed by s",
                "0_9999999999_0_0 | layer 1 of the KV plan \"0_9999999999_0_0\" is \"9999999999\", which is not a layer number, alone or followed by s",
                "0_1s_1_1   | layer 1 reads through a sliding window, but the plan gives no window=N",
                "0_1_1_1;window=8 | window=8 is given, but no layer reads through a window (12s)",
                "lckv:2;window=8 | window=8 is given, but no layer reads through a window (12s)",
                "0_1_1_1;sinks=4 | sinks=4 is given, but no layer reads through a window (12s)",
                "streaming;sinks=4 | the KV plan \"streaming;sinks=4\" gives sinks twice",
                "0_1s_1_1;window=8;sinks=4;sinks=4 | the KV plan \"0_1s_1_1;window=8;sinks=4;sinks=4\" gives sinks twice",
                "yoco:4;window=8 | the KV plan \"yoco:4;window=8\" gives window twice",
                "0_1_1_1;strict;strict | the KV plan \"0_1_1_1;strict;strict\" gives strict twice",
                "0_1_1_1;exact;passes=2 | the KV plan \"0_1_1_1;exact;passes=2\" gives passes or exact twice",
                "0_1_1_1;   | the KV plan \"0_1_1_1;\" has the attribute \"\", but there are only window=N, sinks=N, lazy=THRESHOLD, full=N, queries=N, decide=WHEN, keep=LAYERS, evict=METHOD:BUDGET, at=WHEN, answer=N, skip=LAYERS, beta=N, chunk=N, future=N, kernel=N, lag=N, newest=N, recency=N, sample=N, seed=N, steps=N, strict, passes=N and exact",
                "0_1_1_1;loose | the KV plan \"0_1_1_1;loose\" has the attribute \"loose\", but there are only window=N, sinks=N, lazy=THRESHOLD, full=N, queries=N, decide=WHEN, keep=LAYERS, evict=METHOD:BUDGET, at=WHEN, answer=N, skip=LAYERS, beta=N, chunk=N, future=N, kernel=N, lag=N, newest=N, recency=N, sample=N, seed=N, steps=N, strict, passes=N and exact",
                "0_1_1_1;passes=x | \"passes=x\" in the KV plan needs a number of at most 9 digits, not \"x\"",
                "lckv       | the KV plan \"lckv\" needs a number, as in lckv:2",
                "lckv:      | \"lckv:\" in the KV plan needs a number of at most 9 digits, not \"\"",
                "cla:keep-end | \"cla:keep-end\" in the KV plan needs a number of at most 9 digits, not \"keep-end\"",
                "standard:2 | the KV plan standard takes no number, not \"standard:2\"",
            })
    void textOutsideTheGrammarIsRefused(String text, String message) {
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> KvPlan.parse(text, 4))
                .withMessage(message);
    }

    @ParameterizedTest
    @ValueSource(strings = {"", ";", ";strict", "burger-top:3", "LCKV:2", "é", "0\u0000", "\n0_0_0_0", "0_0_0_0 "})
    void anythingElseIsRefused(String text) {
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.parse(text, 4));
    }

    @Test
    void anUnknownNameIsAnsweredWithTheKnownOnes() {
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> KvPlan.parse("burger-top:3", 4))
                .withMessageStartingWith(
                        "there is no KV plan \"burger-top:3\"; write a map such as 0_0_2_2, or standard");
    }

    @Test
    void longTextIsNotRepeatedWhole() {
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> KvPlan.parse("z".repeat(100_000), 4))
                .satisfies(e -> assertThat(e.getMessage()).hasSizeLessThan(500));
    }

    @Test
    void aNameNeedsTheNumberOfLayers() {
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> KvPlan.parse("lckv:2"))
                .withMessage(
                        "the KV plan \"lckv:2\" depends on the number of layers; without a model, write the map out");
    }

    @Test
    void thereIsNoPlanWithoutLayers() {
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(KvPlan::of);
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.standard(0));
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.standard(-1));
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.standard(513));
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.parse("standard", 1 << 30));
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.keepEnds(1));
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.denseFront(1));
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.denseBack(1));
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.yoco(1, 8));
    }

    @Test
    void variationsCheckTheirArguments() {
        KvPlan plan = KvPlan.standard(4);
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> plan.withPrefillPasses(-1));
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> plan.withWindow(0, 1));
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> plan.withWindow(4));
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> plan.withWindow(4, 4))
                .withMessage("there is no layer 4: the layers are 0 to 3");
        assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> plan.kvLayer(-1));
        assertThat(Arrays.stream(plan.kvLayers())).containsExactly(0, 1, 2, 3);
    }
}
