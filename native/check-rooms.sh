#!/usr/bin/env bash
#
# Checks that the rooms of native/src stand on each other in one direction (native/README.md):
#
#   bash native/check-rooms.sh
#
# - a file includes only what lies in its own room or in one below it
# - every header in hooks/ is named like the patch that includes it; kv-plan.h, which several include, is the exception

set -euo pipefail

src=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/src
patches=$src/../../patches
failures=0

complain() { printf 'rooms: %s\n' "$*" >&2; failures=$((failures + 1)); }

# From the top to the bottom; what a room may include besides itself and hooks/.
below() {
    case $1 in
        abi)     echo "engine serving text kv process" ;;
        engine)  echo "serving text kv process" ;;
        serving) echo "text kv process" ;;
        kv)      echo "process" ;;
        attention) echo "" ;;
        text)    echo "process" ;;
        process) echo "" ;;
        *)       return 1 ;;
    esac
}

while read -r path; do
    file=${path#"$src"/} room=${file%%/*}
    [ "$room" != hooks ] || continue
    if [ "$room" = "$file" ] || ! allowed=$(below "$room"); then
        complain "$file lies in no room"
        continue
    fi
    while read -r included; do
        to=${included%%/*}
        [ -f "$src/$included" ] || continue # llama.cpp's, or kvfold.h
        case " $room hooks $allowed " in
            *" $to "*) ;;
            *) complain "$file includes $included, but $room stands below $to" ;;
        esac
    done < <(sed -n 's/^#[[:space:]]*include "\(.*\)"$/\1/p' "$path")
done < <(find "$src" -name '*.cpp' -o -name '*.h')

for path in "$src"/hooks/*.h; do
    name=$(basename "$path" .h)
    [ "$name" = kv-plan ] || grep -qs "^+#.*include \".*kvfold/$name\.h\"" "$patches/$name.patch" \
        || complain "hooks/$name.h is not included by a patch of that name"
done

[ $failures -eq 0 ]
