package io.kvfold.cli;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.OptionalLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.TypeConversionException;

/** Values as a command line writes them. */
final class Values {

    private static final String[] BYTE_UNITS = {"B", "KiB", "MiB", "GiB", "TiB"};

    private static final Pattern SIZE = Pattern.compile("([0-9]+) ?(B|KiB|MiB|GiB|TiB|)");

    private Values() {}

    /** Three significant digits or more in the largest unit that gives at least 1, such as {@code 3.25 MiB}. */
    static String bytes(long bytes) {
        double value = bytes;
        int unit = 0;
        while (value >= 1024 && unit < BYTE_UNITS.length - 1) {
            value /= 1024;
            unit++;
        }
        int digits = unit == 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
        return String.format(Locale.ROOT, "%." + digits + "f %s", value, BYTE_UNITS[unit]);
    }

    /** The opposite: a whole number with one of these units, or with none for bytes; empty if it is no such size. */
    static OptionalLong parseBytes(String text) {
        Matcher matcher = SIZE.matcher(text.strip());
        if (!matcher.matches()) {
            return OptionalLong.empty();
        }
        int unit = matcher.group(2).isEmpty() ? 0 : Arrays.asList(BYTE_UNITS).indexOf(matcher.group(2));
        try {
            return OptionalLong.of(Math.multiplyExact(Long.parseLong(matcher.group(1)), 1L << (10 * unit)));
        } catch (ArithmeticException | NumberFormatException e) {
            return OptionalLong.empty();
        }
    }

    /** The value of an option of an engine: a Boolean if it is written like one. */
    static Object option(String text) {
        return text.equals("true") || text.equals("false") ? (Object) Boolean.valueOf(text) : text;
    }

    /** Ascending numbers, such as {@code 0, 3 to 7, 9}. */
    static String ranges(List<Integer> numbers) {
        List<String> ranges = new ArrayList<>();
        for (int from = 0, to; from < numbers.size(); from = to) {
            to = from + 1;
            while (to < numbers.size() && numbers.get(to) == numbers.get(to - 1) + 1) {
                to++;
            }
            String first = numbers.get(from).toString();
            ranges.add(to - from == 1 ? first : first + (to - from == 2 ? ", " : " to ") + numbers.get(to - 1));
        }
        return String.join(", ", ranges);
    }

    /** An option's size. */
    static final class SizeConverter implements ITypeConverter<Long> {
        @Override
        public Long convert(String text) {
            return parseBytes(text)
                    .orElseThrow(
                            () -> new TypeConversionException("'" + text + "' is not a size such as 512MiB or 8GiB"));
        }
    }

    static String format(String format, Object... arguments) {
        return String.format(Locale.ROOT, format, arguments);
    }
}
