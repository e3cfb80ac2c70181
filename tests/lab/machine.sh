#!/bin/sh
# "The power" of one lab host: a PID namespace inside the host's other namespaces, with its own /proc and an empty
# /run. Whatever runs on the host dies with it, at once, by the kernel's hand: killing it is a power cut.
#   machine.sh LAB_STATE HOST_STATE HOLDER_PID [inside]
set -eu
lab=$1 state=$2 holder=$3

register() {
    file=$1
    # Read through the /proc of the machine: the id is the one seen from outside.
    read -r stat < /proc/self/stat
    set -- ${stat##*) }
    pid=${stat%% *}
    shift 19
    echo "$pid $1" > "$file"
}

if [ "${4-}" != inside ]; then
    register "$state/power.process"
    [ ! -e "$lab/closing" ] || exit 1
    exec nsenter --target "$holder" --mount --net --uts \
        unshare --pid --fork --kill-child --mount sh "$0" "$lab" "$state" "$holder" inside
fi

register "$state/init.process"
exec 3> "$state/on"
mount -t proc proc /proc
mount -t tmpfs -o mode=755,size=64m tmpfs /run
mkdir -p /run/lock /run/libvirt
echo on >&3
exec 3>&-
# The init of this host has one task: to reap what is left to it.
while :; do
    sleep 1000000 &
    wait
done
