package io.kvfold.examples;

import dev.langchain4j.data.document.Document;
import dev.langchain4j.data.document.loader.ClassPathDocumentLoader;
import dev.langchain4j.data.document.loader.FileSystemDocumentLoader;
import dev.langchain4j.data.document.splitter.DocumentSplitters;
import dev.langchain4j.data.segment.TextSegment;
import dev.langchain4j.model.embedding.EmbeddingModel;
import dev.langchain4j.model.embedding.onnx.allminilml6v2q.AllMiniLmL6V2QuantizedEmbeddingModel;
import dev.langchain4j.rag.content.Content;
import dev.langchain4j.rag.content.retriever.EmbeddingStoreContentRetriever;
import dev.langchain4j.service.AiServices;
import dev.langchain4j.service.Result;
import dev.langchain4j.service.SystemMessage;
import dev.langchain4j.store.embedding.EmbeddingStoreIngestor;
import dev.langchain4j.store.embedding.inmemory.InMemoryEmbeddingStore;
import io.kvfold.demo.DemoModel;
import io.kvfold.langchain4j.KvfoldChatModel;
import io.kvfold.langchain4j.KvfoldChatResponseMetadata;
import io.kvfold.langchain4j.KvfoldEmbeddingModel;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;

/**
 * Answers questions about text files, all of it in this process and without a network. Without arguments the
 * demonstration model answers three questions about four files that come along; the right files are found, but the model is
 * too small for a good answer. Arguments: a GGUF file that answers, a folder of text files, and optionally a GGUF file that
 * embeds in place of all-MiniLM-L6-v2. Then reads one question per line.
 *
 * <p>The instructions come first in every prompt, so they are prefilled once; what follows depends on the question.
 */
public final class RagExample {

    interface Assistant {

        @SystemMessage(
                "Answer in one sentence, from the given information alone. Say so if it does not hold the answer.")
        Result<String> answer(String question);
    }

    private static final List<String> QUESTIONS = List.of(
            "What grows with the number of tokens, layers and heads?",
            "On which port does the server listen?",
            "What happens to the state of a conversation after a restart?");

    private RagExample() {}

    public static void main(String[] args) {
        if (args.length == 1 || args.length > 3) {
            throw new IllegalArgumentException("arguments: none, or <model.gguf> <folder> [<embedding-model.gguf>]");
        }
        if (args.length == 0) {
            answer(
                    DemoModel.FOLDED.file(),
                    ClassPathDocumentLoader.loadDocuments("documents"),
                    new AllMiniLmL6V2QuantizedEmbeddingModel(),
                    QUESTIONS);
            return;
        }
        List<Document> documents = FileSystemDocumentLoader.loadDocuments(Path.of(args[1]));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Iterable<String> questions = in.lines()::iterator;
        if (args.length == 2) {
            answer(Path.of(args[0]), documents, new AllMiniLmL6V2QuantizedEmbeddingModel(), questions);
            return;
        }
        try (KvfoldEmbeddingModel embeddings =
                KvfoldEmbeddingModel.builder().modelPath(args[2]).build()) {
            answer(Path.of(args[0]), documents, embeddings, questions);
        }
    }

    static void answer(Path gguf, List<Document> documents, EmbeddingModel embeddings, Iterable<String> questions) {
        InMemoryEmbeddingStore<TextSegment> store = new InMemoryEmbeddingStore<>();
        EmbeddingStoreIngestor.builder()
                .documentSplitter(DocumentSplitters.recursive(300, 30)) // characters
                .embeddingModel(embeddings)
                .embeddingStore(store)
                .build()
                .ingest(documents);
        try (KvfoldChatModel model = KvfoldChatModel.builder()
                .modelPath(gguf)
                .slots(1)
                .temperature(0.0)
                .maxOutputTokens(128)
                .build()) {
            Assistant assistant = AiServices.builder(Assistant.class)
                    .chatModel(model)
                    .contentRetriever(EmbeddingStoreContentRetriever.builder()
                            .embeddingStore(store)
                            .embeddingModel(embeddings)
                            .maxResults(2)
                            .build())
                    .build();
            for (String question : questions) {
                print(question, assistant.answer(question));
            }
        }
    }

    private static void print(String question, Result<String> result) {
        System.out.println("> " + question);
        System.out.println(result.content());
        for (Content source : result.sources()) {
            System.out.println("  from " + source.textSegment().metadata().getString(Document.FILE_NAME));
        }
        KvfoldChatResponseMetadata cost =
                (KvfoldChatResponseMetadata) result.finalResponse().metadata();
        System.out.printf(
                "[%d tokens in, %d of them reused, %d out, %d KiB of KV cache]%n",
                cost.tokenUsage().inputTokenCount(),
                cost.tokenUsage().cachedInputTokenCount(),
                cost.tokenUsage().outputTokenCount(),
                cost.kvCacheBytes() / 1024);
    }
}
