#!/bin/sh
# Holds the namespaces of one lab host open: network, mounts, host name. Everything mounted here vanishes with the
# last process in it, so there is nothing to unmount.
#   holder.sh LAB_STATE HOST_STATE HOST_DATA HOST_NAME BOOT_DIRECTORY [inside]
set -eu
lab=$1 state=$2 data=$3 name=$4 boot=$5

if [ "${6-}" != inside ]; then
    # Written down first, then looked whether the lab is being taken down: one of the two sees the other.
    read -r stat < /proc/self/stat
    set -- ${stat##*) }
    pid=${stat%% *}
    shift 19
    echo "$pid $1" > "$state/holder.process"
    [ ! -e "$lab/closing" ] || exit 1
    exec unshare --net --mount --uts --propagation private sh "$0" "$lab" "$state" "$data" "$name" "$boot" inside
fi

hostname "$name"
if [ -d "$data/pki" ]; then
    # libvirt looks for its certificates in /etc/pki, which the machine need not have: a layer over /etc has it.
    mount -t tmpfs -o mode=755,size=1m tmpfs "$data/layer"
    mkdir -p "$data/layer/upper/pki" "$data/layer/work"
    mount -t overlay -o "lowerdir=/etc,upperdir=$data/layer/upper,workdir=$data/layer/work" overlay /etc
    mount --bind "$data/pki" /etc/pki
fi
if [ -d "$data/sasl" ]; then
    mount --bind "$data/sasl" /etc/sasl2
fi
mount --bind "$data/etc" /etc/libvirt
mount --bind "$data/lib" /var/lib/libvirt
mount --bind "$data/log" /var/log/libvirt
mount --bind "$data/cache" /var/cache/libvirt
mount --bind "$data/srv" /srv
mount --bind "$data/hosts" /etc/hosts
mount --bind "$boot" /var/lib/libvirt/boot
mount -o remount,bind,ro /var/lib/libvirt/boot
# The old /sys shows the devices of the machine's own network.
mount -t sysfs sysfs /sys
ip link set lo up

# One line per pool: kind, size in bytes, its image, its path.
while read -r kind size image path; do
    mkdir -p "$path"
    case $kind in
        tmpfs) mount -t tmpfs -o "size=$size,mode=711" tmpfs "$path" ;;
        ext4) mount -t ext4 -o loop "$image" "$path" ;;
    esac
done < "$data/pools"
while read -r bridge; do
    ip link add "$bridge" type bridge
    ip link set "$bridge" up
done < "$data/bridges"

: > "$state/held"
exec sleep infinity
