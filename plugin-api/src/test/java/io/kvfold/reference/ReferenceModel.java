package io.kvfold.reference;

import io.kvfold.KvPlan;
import io.kvfold.reference.Shape.Architecture;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.IntStream;

/**
 * A decoder with cross-layer KV sharing in plain loops and double precision: what every other implementation is compared
 * with. Weights have the names and the layout of Hugging Face's Llama, so rotary embedding pairs element d of a head
 * with element d + headSize / 2.
 */
final class ReferenceModel {
    private final Shape shape;
    private final KvPlan plan;
    private final Map<String, float[]> weights;

    /**
     * @param weights Hugging Face tensor names to row-major values; k_proj and v_proj are looked up in producers only
     */
    ReferenceModel(Shape shape, KvPlan plan, Map<String, float[]> weights) {
        this.shape = shape;
        this.plan = plan;
        this.weights = weights;
    }

    Sequence newSequence() {
        return new Sequence();
    }

    /** Logits [tokens, vocabulary] of one token at a time: the exact answer. */
    double[][] sequential(int... tokens) {
        return chunked(tokens, 1, 1);
    }

    /**
     * Logits [tokens, vocabulary] of chunks of equal size, the last one possibly shorter.
     *
     * @param passes see {@link Sequence#append}
     */
    double[][] chunked(int[] tokens, int chunk, int passes) {
        Sequence sequence = newSequence();
        List<double[]> logits = new ArrayList<>();
        for (int from = 0; from < tokens.length; from += chunk) {
            int to = Math.min(from + chunk, tokens.length);
            logits.addAll(Arrays.asList(sequence.append(passes, Arrays.copyOfRange(tokens, from, to))));
        }
        return logits.toArray(double[][]::new);
    }

    interface AttentionObserver {
        void onProbability(int layer, int head, int query, int key, double probability);
    }

    /** One sequence with its KV cache. */
    final class Sequence {
        private final List<List<double[]>> keys = new ArrayList<>(); // per layer, per position: rotated, [kvWidth]
        private final List<List<double[]>> values = new ArrayList<>();
        private int past;
        private double[][] hidden = {};
        private final Set<Integer> lazy = new HashSet<>();
        private AttentionObserver observer = (layer, head, query, key, probability) -> {};

        private Sequence() {
            for (int i = 0; i < plan.layers(); i++) {
                keys.add(new ArrayList<>());
                values.add(new ArrayList<>());
            }
        }

        /**
         * Computes a chunk of tokens and keeps its keys and values.
         *
         * @param passes how often groups with upward readers are computed; as many as there are tokens is exact
         * @return logits [tokens, vocabulary]
         */
        double[][] append(int passes, int... tokens) {
            double[][] hidden = new double[tokens.length][];
            for (int t = 0; t < tokens.length; t++) {
                hidden[t] = row("model.embed_tokens.weight", tokens[t], shape.hidden());
            }
            for (int j = 0; j < plan.layers(); j++) {
                for (int t = 0; plan.isProducer(j) && t < tokens.length; t++) {
                    keys.get(j).add(new double[shape.kvWidth()]);
                    values.get(j).add(new double[shape.kvWidth()]);
                }
            }
            for (KvPlan.Group group : plan.groups()) {
                double[][] input = hidden;
                for (int pass = 0; pass < (group.iterated() ? passes : 1); pass++) {
                    hidden = input;
                    for (int i = group.first(); i <= group.last(); i++) {
                        hidden = layer(i, hidden);
                    }
                }
            }
            past += tokens.length;
            this.hidden = new double[tokens.length][];
            double[][] logits = new double[tokens.length][];
            for (int t = 0; t < tokens.length; t++) {
                String head = weights.containsKey("lm_head.weight") ? "lm_head.weight" : "model.embed_tokens.weight";
                this.hidden[t] = rmsNorm(hidden[t], "model.norm.weight");
                logits[t] = product(head, this.hidden[t], shape.vocabulary());
            }
            return logits;
        }

        /** The last layer's output of the last chunk, normed: [tokens, hidden]. */
        double[][] hiddenStates() {
            return hidden;
        }

        /** The keys of a producer: [positions, kvWidth]. */
        double[][] keys(int layer) {
            return keys.get(layer).toArray(double[][]::new);
        }

        /** The values of a producer: [positions, kvWidth]. */
        double[][] values(int layer) {
            return values.get(layer).toArray(double[][]::new);
        }

        /** From the next chunk on this layer reads through the plan's window, sinks included. */
        void makeLazy(int layer) {
            lazy.add(layer);
        }

        /** Told of every attention probability while a chunk is computed. */
        void observe(AttentionObserver observer) {
            this.observer = observer;
        }

        /**
         * One layer for the whole chunk. A layer that reads downward finds the rows that this pass has written; one
         * that reads upward finds those of the pass before, as its producer's turn is yet to come.
         */
        private double[][] layer(int i, double[][] input) {
            String name = "model.layers." + i + ".";
            int chunk = input.length;
            double[][] normed = new double[chunk][];
            for (int t = 0; t < chunk; t++) {
                normed[t] = rmsNorm(input[t], name + "input_layernorm.weight");
            }
            for (int t = 0; plan.isProducer(i) && t < chunk; t++) {
                keys.get(i).set(past + t, heads(name + "self_attn.k", normed[t], shape.kvHeads(), past + t));
                values.get(i).set(past + t, project(name + "self_attn.v_proj", normed[t], shape.kvWidth()));
            }
            double[][] output = new double[chunk][];
            for (int t = 0; t < chunk; t++) {
                double[] attended =
                        attend(i, heads(name + "self_attn.q", normed[t], shape.heads(), past + t), past + t);
                double[] h = sum(input[t], product(name + "self_attn.o_proj.weight", attended, shape.hidden()));
                output[t] = sum(h, mlp(name, rmsNorm(h, name + "post_attention_layernorm.weight")));
            }
            return output;
        }

        private double[] attend(int layer, double[] query, int position) {
            List<double[]> producedKeys = keys.get(plan.kvLayer(layer));
            List<double[]> producedValues = values.get(plan.kvLayer(layer));
            int last = plan.kvLayer(layer) > layer || plan.strictDiagonal() ? position - 1 : position;
            int[] seen = IntStream.rangeClosed(0, last)
                    .filter(s -> !(plan.usesWindow(layer) || lazy.contains(layer))
                            || s < plan.sinks()
                            || position - s < plan.window().orElseThrow())
                    .toArray();
            double[] result = new double[shape.queryWidth()];
            if (seen.length == 0) {
                return result;
            }
            int size = shape.headSize();
            for (int head = 0; head < shape.heads(); head++) {
                int q = head * size;
                int kv = head / (shape.heads() / shape.kvHeads()) * size;
                double[] weight = new double[seen.length];
                double max = Double.NEGATIVE_INFINITY;
                for (int n = 0; n < seen.length; n++) {
                    double dot = 0;
                    for (int d = 0; d < size; d++) {
                        dot += query[q + d] * producedKeys.get(seen[n])[kv + d];
                    }
                    weight[n] = dot / Math.sqrt(size);
                    max = Math.max(max, weight[n]);
                }
                double total = 0;
                for (int n = 0; n < seen.length; n++) {
                    weight[n] = Math.exp(weight[n] - max);
                    total += weight[n];
                }
                for (int n = 0; n < seen.length; n++) {
                    observer.onProbability(layer, head, position, seen[n], weight[n] / total);
                    for (int d = 0; d < size; d++) {
                        result[q + d] += weight[n] / total * producedValues.get(seen[n])[kv + d];
                    }
                }
            }
            return result;
        }
    }

    /** Query or key heads of one token: projected, normed where the architecture does, rotated to its position. */
    private double[] heads(String name, double[] x, int count, int position) {
        int size = shape.headSize();
        double[] projected = project(name + "_proj", x, count * size);
        for (int head = 0; head < count; head++) {
            double[] one = Arrays.copyOfRange(projected, head * size, (head + 1) * size);
            if (shape.architecture() == Architecture.QWEN3) {
                one = rmsNorm(one, name + "_norm.weight");
            }
            System.arraycopy(rotate(one, position), 0, projected, head * size, size);
        }
        return projected;
    }

    private double[] rotate(double[] head, int position) {
        int half = head.length / 2;
        double[] rotated = new double[head.length];
        for (int d = 0; d < half; d++) {
            double angle = position * Math.pow(shape.ropeTheta(), -2.0 * d / head.length);
            rotated[d] = head[d] * Math.cos(angle) - head[d + half] * Math.sin(angle);
            rotated[d + half] = head[d + half] * Math.cos(angle) + head[d] * Math.sin(angle);
        }
        return rotated;
    }

    private double[] mlp(String name, double[] x) {
        double[] gate = product(name + "mlp.gate_proj.weight", x, shape.feedForward());
        double[] up = product(name + "mlp.up_proj.weight", x, shape.feedForward());
        for (int k = 0; k < gate.length; k++) {
            gate[k] = gate[k] / (1 + Math.exp(-gate[k])) * up[k];
        }
        return product(name + "mlp.down_proj.weight", gate, shape.hidden());
    }

    private double[] project(String name, double[] x, int width) {
        double[] y = product(name + ".weight", x, width);
        return shape.architecture() == Architecture.QWEN2 ? sum(y, row(name + ".bias", 0, width)) : y;
    }

    private double[] product(String name, double[] x, int width) {
        float[] matrix = weight(name, width * x.length, 1);
        double[] y = new double[width];
        for (int r = 0; r < width; r++) {
            for (int c = 0; c < x.length; c++) {
                y[r] += matrix[r * x.length + c] * x[c];
            }
        }
        return y;
    }

    private double[] rmsNorm(double[] x, String name) {
        double squares = 0;
        for (double v : x) {
            squares += v * v;
        }
        double scale = 1 / Math.sqrt(squares / x.length + shape.epsilon());
        double[] y = row(name, 0, x.length);
        for (int k = 0; k < x.length; k++) {
            y[k] *= x[k] * scale;
        }
        return y;
    }

    private double[] row(String name, int row, int width) {
        float[] matrix = weight(name, width, row + 1);
        double[] x = new double[width];
        for (int k = 0; k < width; k++) {
            x[k] = matrix[row * width + k];
        }
        return x;
    }

    private float[] weight(String name, int width, int rows) {
        float[] weight = weights.get(name);
        if (weight == null || weight.length < width * rows) {
            throw new IllegalStateException("no weight " + name + " [" + rows + ", " + width + "]");
        }
        return weight;
    }

    private static double[] sum(double[] a, double[] b) {
        double[] c = new double[a.length];
        for (int k = 0; k < a.length; k++) {
            c[k] = a[k] + b[k];
        }
        return c;
    }
}
