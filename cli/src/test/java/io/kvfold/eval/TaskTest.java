package io.kvfold.eval;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

final class TaskTest {

    private static Question question(Task task, int size, double depth) {
        return task.question(Haystack.NOISE, size, depth, new Random(7));
    }

    @ParameterizedTest
    @EnumSource
    void asksForWhatStandsInTheText(Task task) {
        for (int size : new int[] {1, 60, 259, 5000}) {
            Question question = question(task, size, 0.5);

            assertThat(question.answers())
                    .doesNotHaveDuplicates()
                    .allSatisfy(answer -> assertThat(question.text()).contains(answer));
            assertThat(question.score(question.prefix())).isLessThan(0.2);
            assertThat(question).isEqualTo(question(task, size, 0.5));
            assertThat(question.text())
                    .isNotEqualTo(task.question(Haystack.NOISE, size, 0.5, new Random(8))
                            .text());
        }
        assertThat(question(task, 400, 0.5).text().length())
                .isGreaterThan(question(task, 200, 0.5).text().length());
    }

    @ParameterizedTest
    @CsvSource({"0, 0", "0.25, 25", "1, 100"})
    void putsTheSingleNeedleAtItsDepth(double depth, int sentencesBefore) {
        String body = question(Task.SINGLE, 100, depth).text().split("\n\n")[1];
        String before = body.substring(0, body.indexOf("One of the magic numbers"));

        assertThat(before.chars().filter(c -> c == '.').count()).isEqualTo(sentencesBefore);
    }

    @ParameterizedTest
    @CsvSource({"MULTI_KEY, 1", "MULTI_VALUE, 4", "MULTI_QUERY, 4", "VARIABLES, 5", "COMMON_WORDS, 10"})
    void asksForSoMany(Task task, int answers) {
        assertThat(question(task, 400, 0).answers()).hasSize(answers);
    }

    @Test
    void assignsVariablesInTheirOrder() {
        Question question = question(Task.VARIABLES, 300, 0);
        String text = question.text();
        int last = -1;
        for (String name : question.answers()) {
            int place = text.indexOf("VAR " + name + " = ");
            assertThat(place).isGreaterThan(last);
            last = place;
        }
    }

    @Test
    void repeatsCommonWordsTenTimesAsOftenAsOthers() {
        Question question = question(Task.COMMON_WORDS, 1160, 0);
        Map<String, Integer> counts = new HashMap<>();
        String list = question.text().substring(question.text().lastIndexOf("\n\n1. "));
        Arrays.stream(list.split("\\s+"))
                .filter(word -> word.matches("[a-z]+"))
                .forEach(word -> counts.merge(word, 1, Integer::sum));
        for (String word : question.answers()) {
            assertThat(counts.remove(word)).isGreaterThanOrEqualTo(60);
        }
        assertThat(counts.values().stream().filter(n -> n > 8)).isEmpty();
    }

    @Test
    void scoresTheShareOfTheAnswersInAnyCase() {
        Question question = new Question("", "", List.of("AB", "cd", "ef"));

        assertThat(question.score("ab and CD")).isEqualTo(2.0 / 3);
        assertThat(question.score("")).isZero();
    }

    @Test
    void takesSentencesOfAText() {
        Haystack haystack = Haystack.of("One is here. Is two?\nThree\nfour.\n\nFive");

        assertThat(haystack.around("X.", 1, 4, new Random(1)))
                .contains("Is two?")
                .contains("Three four.")
                .endsWith(" X.");
        assertThatThrownBy(() -> Haystack.of(" \n\n ")).isInstanceOf(IllegalArgumentException.class);
    }
}
