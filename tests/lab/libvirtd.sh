#!/bin/sh
# What systemd does for libvirtd on a host: one that crashed by itself is started again, and that is written down. One
# that was stopped or killed stays away until somebody starts it.
while :; do
    libvirtd --listen
    case $? in
        134 | 135 | 136 | 139) echo crashed >> /var/log/libvirt/crashes ;;
        *) exit 0 ;;
    esac
done
