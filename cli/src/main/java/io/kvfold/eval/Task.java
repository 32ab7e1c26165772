package io.kvfold.eval;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * The synthetic tasks of RULER, in words of our own: needles in a haystack, variable tracking, common words extraction.
 *
 * @see <a href="https://arxiv.org/abs/2404.06654">RULER</a>
 */
public enum Task {
    /** One number, at a given depth of the text. */
    SINGLE("single") {
        @Override
        Question question(Haystack haystack, int size, double depth, Random random) {
            String name = Words.names(1, random).get(0);
            String number = number(random);
            return numbers(haystack.around(needle(name, number), depth, size, random), name, List.of(number));
        }
    },

    /** One number of several, each of another name. */
    MULTI_KEY("multi-key") {
        @Override
        Question question(Haystack haystack, int size, double depth, Random random) {
            List<String> names = Words.names(NEEDLES, random);
            List<String> numbers = numbers(random);
            String text = haystack.around(needles(names, numbers), size, random);
            return numbers(text, names.get(0), numbers.subList(0, 1));
        }
    },

    /** Several numbers of one name. */
    MULTI_VALUE("multi-value") {
        @Override
        Question question(Haystack haystack, int size, double depth, Random random) {
            String name = Words.names(1, random).get(0);
            List<String> numbers = numbers(random);
            String text = haystack.around(needles(Collections.nCopies(NEEDLES, name), numbers), size, random);
            return numbers(text, name, numbers);
        }
    },

    /** Several numbers, each of another name, all asked for. */
    MULTI_QUERY("multi-query") {
        @Override
        Question question(Haystack haystack, int size, double depth, Random random) {
            List<String> names = Words.names(NEEDLES, random);
            List<String> numbers = numbers(random);
            String text = haystack.around(needles(names, numbers), size, random);
            return numbers(text, String.join(", ", names), numbers);
        }
    },

    /** Variables that are set to one another in a chain. */
    VARIABLES("variables") {
        @Override
        Question question(Haystack haystack, int size, double depth, Random random) {
            return withExample(chain(haystack, EXAMPLE_SENTENCES, random), chain(haystack, size, random));
        }

        private Question chain(Haystack haystack, int size, Random random) {
            List<String> names = IntStream.rangeClosed(0, HOPS)
                    .mapToObj(i -> random.ints(5, 'A', 'Z' + 1)
                            .mapToObj(Character::toString)
                            .collect(Collectors.joining()))
                    .toList();
            String value = Integer.toString(10_000 + random.nextInt(90_000));
            List<String> assignments = new ArrayList<>();
            for (int i = 0; i < names.size(); i++) {
                assignments.add("VAR " + names.get(i) + " = " + (i == 0 ? value : "VAR " + names.get(i - 1)) + ".");
            }
            return new Question(
                    "Keep track of the variables that are assigned in the following text.\n\n"
                            + haystack.around(assignments, size, random)
                            + "\n\nWhich variables in the text above have the value " + value + "?",
                    names.size() + " variables in the text above have the value " + value + ":",
                    names);
        }
    },

    /** The words that are more frequent than others in a long list. */
    COMMON_WORDS("common-words") {
        @Override
        Question question(Haystack haystack, int size, double depth, Random random) {
            return withExample(list(EXAMPLE_WORDS, random), list(EXAMPLE_WORDS + size, random));
        }

        /** Half of it is up to ten words, ten times as frequent as the others. */
        private Question list(int size, Random random) {
            int rare = Math.max(1, Math.round(size / 200f));
            int common = Math.min(10, size / (20 * rare));
            List<String> words = Words.shuffled(random);
            List<String> list = new ArrayList<>();
            for (int i = 0; list.size() < size; i++) {
                list.addAll(Collections.nCopies(i < common ? 10 * rare : rare, words.get(i)));
            }
            list.subList(size, list.size()).clear();
            Collections.shuffle(list, random);
            String numbered = IntStream.range(0, size)
                    .mapToObj(i -> (i + 1) + ". " + list.get(i))
                    .collect(Collectors.joining(" "));
            return new Question(
                    "Some words in the following list are more frequent than the others. Remember these.\n\n" + numbered
                            + "\n\nWhat are the " + common + " most frequent words in the list above?",
                    "The " + common + " most frequent words in the list above are:",
                    words.subList(0, common));
        }
    };

    private static final int NEEDLES = 4;
    private static final int HOPS = 4;
    private static final int EXAMPLE_SENTENCES = 5;
    private static final int EXAMPLE_WORDS = 40;

    private final String label;

    Task(String label) {
        this.label = label;
    }

    /**
     * Makes up a question; the same one of the same arguments.
     *
     * @param size how much there is besides what matters: sentences, or words of the list
     * @param depth where it stands, from 0 to 1, if it is one sentence
     */
    abstract Question question(Haystack haystack, int size, double depth, Random random);

    /** As on a command line. */
    @Override
    public String toString() {
        return label;
    }

    private static String number(Random random) {
        return Integer.toString(1_000_000 + random.nextInt(9_000_000));
    }

    private static List<String> numbers(Random random) {
        return IntStream.range(0, NEEDLES).mapToObj(i -> number(random)).toList();
    }

    private static String needle(String name, String number) {
        return "One of the magic numbers of the " + name + " is " + number + ".";
    }

    private static List<String> needles(List<String> names, List<String> numbers) {
        return IntStream.range(0, NEEDLES)
                .mapToObj(i -> needle(names.get(i), numbers.get(i)))
                .toList();
    }

    private static Question numbers(String text, String names, List<String> answers) {
        boolean single = answers.size() == 1;
        String what = (single ? "magic number" : "magic numbers") + " of the " + names + " in the text above";
        String verb = single ? "is" : "are";
        return new Question(
                "Magic numbers are hidden in the following text. Remember them, you will be asked for them.\n\n" + text
                        + "\n\nWhat " + verb + " the " + what + "?",
                "The " + what + " " + verb,
                answers);
    }

    /** As RULER does for what is hard to say in words. */
    private static Question withExample(Question example, Question question) {
        return new Question(
                example.text() + "\n" + example.prefix() + " " + String.join(", ", example.answers()) + ".\n\n"
                        + question.text(),
                question.prefix(),
                question.answers());
    }
}
