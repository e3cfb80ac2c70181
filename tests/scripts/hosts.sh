#!/usr/bin/env bash
# The libvirt side alone against two real hosts with a guest each, started and taken down here. What is given are words for
# the test binary: names of tests, `--skip NAME`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo build --quiet -p evenkeel-tests --bins
bin=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/debug
lab_id=t$(($$ % 100000))
trap '"$bin/lab" --lab "$lab_id" down > /dev/null 2>&1 || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$bin/lab" up --id "$lab_id" --hosts 2 --guests 2 --packed
eval "$("$bin/lab" --lab "$lab_id" env)"
EVENKEEL_TEST_URIS="$EVENKEEL_HOST_1,$EVENKEEL_HOST_2" EVENKEEL_TEST_CREDENTIALS="$EVENKEEL_CREDENTIALS/lab" \
    EVENKEEL_TEST_LAB="$bin/lab --lab $lab_id" \
    cargo test -p evenkeel-hypervisor --test hosts -- --ignored --test-threads 1 "$@"
