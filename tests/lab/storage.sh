#!/bin/sh
# Becomes a program of the lab's shared storage, written down first so that the lab's end finds it.
#   storage.sh LAB_STATE FILE PROGRAM...
set -eu
lab=$1 file=$2
shift 2
read -r stat < /proc/self/stat
pid=${stat%% *}
started=$(echo "${stat##*) }" | cut -d' ' -f20)
echo "$pid $started" > "$file"
[ ! -e "$lab/closing" ] || exit 1
exec "$@"
