#!/usr/bin/env bash
# The tools a build needs, and the package that carries each. The only place that knows them: the launcher, .ci/run and
# build.sh use it.
#
#   . native/check-tools.sh && kvfold_require_tools cmake c++ npm git
#   native/check-tools.sh cmake c++ npm git
#
# Prints one line per missing tool and returns 3. As root on Debian or Ubuntu it offers to install what is missing when
# a terminal is there to answer, and does so unasked with KVFOLD_YES=1. Works with the bash 3.2 of macOS.

# kvfold_package TOOL -> "DEBIAN FEDORA MACOS", where MACOS is a Homebrew formula or "xcode".
kvfold_package() {
    case $1 in
        java) echo "$(kvfold_debian_jdk) java-21-openjdk-devel openjdk@21" ;;
        mvn) echo "maven maven maven" ;;
        cmake) echo "cmake cmake cmake" ;;
        c++) echo "g++ gcc-c++ xcode" ;;
        aarch64-linux-gnu-g++) echo "g++-aarch64-linux-gnu gcc-c++-aarch64-linux-gnu none" ;;
        qemu-aarch64) echo "qemu-user qemu-user none" ;;
        cc) echo "gcc gcc xcode" ;;
        ninja) echo "ninja-build ninja-build ninja" ;;
        ccache) echo "ccache ccache ccache" ;;
        npm) echo "npm nodejs-npm node" ;;
        git) echo "git git git" ;;
        python3) echo "python3-venv python3 python3" ;;
        openssl) echo "openssl openssl openssl" ;;
        nvcc) echo "nvidia-cuda-toolkit cuda-toolkit none" ;;
        glslc) echo "glslc glslc shaderc" ;;
        *) return 1 ;;
    esac
}

# kvfold_native_tools BACKEND -> the tools that compile the library; npm and openssl fetch llama.cpp's source.
kvfold_native_tools() {
    echo git cmake cc c++ ninja
    case $1 in cuda) echo nvcc ;; vulkan) echo glslc ;; esac
}

# The default JDK, except where that is still Java 11.
kvfold_debian_jdk() {
    case $(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null) in
        bullseye | focal | jammy) echo openjdk-17-jdk-headless ;;
        *) echo default-jdk-headless ;;
    esac
}

kvfold_java() {
    if [ -n "${JAVA_HOME:-}" ]; then echo "$JAVA_HOME/bin/java"; else command -v java; fi
}

# Empty when the tool is usable, otherwise what is wrong with it.
kvfold_tool_fault() {
    local java version
    case $1 in
        java)
            java=$(kvfold_java)
            if [ -z "$java" ] || ! version=$("$java" -version 2>&1); then echo "is missing"; return; fi
            version=$(printf '%s\n' "$version" | sed -n 's/^[a-z]* version "\([0-9]*\).*/\1/p' | head -n 1)
            if [ "${version:-0}" -lt 17 ]; then echo "is version ${version:-unknown}, 17 or newer is needed"; return; fi
            [ -x "${java%/java}/javac" ] || command -v javac >/dev/null || echo "has no compiler (javac): a JDK is needed, this is a JRE"
            ;;
        c++) command -v "${CXX:-c++}" >/dev/null || echo "is missing" ;;
        cc) command -v "${CC:-cc}" >/dev/null || echo "is missing" ;;
        git) command -v git >/dev/null || command -v patch >/dev/null || echo "is missing" ;;
        python3) python3 -c 'import ensurepip, venv' 2>/dev/null || echo "is missing, or has no venv" ;;
        ninja) command -v ninja >/dev/null || command -v make >/dev/null || echo "is missing" ;;
        *) command -v "$1" >/dev/null || echo "is missing" ;;
    esac
}

kvfold_describe_tool() {
    case $1 in
        java) echo "a Java development kit" ;;
        c++) echo "a C++ compiler" ;;
        aarch64-linux-gnu-g++) echo "g++-aarch64-linux-gnu gcc-c++-aarch64-linux-gnu none" ;;
        qemu-aarch64) echo "qemu-user qemu-user none" ;;
        cc) echo "a C compiler" ;;
        nvcc) echo "the CUDA compiler (nvcc)" ;;
        glslc) echo "the Vulkan shader compiler (glslc)" ;;
        ninja) echo "ninja or make" ;;
        mvn) echo "Maven (mvn)" ;;
        python3) echo "Python (python3)" ;;
        *) echo "$1" ;;
    esac
}

# kvfold_missing_tools TOOL... -> the names of those that are missing, and on stderr a line for each.
kvfold_missing_tools() {
    local tool fault debian fedora macos
    for tool in "$@"; do
        fault=$(kvfold_tool_fault "$tool")
        [ -n "$fault" ] || continue
        read -r debian fedora macos <<<"$(kvfold_package "$tool")"
        case $macos in
            xcode) macos="xcode-select --install" ;;
            none) macos="not available" ;;
            *) macos="brew install $macos" ;;
        esac
        echo "kvfold: $(kvfold_describe_tool "$tool") $fault. Install it: apt-get install $debian (Debian, Ubuntu)," \
            "dnf install $fedora (Fedora), $macos (macOS)." >&2
        echo "$tool"
    done
}

kvfold_require_tools() {
    local missing tool debian packages="" answer
    missing=$(kvfold_missing_tools "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return 3; fi
    for tool in $missing; do
        read -r debian _ <<<"$(kvfold_package "$tool")"
        packages="$packages $debian"
    done
    if [ "${KVFOLD_YES:-}" != 1 ]; then
        if [ ! -t 0 ] || [ ! -t 2 ]; then
            echo "kvfold: run ./kvfold --yes (or set KVFOLD_YES=1) to install$packages with apt-get." >&2
            return 3
        fi
        printf 'kvfold: install%s with apt-get now? [Y/n] ' "$packages" >&2
        read -r answer || return 3
        case $answer in "" | [yY] | [yY][eE][sS]) ;; *) return 3 ;; esac
    fi
    echo "kvfold: installing$packages with apt-get" >&2
    # shellcheck disable=SC2086 # one word per package
    if ! { DEBIAN_FRONTEND=noninteractive apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } >&2; then
        echo "kvfold: apt-get failed, its messages are above." >&2
        return 3
    fi
    hash -r
    missing=$(kvfold_missing_tools "$@")
    [ -z "$missing" ] || return 3
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    kvfold_require_tools "$@"
fi
