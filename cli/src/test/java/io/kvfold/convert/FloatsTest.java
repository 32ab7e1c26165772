package io.kvfold.convert;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class FloatsTest {

    @Test
    void everyHalfSurvivesTheWayToFloatAndBack() {
        for (int bits = 0; bits < 1 << 16; bits++) {
            float value = Floats.halfToFloat((short) bits);
            if (!Float.isNaN(value)) {
                assertThat(Floats.floatToHalf(value)).isEqualTo((short) bits);
            }
        }
    }

    @Test
    void roundsToTheNearestHalfAndTiesToEven() {
        Random random = new Random(1);
        for (int round = 0; round < 200_000; round++) {
            float value = Float.intBitsToFloat(random.nextInt());
            if (Float.isNaN(value) || Math.abs(value) >= 65504) {
                continue;
            }
            int half = Floats.floatToHalf(value) & 0xffff;
            double error = Math.abs((double) Floats.halfToFloat((short) half) - value);
            for (int neighbour = half - 1; neighbour <= half + 1; neighbour += 2) {
                float other = Floats.halfToFloat((short) neighbour);
                if (!Float.isNaN(other) && (neighbour & 0x8000) == (half & 0x8000)) {
                    double otherError = Math.abs((double) other - value);
                    assertThat(error < otherError || (error == otherError && half % 2 == 0))
                            .as("%s", value)
                            .isTrue();
                }
            }
        }
    }

    @ParameterizedTest
    @CsvSource({
        "65504, 7bff",
        "65519.996, 7bff",
        "65520, 7c00",
        "-65520, fc00",
        "Infinity, 7c00",
        "NaN, 7e00",
        "0, 0",
        "-0.0, 8000",
        "5.9604645E-8, 1",
        "2.9802322E-8, 0",
        "2.9802326E-8, 1",
        "6.1035156E-5, 400",
        "6.1005354E-5, 400",
        "1.0004883, 3c00",
        "1.0014648, 3c02"
    })
    void knowsTheCornersOfHalf(float value, String bits) {
        assertThat(Integer.toHexString(Floats.floatToHalf(value) & 0xffff)).isEqualTo(bits);
    }

    @ParameterizedTest
    @CsvSource({
        "1, 3f80",
        "1.00390625, 3f80",
        "1.01171875, 3f82",
        "-1.004, bf81",
        "3.4028235E38, 7f80",
        "Infinity, 7f80",
        "NaN, 7fc0",
        "1E-45, 0"
    })
    void roundsToTheNearestBfloatAndTiesToEven(float value, String bits) {
        assertThat(Integer.toHexString(Floats.floatToBfloat(value) & 0xffff)).isEqualTo(bits);
    }

    @Test
    void quantisesABlockAsGgmlDoes() {
        float[] row = new float[32];
        row[0] = -254;
        row[1] = 1;
        row[2] = -1;
        row[3] = 3;
        row[4] = 0.99f;
        row[31] = 254;
        ByteBuffer out = ByteBuffer.allocate(34).order(ByteOrder.LITTLE_ENDIAN);

        Floats.putQ8Row(row, out);

        assertThat(Floats.halfToFloat(out.getShort(0))).isEqualTo(2);
        assertThat(out.get(2)).isEqualTo((byte) -127);
        assertThat(out.get(3)).as("half of a step, away from zero").isEqualTo((byte) 1);
        assertThat(out.get(4)).isEqualTo((byte) -1);
        assertThat(out.get(5)).isEqualTo((byte) 2);
        assertThat(out.get(6)).isZero();
        assertThat(out.get(33)).isEqualTo((byte) 127);
    }

    @Test
    void quantisesABlockOfZeros() {
        ByteBuffer out = ByteBuffer.allocate(34);

        Floats.putQ8Row(new float[32], out);

        assertThat(out.array()).containsOnly(0);
    }
}
