# Sourced by every script of the repository: where things are, how to talk, how to get what is missing.
#
# Whatever a script needs is installed by the script, at a pinned version, below .cache/ (ignored by git), or
# by apt-get when it runs as root on Debian; a user who is not root is told the one command to type.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
export ROOT CACHE
mkdir -p "$CACHE"
# rustup installs here; a shell that was open before does not know it yet.
case ":$PATH:" in *":$HOME/.cargo/bin:"*) ;; *) [ ! -d "$HOME/.cargo/bin" ] || PATH=$PATH:$HOME/.cargo/bin ;; esac

say() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# have COMMAND: whether it can be run.
have() { command -v "$1" >/dev/null 2>&1; }

# need COMMAND PACKAGE...: installs Debian packages if the command is missing.
need() {
    local command=$1
    shift
    if have "$command"; then return; fi
    install_packages "$@"
    have "$command" || die "$command is still missing after installing: $*"
}

install_packages() {
    have apt-get || die "please install: $*"
    [ "$(id -u)" = 0 ] || die "please run: sudo apt-get install $*"
    say "installing $*"
    local log=$CACHE/apt.log
    # Scripts may run side by side; apt does not.
    exec 9>"$CACHE/apt.lock"
    flock 9
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$log" 2>&1; then
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
            >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "apt-get could not install $* (offline?)"; }
    fi
    exec 9>&-
}

# quietly NAME COMMAND...: runs the command; shows its output only if it fails.
quietly() {
    local log=$CACHE/$1.log
    shift
    if ! "$@" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        die "failed (all of it in ${log#"$ROOT"/}): $*"
    fi
}

# once DIR STAMP COMMAND...: fills DIR by the command unless it was filled for the same stamp before. The
# command gets a fresh directory in $into; it becomes DIR only if the command succeeds.
once() {
    local dir=$1 stamp=$2 into
    shift 2
    if [ "$(cat "$dir/.stamp" 2>/dev/null)" = "$stamp" ]; then return; fi
    into=$dir.part
    rm -rf "$into"
    mkdir -p "$into"
    into=$into "$@"
    rm -rf "$dir"
    printf '%s\n' "$stamp" >"$into/.stamp"
    mv "$into" "$dir"
}

# stop_pid PID SECONDS: asks a process to end, waits, then insists.
stop_pid() {
    local pid=$1 patience=${2:-20} waited=0
    kill -TERM "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$waited" -ge $((patience * 10)) ]; then
            kill -KILL "$pid" 2>/dev/null || true
            return 1
        fi
        sleep 0.1
        waited=$((waited + 1))
    done
}

# need_rust: cargo and what a Rust build needs besides it.
need_rust() {
    have cargo || die "cargo is missing: install Rust 1.95 or newer (rustup.rs), then try again"
    need cc gcc libc6-dev
}

# step NAME COMMAND...: runs a step of a longer script, says how long it took, ends the script if it failed.
step() {
    local name=$1 began=$SECONDS status=0
    shift
    say "==> $name"
    "$@" || status=$?
    STEPS+=("$(printf '%5d s  %s' $((SECONDS - began)) "$name")")
    if [ "$status" != 0 ]; then
        steps_done
        die "$name failed (exit $status)"
    fi
}
STEPS=()

steps_done() {
    say
    [ ${#STEPS[@]} = 0 ] || printf '%s\n' "${STEPS[@]}" >&2
    printf '%5d s  in all\n' "$SECONDS" >&2
}

# free_port [AFTER]: a TCP port on loopback that nothing listens on; above AFTER, for a script that needs several.
free_port() {
    local port
    for port in $(seq $((${1:-19091} + 1)) 19191); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            printf '%s' "$port"
            return
        fi
    done
    die "no free port between $((${1:-19091} + 1)) and 19191"
}

# listens HOST:PORT: whether somebody accepts connections there.
listens() { (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null; }
