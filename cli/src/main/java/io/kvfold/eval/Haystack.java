package io.kvfold.eval;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.Random;

/** What surrounds the sentences that matter. */
public final class Haystack {

    /** The filler of the passkey task (arXiv 2305.16300), over and over. */
    public static final Haystack NOISE = new Haystack(List.of(
            "The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again."));

    private final List<String> sentences;

    private Haystack(List<String> sentences) {
        this.sentences = sentences;
    }

    /**
     * The sentences of a text, each time from another one on.
     *
     * @throws IllegalArgumentException if it has none
     */
    public static Haystack of(String text) {
        List<String> sentences = Arrays.stream(text.split("(?<=[.!?])\\s+|\\R{2,}"))
                .map(sentence -> sentence.strip().replaceAll("\\s+", " "))
                .filter(sentence -> !sentence.isEmpty())
                .toList();
        if (sentences.isEmpty()) {
            throw new IllegalArgumentException("the text has no sentences");
        }
        return new Haystack(sentences);
    }

    /** So many sentences with others among them, which stay in their order. */
    String around(List<String> needles, int count, Random random) {
        int[] places = random.ints(needles.size(), 0, count + 1).sorted().toArray();
        return around(needles, places, count, random);
    }

    /** The same with one other at a depth from 0, its beginning, to 1. */
    String around(String needle, double depth, int count, Random random) {
        return around(List.of(needle), new int[] {(int) Math.round(depth * count)}, count, random);
    }

    private String around(List<String> needles, int[] places, int count, Random random) {
        int start = this == NOISE ? 0 : random.nextInt(sentences.size());
        List<String> all = new ArrayList<>();
        Iterator<String> next = needles.iterator();
        int placed = 0;
        for (int i = 0; i <= count; i++) {
            for (; placed < places.length && places[placed] == i; placed++) {
                all.add(next.next());
            }
            if (i < count) {
                all.add(sentences.get((start + i) % sentences.size()));
            }
        }
        return String.join(" ", all);
    }
}
