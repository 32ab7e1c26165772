#!/usr/bin/env bash
#
# Runs the randomised test of the attention kernels as compiled for 64-bit ARM, in an emulator.
#
#   bash native/test/attention/aarch64.sh [CASES [SEED]]
#
# Takes a cross compiler and QEMU's user mode emulation: on Debian g++-aarch64-linux-gnu and qemu-user.

set -euo pipefail

test_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
native_dir=$(dirname "$(dirname "$test_dir")")
build_dir=$native_dir/target/aarch64

# shellcheck source=native/check-tools.sh
. "$native_dir/check-tools.sh"
kvfold_require_tools cmake aarch64-linux-gnu-g++ qemu-aarch64 || exit 3

mkdir -p "$native_dir/target"
source_dir=$(bash "$native_dir/build.sh" --backend cpu --print-source)
cmake -S "$test_dir" -B "$build_dir" -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_CCACHE=OFF "-DKVFOLD_LLAMA_SOURCE=$source_dir" > "$build_dir.log"
cmake --build "$build_dir" --parallel "${KVFOLD_JOBS:-2}" --target attention_test >> "$build_dir.log" ||
    { tail -n 40 "$build_dir.log" >&2; exit 1; }
qemu-aarch64 -L /usr/aarch64-linux-gnu "$build_dir/attention_test" "$@"
