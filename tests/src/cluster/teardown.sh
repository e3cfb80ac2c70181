# Ends one test cluster and removes what it left. Two lines above set `state` and `data`, its folders.
#
#   sh teardown.sh          now
#   sh teardown.sh keep     when standard input closes (its owner is gone), unless a line `release` came first
#
# Safe to run twice, or twice at once: a process is killed only if number and start time are the recorded ones.
trap '' HUP INT TERM
cd /

if [ "${1:-}" = keep ] && IFS= read -r word && [ "$word" = release ]; then
    exit 0
fi

# alive NUMBER START: fields 3 (state) and 22 (start time) of /proc/NUMBER/stat, counted after the closing bracket.
alive() {
    { IFS= read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
    wanted=$2
    set -- ${line##*) }
    [ "$1" != Z ] && [ "${20}" = "$wanted" ]
}

# kill_recorded FOLDER
kill_recorded() {
    for record in "$1"/*.process; do
        { read -r number start <"$record"; } 2>/dev/null || continue
        alive "$number" "$start" && kill -s KILL "$number" 2>/dev/null
    done
    for record in "$1"/*.process; do
        { read -r number start <"$record"; } 2>/dev/null || continue
        tries=0
        while alive "$number" "$start" && [ "$tries" -lt 200 ]; do
            sleep 0.05
            tries=$((tries + 1))
        done
    done
}

# The folder is renamed before the records are read: a server writes its record under the first name before it
# becomes a server, so from here on none can start unseen.
end() {
    kill_recorded "$state.ending"
    rm -rf "$state.ending"
}
end
if mv -T "$state" "$state.ending" 2>/dev/null; then
    end
fi
rm -rf "$data"
# The parent folder goes with the last cluster.
rmdir "$(dirname "$state")" 2>/dev/null
[ ! -e "$state" ] && [ ! -e "$state.ending" ] && [ ! -e "$data" ]
