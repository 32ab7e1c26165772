package io.kvfold.benchmarks.jlama;

import com.github.tjake.jlama.safetensors.DType;
import com.github.tjake.jlama.safetensors.SafeTensorSupport;
import dev.langchain4j.model.StreamingResponseHandler;
import dev.langchain4j.model.jlama.JlamaStreamingLanguageModel;
import dev.langchain4j.model.output.Response;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;

/**
 * One answer of Jlama through langchain4j-jlama, for io.kvfold.benchmarks.PeerComparison. Reads a Hugging Face folder with
 * weights in bfloat16 as it is, or makes one in Jlama's 4 bits beside it (blocks of 32, as GGUF's q4_0), which is then
 * multiplied with activations in 8 bits: Jlama's fastest way.
 */
public final class JlamaSubject {

    private JlamaSubject() {}

    /** Arguments: a Hugging Face folder with tokenizer.json, q4 or bf16, prompt words, tokens, threads. */
    public static void main(String[] args) throws IOException {
        Path folder = Path.of(args[0]).toAbsolutePath();
        boolean q4 = args[1].equals("q4");
        int words = Integer.parseInt(args[2]);
        int tokens = Integer.parseInt(args[3]);
        int threads = Integer.parseInt(args[4]);
        Path cache = cacheWith(q4 ? quantized(folder) : folder);
        DType activations = q4 ? DType.I8 : DType.BF16;
        answer(model(cache, activations, threads, 4, 64), 4, 64);
        System.out.println(answer(model(cache, activations, null, words, tokens), words, tokens));
        System.exit(0); // its threads do not end
    }

    private static Path quantized(Path folder) throws IOException {
        Path target = folder.resolveSibling(folder.getFileName() + "-JQ4");
        if (!Files.exists(target)) {
            SafeTensorSupport.quantizeModel(folder, DType.Q4, new String[0], new String[0], Optional.of(target));
        }
        return target;
    }

    /** Jlama takes models by name from a folder of its own; what is marked as finished is not downloaded. */
    private static Path cacheWith(Path folder) throws IOException {
        Path cache = Files.createTempDirectory("jlama");
        Files.createSymbolicLink(cache.resolve("local_model"), folder);
        Path finished = folder.resolve(".finished");
        if (!Files.exists(finished)) {
            Files.createFile(finished);
        }
        return cache;
    }

    /** @param threads of all models of the process, given once */
    private static JlamaStreamingLanguageModel model(
            Path cache, DType activations, Integer threads, int words, int tokens) {
        return JlamaStreamingLanguageModel.builder()
                .modelCachePath(cache)
                .modelName("local/model")
                .threadCount(threads)
                .workingQuantizedType(activations)
                .temperature(0f)
                .maxTokens(5 * words + 8 + tokens) // the prompt's count, a letter is a token
                .build();
    }

    /** Times the first so many tokens of an answer that may be a little longer. */
    private static String answer(JlamaStreamingLanguageModel model, int words, int tokens) {
        long[] times = new long[2]; // of the first and of the latest text
        int[] count = new int[1];
        CompletableFuture<Response<String>> done = new CompletableFuture<>();
        long start = System.nanoTime();
        model.generate("once upon a time ".repeat(words / 4), new StreamingResponseHandler<String>() {
            @Override
            public void onNext(String token) {
                if (count[0] < tokens) {
                    times[1] = System.nanoTime();
                    times[0] = count[0]++ == 0 ? times[1] : times[0];
                }
            }

            @Override
            public void onComplete(Response<String> response) {
                done.complete(response);
            }

            @Override
            public void onError(Throwable error) {
                done.completeExceptionally(error);
            }
        });
        done.join();
        if (count[0] < tokens) {
            throw new IllegalStateException("the answer has " + count[0] + " tokens instead of " + tokens);
        }
        return String.format(
                Locale.ROOT,
                "rates %f %f",
                words / (1e-9 * (times[0] - start)),
                (count[0] - 1) / (1e-9 * (times[1] - times[0])));
    }
}
