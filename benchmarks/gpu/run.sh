#!/usr/bin/env bash
#
# Builds the library, runs the native tests, and measures throughput under a budget of KV cache, from an archive of
# pack.sh or from a checkout. Needs CMake, a C++ compiler and, for CUDA, nvcc; no JDK, no network.
#
#   bash benchmarks/gpu/run.sh [--backend cuda|cpu] [--shape 7b|small] [--out DIR] [--work DIR] [--llama-source DIR]
#                              [--skip-tests] [--full] [-- ARGUMENTS...]
#
#   --backend       default cuda
#   --shape         7b: Llama 2 7B in f16, 13.5 GB, budgets of 8 GiB and of the whole card; small: a model of 14 MB and
#                   budgets of a few MiB, to try the script out on any machine. Default: 7b with cuda, small with cpu
#   --out           where table.md, host-weights.md, both as JSON, tests.log and machine.txt go. Default: WORK/results
#   --work          for build, model and cache, kept between runs. Default: target/gpu in the checkout
#   --llama-source  the source of llama.cpp. Default: the one in the archive, else native/build.sh's own
#   --skip-tests    builds and measures only
#   --full          runs every row from end to end instead of sampling its rates: minutes per row on a large card
#   ARGUMENTS       for native/tools/kv_throughput.cpp, in place of its budgets, plans, types and workloads
#
# CUDAARCHS, CUDACXX and CUDAHOSTCXX are CMake's. Exit code 4: everything was measured, but a test failed.

set -euo pipefail

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
backend=cuda shape="" out="" work=$root_dir/target/gpu tests=1 full=() llama=() arguments=()
[ ! -d "$root_dir/llama.cpp" ] || llama=(--llama-source "$root_dir/llama.cpp")

while [ $# -gt 0 ]; do
    case $1 in
        --backend)      backend=${2:?--backend needs a value}; shift ;;
        --shape)        shape=${2:?--shape needs a value}; shift ;;
        --out)          out=${2:?--out needs a folder}; shift ;;
        --work)         work=${2:?--work needs a folder}; shift ;;
        --llama-source) llama=(--llama-source "${2:?--llama-source needs a folder}"); shift ;;
        --skip-tests)   tests=0 ;;
        --full)         full=(--full) ;;
        --help)         sed -n '3,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        --)             shift; arguments=("$@"); break ;;
        *)              echo "run.sh: unknown argument $1, see --help" >&2; exit 2 ;;
    esac
    shift
done
case $backend in
    cuda) shape=${shape:-7b} ubatch=2048 ;;
    cpu)  shape=${shape:-small} ubatch=512 ;;
    *)    echo "run.sh: --backend is cuda or cpu, not $backend" >&2; exit 2 ;;
esac
plans=standard,cla:2,lckv:10,lckv:2
types=f16,q8_0,q4_0
case $shape in
    7b)
        make_model=(--layers 32 --embd 4096 --heads 32 --heads-kv 32 --ff 11008 --vocab 32000 --ctx 8192 --type f16)
        [ "$backend" = cuda ] && budgets=8GiB,card || budgets=8GiB
        workloads=512+512,512+1024,2048+2048,5+2043,5+8187
        host=(--kv-budgets 8GiB --workloads 512+1024)
        ;;
    small)
        make_model=(--layers 8 --embd 256 --heads 8 --heads-kv 8 --ff 688 --vocab 2000 --ctx 8192 --type f16)
        plans=standard,cla:2,lckv:4,lckv:2
        budgets=4MiB,8MiB
        workloads=16+16,5+123
        host=(--kv-budgets 4MiB --workloads 16+16)
        ;;
    *) echo "run.sh: --shape is 7b or small, not $shape" >&2; exit 2 ;;
esac
[ ${#arguments[@]} -gt 0 ] || arguments=(--kv-budgets "$budgets" --plans "$plans" --kv-types "$types" --workloads "$workloads")

started=$SECONDS
say() { printf '[%4d s] %s\n' $((SECONDS - started)) "$*" >&2; }

mkdir -p "$work"
work=$(cd "$work" && pwd)
out=${out:-$work/results}
mkdir -p "$out"
build=$root_dir/native/target/build
model=$work/$shape.gguf

{
    date -u
    uname -srm
    grep -m 1 'model name' /proc/cpuinfo || true
    echo "$(getconf _NPROCESSORS_ONLN) cores"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null || echo "no GPU"
    if command -v nvcc > /dev/null; then nvcc --version | tail -n 2; fi
} > "$out/machine.txt"

say "building for $backend"
KVFOLD_CACHE=${KVFOLD_CACHE:-$work/cache} bash "$root_dir/native/build.sh" --backend "$backend" --tools ${llama[@]+"${llama[@]}"}

say "making a model of shape $shape, running the tests"
if [ ! -f "$model" ]; then
    "$build/make_model" --out "$model.tmp" "${make_model[@]}" && mv "$model.tmp" "$model" &
fi
failed=0
if [ $tests = 1 ]; then
    # the check of the patches needs git, and has nothing to do with a device
    (cd "$build" && ctest --exclude-regex '^patches$' --output-on-failure --timeout 200) > "$out/tests.log" 2>&1 || failed=1
    sed -n '/tests passed/,$p' "$out/tests.log" >&2
fi
wait

say "measuring"
measure() { # NAME ARGUMENTS...
    local name=$1
    shift
    "$build/kv_throughput" --model "$model" --ubatch "$ubatch" --json "$out/$name.json" ${full[@]+"${full[@]}"} "$@" | tee "$out/$name.md"
}
measure table "${arguments[@]}"
if [ "$backend" = cuda ]; then
    say "measuring with the weights in host memory"
    measure host-weights --weights host --plans "$plans" "${host[@]}"
else
    say "no weights in host memory to measure: on the CPU they are there anyway"
fi
say "done, results in $out"
[ $failed = 0 ] || { say "some tests failed, see $out/tests.log"; exit 4; }
