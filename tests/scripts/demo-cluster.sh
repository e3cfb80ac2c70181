#!/usr/bin/env bash
# Three real hosts, six guests and a real Kubernetes API server: drain a host by kubectl, prove it, take all down.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

. tests/scripts/speak.sh

say "Building evenkeel, the lab and the cluster (minutes the first time, seconds later)"
tests/scripts/build-cluster.sh
cargo build --quiet -p evenkeel -p evenkeel-tests --bins
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/debug
PATH=$target:$PATH
export EVENKEEL_LAB=demokc
id=demo-cluster
namespace=evenkeel-system
work=$(mktemp -d)
controller= waiting= raising=
clean() {
    status=$?
    trap - EXIT INT TERM
    say "Taking everything down"
    for process in $waiting $raising; do
        kill "$process" 2> /dev/null || true
        wait "$process" 2> /dev/null || true
    done
    if [ -n "$controller" ]; then
        kill "$controller" 2> /dev/null || true
        wait "$controller" || true
    fi
    [ "$status" = 0 ] || tail -n 20 "$work/controller.log" 2> /dev/null || true
    cluster --id "$id" down || true
    lab down || true
    rm -rf "$work"
    exit "$status"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
kubectl() { cluster --id "$id" kubectl "$@"; }

say "Three hosts (own network, libvirtd and QEMUs), six guests and a control plane, all of them real"
lab down > /dev/null 2>&1 || true
cluster --id "$id" down > /dev/null 2>&1 || true
# Guests take a while to boot; meanwhile the control plane comes up.
lab up --id "$EVENKEEL_LAB" --hosts 3 --guests 6 --packed --rate 100M > "$work/lab" &
raising=$!
cluster --id "$id" up

say "The kinds, and the chart with its roles; the controller runs as the chart's own service account"
evenkeel crds | kubectl apply -f -
kubectl wait crd --all --for=condition=Established --timeout=30s > /dev/null
# There are no nodes here to run a pod, so the Deployment has no replicas and the process is started beside it.
cluster --id "$id" helm install evenkeel charts/evenkeel --namespace "$namespace" --create-namespace --skip-crds \
    --set replicas=0 > /dev/null
server=$(kubectl config view --raw --output 'jsonpath={.clusters[0].cluster.server}')
authority=$(kubectl config view --raw --output 'jsonpath={.clusters[0].cluster.certificate-authority}')
(
    umask 077
    cat > "$work/kubeconfig" << YAML
apiVersion: v1
kind: Config
current-context: demo
contexts: [{name: demo, context: {cluster: demo, user: evenkeel, namespace: $namespace}}]
clusters: [{name: demo, cluster: {server: "$server", certificate-authority: "$authority"}}]
users: [{name: evenkeel, user: {token: "$(kubectl create token evenkeel --namespace "$namespace" --duration 1h)"}}]
YAML
)
evenkeel controller --kubeconfig "$work/kubeconfig" --lease-namespace "$namespace" --health-address 127.0.0.1:0 \
    --log-format text > "$work/controller.log" 2>&1 &
controller=$!

wait "$raising"
raising=
cat "$work/lab"

say "The hosts and a Secret with the keys to them, by kubectl; the guests are found on them"
lab manifests "$work/hosts" > /dev/null
run kubectl --namespace "$namespace" create secret generic lab --from-file="$work/hosts/credentials/lab"
run kubectl --namespace "$namespace" annotate secret lab evenkeel.dev/hosts=h1,h2,h3
for host in "$work"/hosts/*.yaml; do
    printf '  migration: {bandwidth: 100M, maxInbound: 4, maxOutbound: 4}\n' >> "$host"
done
run kubectl apply -f "$work/hosts"
kubectl wait --for=condition=Ready evh --all --timeout=60s > /dev/null
until [ "$(kubectl get evg --output name | wc -l)" = 6 ]; do sleep 0.2; done
run kubectl get evh,evg

say "Before: what each guest says of itself on its console and its disks"
lab proof

say "The wish: h1 must be empty"
tee "$work/drain.yaml" << 'YAML'
apiVersion: evenkeel.dev/v1alpha1
kind: HostDrain
metadata: {name: patch-h1}
spec:
  hosts: {names: [h1]}
YAML
run kubectl apply -f "$work/drain.yaml"
printf '%s$ kubectl wait --for=condition=Drained evd/patch-h1 --timeout=10m%s\n' "$dim" "$plain"
# Its own process, so that progress can be shown meanwhile.
cluster --id "$id" kubectl wait --for=condition=Drained evd/patch-h1 --timeout=10m > "$work/wait" &
waiting=$!
while sleep 2 && kill -0 "$waiting" 2> /dev/null; do
    kubectl get evm
    printf '\n'
done
wait "$waiting"
waiting=
cat "$work/wait"

say "Every move with its end, and the Events of one"
run kubectl get evh,evg,evm,evd
move=$(kubectl get evm --output 'jsonpath={.items[0].metadata.name}')
run kubectl describe evm "$move" | sed -n '1p; /^Name:/p; /^  Evidence:/,/^  [A-OQ-Z]/p; /^Events:/,$p'

say "After: other hosts, same boot, no number missing or doubled, disks whole; nothing left on h1"
lab proof
printf 'files in the pools of h1: %s\n' "$(lab files | grep -c '^h1 ' || true)"

say "The patch is done: the wish goes, and one guest goes home"
run kubectl delete evd patch-h1
tee "$work/home.yaml" << 'YAML'
apiVersion: evenkeel.dev/v1alpha1
kind: GuestMigration
metadata: {name: g1-home}
spec: {guest: g1, target: h1}
YAML
run kubectl apply -f "$work/home.yaml"
run kubectl wait --for=condition=Succeeded evm/g1-home --timeout=5m
run kubectl get evm g1-home -o wide
lab proof
