#!/usr/bin/env bash
# All tests: pure ones, a real API server, real hosts. Those with hosts run one after another: they time things.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# One after the other: cargo's own order would let labs meet benchmarks.
cargo build --workspace --all-targets
cargo test --workspace --exclude evenkeel-tests
cargo test -p evenkeel-tests -- --test-threads=1
