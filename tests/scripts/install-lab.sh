#!/bin/sh
# Installs the Debian packages the lab needs, what building against libvirt needs, and those named.
set -eu
exec "$(dirname "$0")/packages.sh" libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients libvirt-dev \
    qemu-system-x86 qemu-utils busybox-static cpio iproute2 e2fsprogs xz-utils util-linux mount procps hostname bash \
    "$@"
