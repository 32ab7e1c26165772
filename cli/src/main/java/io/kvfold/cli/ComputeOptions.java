package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** The options that say what computes, and how much at a time. */
final class ComputeOptions {

    static final int DEFAULT_UBATCH = 512;

    @Option(
            names = {"-t", "--threads"},
            paramLabel = "N",
            description = "Threads that compute on the CPU. Default: one per physical core.")
    private @Nullable Integer threads;

    @Option(
            names = {"-ngl", "--gpu-layers"},
            paramLabel = "N",
            description = "Layers that a GPU holds and computes. Default: all, if the build has a GPU backend.")
    private @Nullable Integer gpuLayers;

    @Option(
            names = {"-ub", "--ubatch"},
            paramLabel = "N",
            description = "Tokens of a prompt that are computed at a time. Default: " + DEFAULT_UBATCH + ".")
    private @Nullable Integer ubatchSize;

    @Option(
            names = {"-fa", "--flash-attn"},
            paramLabel = "on|off|auto",
            description = "Whether attention is computed by the fused kernel. Default: auto.")
    private @Nullable FlashAttention flashAttention;

    @Option(
            names = "--rpc",
            paramLabel = "HOST:PORT",
            split = ",",
            description =
                    "Hosts that run \"kvfold rpc-server\" and hold layers with their keys and values. Nothing that"
                            + " goes there is encrypted.")
    private String[] rpcServers = {};

    int ubatchSize() {
        return ubatchSize == null ? DEFAULT_UBATCH : ubatchSize;
    }

    /** Sets what was asked for and leaves the rest at the engine's defaults. */
    void apply(Engine.Builder builder) {
        if (threads != null) {
            builder.threads(threads);
        }
        if (gpuLayers != null) {
            builder.gpuLayers(gpuLayers);
        }
        if (ubatchSize != null) {
            builder.ubatchSize(ubatchSize);
        }
        if (rpcServers.length > 0) {
            builder.rpcServers(rpcServers);
        }
        if (flashAttention != null) {
            builder.flashAttention(flashAttention);
        }
    }
}
