#!/bin/sh
# Lies over QEMU on a lab host and starts the real one with all virtual processors on one thread.
# With a thread each, software emulation now and then loses a page written during a slow migration: the guest comes
# out of it hung or rebooted (QEMU 7.2; seen in about one of ten moves at 6 MB/s).
real=@REAL@
first=yes
for word in "$@"; do
    [ -z "$first" ] || set --
    first=
    case $word in
        tcg) word=tcg,thread=single ;;
    esac
    set -- "$@" "$word"
done
exec "$real" "$@"
