#!/usr/bin/env bash
# Three real hosts, six guests, one manifest: plan it, drain a host by live block migrations, prove it, take all down.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Colours only for a person.
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold= dim= plain=; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
run() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; "$@"; }

say "Building evenkeel and the lab"
cargo build --quiet --release -p evenkeel
cargo build --quiet -p evenkeel-tests --bins
target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d)
lab_name=demo-$$
lab() { "$target/debug/lab" --lab "$lab_name" "$@"; }
clean() {
    status=$?
    trap - EXIT
    lab down > /dev/null 2>&1 || true
    rm -rf "$work"
    exit "$status"
}
trap clean EXIT
trap 'exit 130' INT TERM
PATH=$(cd "$target/release" && pwd):$PATH
export PATH

say "Bringing up three hosts (own network, libvirtd, QEMUs) and six guests, all of them real"
"$target/debug/lab" up --id "$lab_name" --hosts 3 --guests 6 --packed
mkdir "$work/fleet"
lab manifests "$work/fleet" > /dev/null
run evenkeel get hosts -f "$work/fleet"
run evenkeel get guests -f "$work/fleet"

say "Before: what each guest of h1 says of itself"
lab proof | tee "$work/before"

say "The wish, as it would lie in Git: h1 must be empty"
tee "$work/fleet/drain-h1.yaml" << 'YAML'
apiVersion: evenkeel.dev/v1alpha1
kind: HostDrain
metadata: {name: drain-h1}
spec:
  hosts: {names: [h1]}
YAML
run evenkeel plan -f "$work/fleet" || [ $? = 2 ]

say "Doing it"
run evenkeel apply -f "$work/fleet" --yes

say "After: same boot, counter unbroken, disks whole, and nothing left on h1"
lab proof | tee "$work/after"
run evenkeel get hosts -f "$work/fleet"
lab files h1
run evenkeel apply -f "$work/fleet" --yes

say "Undrain: h1 takes guests again; nothing returns by itself"
run evenkeel undrain h1 -f "$work/fleet"
run evenkeel migrate g1 h1 -f "$work/fleet"

say "Taking everything down"
