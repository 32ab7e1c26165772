package io.kvfold.cli;

import io.kvfold.BuildInfo;
import io.kvfold.DeviceInfo;
import io.kvfold.NativeLibrary;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.IVersionProvider;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Spec;

/** {@code kvfold version}, and what {@code --version} prints. */
@Command(
        name = "version",
        header = "Prints versions, backends and devices.",
        description = {"", "What a bug report needs.", ""},
        footerHeading = "%nExample:%n",
        footer = "  kvfold version")
final class VersionCommand implements Callable<Integer>, IVersionProvider {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Override
    public Integer call() {
        for (String line : getVersion()) {
            spec.commandLine().getOut().println(line);
        }
        return NativeLibrary.isAvailable() ? ExitCode.OK : ExitCode.ERROR;
    }

    @Override
    public String[] getVersion() {
        List<String> lines = new ArrayList<>();
        String version = VersionCommand.class.getPackage().getImplementationVersion();
        lines.add("kvfold " + Objects.requireNonNullElse(version, "(not from a jar)"));
        if (NativeLibrary.isAvailable()) {
            addNative(NativeLibrary.info(), lines);
        } else {
            Throwable cause = NativeLibrary.unavailabilityCause();
            lines.add("native library: not available: " + (cause == null ? "" : cause.getMessage()));
        }
        lines.add("java:      " + System.getProperty("java.vm.name") + " " + Runtime.version());
        lines.add("system:    " + System.getProperty("os.name") + " " + System.getProperty("os.arch"));
        return lines.toArray(String[]::new);
    }

    private static void addNative(BuildInfo build, List<String> lines) {
        lines.add("llama.cpp: " + build.llamaCpp() + ", patches: " + String.join(", ", build.patches()));
        lines.add("compiler:  " + build.compiler());
        lines.add("backends:  " + String.join(", ", build.backends()));
        lines.add("cpu uses:  "
                + String.join(
                        ", ",
                        build.cpuFeatures().entrySet().stream()
                                .filter(Map.Entry::getValue)
                                .map(Map.Entry::getKey)
                                .sorted()
                                .toList()));
        for (DeviceInfo device : build.devices()) {
            lines.add(Values.format(
                    "device:    %s, %s, %s free of %s, KV memory %s",
                    device.name(),
                    device.description(),
                    Values.bytes(device.memoryFree()),
                    Values.bytes(device.memoryTotal()),
                    switch (device.kvMemory()) {
                        case AS_IT_FILLS -> "committed as it fills";
                        case WHOLE -> "allocated as a whole";
                    }));
        }
    }
}
