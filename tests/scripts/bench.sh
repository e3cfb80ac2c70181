#!/usr/bin/env bash
# Benchmarks against peers, paired in one run. Words are handed on: --rounds N, --at-most RATIO.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cargo build --quiet --release -p evenkeel -p evenkeel-tests --bins
exec "${CARGO_TARGET_DIR:-target}/release/bench" "$@"
