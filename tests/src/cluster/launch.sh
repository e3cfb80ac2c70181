# sh -c THIS RECORD PROGRAM ARGUMENTS...: notes its own number and start time in RECORD, then becomes PROGRAM.
# Where the record cannot be written (the cluster is being ended), PROGRAM is not started.
record=$0
start_time() { set -- ${1##*) }; echo "${20}"; }
IFS= read -r line </proc/$$/stat || exit 1
echo "$$ $(start_time "$line")" >"$record.new" && mv "$record.new" "$record" || exit 1
exec "$@"
