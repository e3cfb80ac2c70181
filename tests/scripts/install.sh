#!/usr/bin/env bash
# Installs what a bare Debian machine lacks for the demo, says so, and does nothing where nothing lacks. `install.sh tests`
# installs what the tests need besides.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() { printf '%s\n' "$*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "This needs root: it makes network namespaces and runs hypervisors. Run it with sudo, or as root."
command -v apt-get > /dev/null || fail "This needs Debian (or a system with its packages): apt-get is not there."
command -v cargo > /dev/null || fail "This needs Rust: install rustup (https://rustup.rs), then run it again."
more=()
[ "${1-}" != tests ] || more=(glusterfs-server glusterfs-client swtpm swtpm-tools ovmf libsasl2-modules sasl2-bin openssh-client openssh-server)
"$here/install-lab.sh" openssl git gcc libc6-dev pkg-config curl ca-certificates "${more[@]}"
unshare --net --mount true 2> /dev/null || fail "This machine does not allow new namespaces (is it a container? give it CAP_SYS_ADMIN)."
