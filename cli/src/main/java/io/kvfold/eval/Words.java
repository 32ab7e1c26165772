package io.kvfold.eval;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;

/** Common English words, as names of things and to be counted. */
final class Words {

    private static final List<String> ADJECTIVES = List.of("""
            able aged bold brave brief bright broad busy calm careful cheap clean clear clever close cold cool crisp \
            curly damp dark dear deep dense dim dry dull dusty eager early easy empty equal exact faint fair famous fast \
            fierce final firm flat fond formal frank free fresh full funny gentle glad golden grand grave great green grim \
            handy happy hard harsh heavy hollow honest huge humble hungry idle keen kind large late lazy lean light little \
            lively lonely long loose loud lovely low loyal lucky mad merry mild modern modest narrow neat new nice noble \
            odd old open pale patient plain polite proud quick quiet rare ready real rich ripe rough round rude sad safe \
            sharp short shy silent silver simple slim slow small smart smooth soft solid""".split(" "));

    private static final List<String> NOUNS = List.of("""
            anchor apple arrow autumn badge basket beach bell bench bird blanket boat book bottle bowl branch brick bridge \
            brush bucket button cabin cable camel candle carpet castle chain chair chalk cherry circle cloud coach coast \
            coin copper corner cotton crown curtain desert diamond dinner doctor donkey door dragon drawer dream drum \
            eagle engine envelope fabric farmer feather fence field finger flag flower forest fork fountain garden gate \
            giant glass glove goose grape guitar hammer harbor hill honey horse hotel island jacket jewel jungle kettle \
            kitchen ladder lake lamp lantern leaf lemon letter library lion lizard market meadow melon mirror monkey moon \
            mountain museum needle ocean olive onion orange orchard oven owl paint palace paper parrot pencil pepper piano \
            pillow pirate planet pocket potato prince pumpkin rabbit river rocket sailor""".split(" "));

    private Words() {}

    /** Different pairs of an adjective and a noun. */
    static List<String> names(int count, Random random) {
        Set<String> names = new LinkedHashSet<>();
        while (names.size() < count) {
            names.add(any(ADJECTIVES, random) + "-" + any(NOUNS, random));
        }
        return List.copyOf(names);
    }

    /** All words in an order of their own. */
    static List<String> shuffled(Random random) {
        List<String> all = new ArrayList<>(ADJECTIVES);
        all.addAll(NOUNS);
        Collections.shuffle(all, random);
        return all;
    }

    private static String any(List<String> words, Random random) {
        return words.get(random.nextInt(words.size()));
    }
}
