#!/bin/sh
# Takes one lab down, however much of it there is. May run twice, and at the same time.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
id='@ID@' root='@ROOT@' state='@STATE@' data='@DATA@'
[ -d "$state" ] && : > "$state/closing"

# A process is meant by its id and its start time together: an id that was given away again is not ours.
alive() {
    stat=$(cat "/proc/$1/stat" 2> /dev/null) || return 1
    set -- "$2" ${stat##*) }
    [ "$2" != Z ] && [ "$2" != X ] && [ "${21}" = "$1" ]
}

round=0
while [ "$round" -lt 200 ]; do
    found=
    for file in "$state"/*/*.process; do
        [ -f "$file" ] || continue
        read -r pid start < "$file" || continue
        if [ -n "$start" ] && alive "$pid" "$start"; then
            kill -KILL "$pid" 2> /dev/null
            found=yes
        fi
    done
    [ -n "$found" ] || break
    sleep 0.05
    round=$((round + 1))
done

# A program started by an owner that was killed may still be making things: leave it the time to end, and do more
# than one round if needed. The directory of the state goes last, it holds the lab's id.
[ -z "${settle-}" ] || sleep "$settle"
round=0
while :; do
    for link in $(ip -o link show | sed -n "s/^[0-9]*: \(evk-$id\(-[0-9]*\)\{0,1\}\)[^0-9a-z-].*/\1/p"); do
        ip link delete "$link" 2> /dev/null
    done
    rm -rf --one-file-system "$data" && rm -rf --one-file-system "$state"
    [ -e "$state" ] || [ -e "$data" ] || break
    [ "$round" -lt 50 ] || exit 1
    sleep 0.2
    round=$((round + 1))
done
for claim in "$root"/.net-*; do
    [ "$(readlink "$claim")" = "$id" ] && rm -f "$claim"
done
rmdir "${data%/*}" "$root" 2> /dev/null
exit 0
