package io.kvfold;

import java.util.List;
import java.util.Map;

/**
 * What the native library was built from, and what it can run on.
 *
 * @param llamaCpp the release of llama.cpp inside
 * @param patches the patches applied to it, in order
 * @param cpuFeatures instruction sets by name, and whether this build uses them
 * @param backends such as {@code CPU} or {@code CUDA}
 * @param devices that the backends found on this machine
 */
public record BuildInfo(
        String version,
        String llamaCpp,
        List<String> patches,
        String compiler,
        Map<String, Boolean> cpuFeatures,
        List<String> backends,
        List<DeviceInfo> devices) {
    public BuildInfo {
        patches = List.copyOf(patches);
        cpuFeatures = Map.copyOf(cpuFeatures);
        backends = List.copyOf(backends);
        devices = List.copyOf(devices);
    }
}
