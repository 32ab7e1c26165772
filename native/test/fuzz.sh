#!/usr/bin/env bash
#
# Tries the library with texts, requests and model files made at random: everything in turn, each round with other seeds, until
# the time is over. Ends at the first case that kills the process, holds it up or is answered wrong, and tells the command that
# does it again.
#
#   bash native/test/fuzz.sh [--seconds N] [--seed S]
#
#   --seconds  360 by default; a round takes that, or six minutes
#   --seed     1 by default
#
# Runs what build.sh --tools has built; mvn verify -Pfuzz -pl native -Dkvfold.fuzz.seconds=N builds that first.

set -euo pipefail

build_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/build
seconds=360
seed=1

while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number}; shift ;;
        --seed)    seed=${2:?--seed needs a number}; shift ;;
        *)         echo "unknown argument $1" >&2; exit 2 ;;
    esac
    shift
done

internal=$build_dir/test/internal
[ -x "$internal/server_fuzz" ] || { echo "there is no $internal/server_fuzz: bash native/build.sh --tools" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export KVFOLD_TEST_MODEL=$work/tiny.gguf
"$build_dir/make_model" --out tiny.gguf --layers 2 --embd 32 --heads 4 --heads-kv 2 --ff 64 --vocab 320 --ctx 512 > /dev/null

# run PROGRAM ARGUMENT...
run() {
    local code=0
    "$@" 2> log || code=$?
    if [ $code != 0 ]; then
        tail -n 60 log >&2
        echo "exit code $code of: $*" >&2
        exit 1
    fi
}

share=$(((seconds < 360 ? seconds + 5 : 360) / 6))
end=$((SECONDS + seconds))
while [ $SECONDS -lt $end ]; do
    for kind in grammars schemas templates patterns; do
        run "$internal/text_fuzz" $kind $share "$seed"
    done
    run "$internal/server_fuzz" $share "$seed"
    last=$((SECONDS + share)) files=0
    while [ $SECONDS -lt $last ]; do
        first=$((seed + files))
        run "$build_dir/test/hostile_model_test" keys $first $((first + 49))
        run "$build_dir/test/hostile_model_test" $first $((first + 49))
        files=$((files + 50))
    done
    echo "models: $files by key and $files by byte"
    seed=$((seed + 1000000))
done
