# shellcheck shell=bash
# Sourced by the scripts beside this folder: where things are, and steps that log, stamp themselves and explain failures.
# Everything said here goes to standard error, so that a script's own output can be one JSON object.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=$ROOT/.cache
VENV=$ROOT/.venv
# shellcheck disable=SC2034 # for the scripts that source this
PYTHON=$VENV/bin/python
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" # where Debian keeps mosquitto and bpftool

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "$1"
    exit "${2:-1}"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# The script's own comment at its top, without the marks.
usage() {
    awk 'NR > 1 && !/^#/ {exit} NR > 1 {sub(/^# ?/, ""); print}' "$0"
}

# logged NAME CURE COMMAND...: runs it with its output in .cache/log/NAME.log; says how long it took when that was
# more than a second; shows the end of the log and the cure when it failed.
logged() {
    local name=$1 cure=$2 log=$CACHE/log/$1.log started=$SECONDS status=0
    shift 2
    mkdir -p "$CACHE/log"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if ((status)); then
        say "$name failed with $status; the end of $log:"
        tail -n 15 "$log" | sed 's/^/    /' >&2
        say "cure: $cure"
    elif ((SECONDS - started > 1)); then
        say "$name: done in $((SECONDS - started)) s"
    fi
    return "$status"
}

# hash_of WORD... -- FILE...: one hash over words and files.
hash_of() {
    local words=()
    while [[ $1 != -- ]]; do
        words+=("$1")
        shift
    done
    shift
    { printf '%s\n' "${words[@]}" && cat -- "$@"; } | sha256sum | cut -d ' ' -f 1
}

# stamped NAME HASH: whether this step has succeeded with this hash before.
stamped() {
    local stamp=$CACHE/stamps/$1 found
    [[ -r $stamp ]] && read -r found <"$stamp" && [[ $found == "$2" ]]
}

stamp() {
    mkdir -p "$CACHE/stamps"
    printf '%s\n' "$2" >"$CACHE/stamps/$1"
}
