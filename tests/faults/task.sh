#!/bin/sh
# What every task of the fault runs does: it writes its start, its life and its end to a file that Amphitheatre knows nothing of.
# Each line is one append of one write, so the order of the lines is the order in which things really happened.
#
# Usage: task.sh FILE TENTHS EXIT UNTIL [NAME=VALUE…] [in:TASK…]
#   TENTHS: how long it works, in tenths of a second. EXIT: how it ends while its attempt is below UNTIL, `hang`: not by itself; later
#   it succeeds.
#   A NAME=VALUE whose sides differ is a wrong value handed on: exit 90. An in:TASK wants the artifact of that task: exit 91.
file=$1 tenths=$2 bad=$3 until=$4
shift 4
line() { printf '%s %s %s %s %s %s %s %s\n' "$1" "$AMPHI_EPIC" "$AMPHI_TASK" "$AMPHI_RUN" "$AMPHI_ATTEMPT" $$ "$AMPHI_FENCING_TOKEN" "$2" >>"$file"; }

line start -
while [ "$bad" = hang ] && [ "$AMPHI_ATTEMPT" -lt "$until" ]; do
    sleep 0.1
    line alive -
done
while [ "$tenths" -gt 0 ]; do
    sleep 0.1
    tenths=$((tenths - 1))
    line alive -
done
code=0
[ "$AMPHI_ATTEMPT" -lt "$until" ] && code=$bad
for pair in "$@"; do
    case $pair in
    in:*) [ "$(cat "$AMPHI_INPUTS/${pair#in:}/made")" = "${pair#in:}" ] || code=91 ;;
    *) [ "${pair%%=*}" = "${pair#*=}" ] || code=90 ;;
    esac
done
# The value names what made it, so that a stranger's output would be noticed.
if [ "$code" = 0 ]; then
    printf 'made=%s\n' "$AMPHI_TASK" >>"$AMPHI_OUTPUT"
    printf '%s\n' "$AMPHI_TASK" >"$AMPHI_ARTIFACTS/made"
fi
line end "$code"
exit "$code"
