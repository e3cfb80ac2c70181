#!/usr/bin/env bash
# Three real hosts, six guests, one manifest: plan it, drain a host by live block migrations, prove it, take all down.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

. tests/scripts/speak.sh

say "Building evenkeel and the lab (minutes the first time, seconds later)"
cargo build --quiet -p evenkeel -p evenkeel-tests --bins
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/debug
PATH=$target:$PATH
export EVENKEEL_LAB=demo
work=$(mktemp -d)
fleet=$work/fleet
clean() {
    status=$?
    trap - EXIT INT TERM
    say "Taking everything down"
    lab down || true
    rm -rf "$work"
    exit "$status"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "Three hosts (own network, libvirtd and QEMUs) and six guests, all of them real"
lab down > /dev/null 2>&1 || true
lab up --id "$EVENKEEL_LAB" --hosts 3 --guests 6 --packed --rate 100M
mkdir "$fleet"
lab manifests "$fleet" > /dev/null
# The keys to the hosts, from the lab's own authority: connections, memory and disks are encrypted.
export EVENKEEL_CREDENTIALS=$fleet/credentials
# The hosts' links, so that the plan can say how long it takes; six guests may leave at once.
for host in "$fleet"/*.yaml; do
    printf '  migration: {bandwidth: 100M, maxInbound: 4, maxOutbound: 4}\n' >> "$host"
done
run evenkeel get hosts -f "$fleet"
run evenkeel get guests -f "$fleet"

say "Before: what each guest says of itself on its console and its disks"
lab proof

say "The wish, as it would lie in Git: h1 must be empty"
tee "$fleet/drain.yaml" << 'YAML'
apiVersion: evenkeel.dev/v1alpha1
kind: HostDrain
metadata: {name: patch-h1}
spec:
  hosts: {names: [h1]}
YAML
run evenkeel plan -f "$fleet" || [ $? = 2 ]

say "Doing it"
run evenkeel apply -f "$fleet" --yes

say "After: other hosts, same boot, no number missing or doubled, disks whole; nothing left on h1"
lab proof
run evenkeel get hosts -f "$fleet"
printf 'files in the pools of h1: %s\n' "$(lab files | grep -c '^h1 ' || true)"
run evenkeel plan -f "$fleet"

say "The patch is done: the wish goes, and one guest goes home"
rm "$fleet/drain.yaml"
run evenkeel migrate g1 h1 -f "$fleet"
lab proof
