# Sourced by each compat/<client>/run: arguments, a name for this run, and the judge.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"

CLIENT=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || die "usage: compat/$(basename "$CLIENT")/run HOST:PORT"
BOOTSTRAP=$1
# Topics and groups of this run have this in their names, so that runs do not meet.
RUN=r$(date +%s)$$
export BOOTSTRAP RUN CLIENT
need python3 python3
listens "$BOOTSTRAP" || die "nothing listens on $BOOTSTRAP"

# The peer has differences of its own.
allowlist() {
    local special=$CLIENT/tests.allow.${COMPAT_PEER:-none}
    if [ -e "$special" ]; then printf '%s' "$special"; else printf '%s' "$CLIENT/tests.allow"; fi
}

# judged SECONDS COMMAND...: runs the tests under the judge.
judged() {
    local seconds=$1
    shift
    timeout --kill-after=10 "$seconds" "$@" 2>&1 | "$ROOT/compat/lib/judge" "$(allowlist)" ${JUDGE_FLAGS:-}
}

# python_venv PACKAGE...: a virtual environment of this client's own with exactly these packages.
python_venv() {
    python3 -c 'import venv, ensurepip' 2>/dev/null || install_packages python3-venv
    make_venv() { python3 -m venv "$into" && "$into/bin/python" -m pip install --quiet "$@"; }
    VENV=$CACHE/$(basename "$CLIENT")-venv
    once "$VENV" "$*" quietly "$(basename "$VENV")" make_venv "$@"
    # A virtual environment moves only in part; its interpreter does.
    # shellcheck disable=SC2034
    PYTHON=$VENV/bin/python
}

# sources PACKAGE==VERSION...: the source packages of Python packages, unpacked; their tests are in there.
sources() {
    unpack() {
        local archive
        "$PYTHON" -m pip download --quiet --no-deps --no-binary :all: --dest "$into" "$@" || return 1
        for archive in "$into"/*.tar.gz; do tar -xzf "$archive" -C "$into" || return 1; done
    }
    SOURCES=$CACHE/$(basename "$CLIENT")-sources
    once "$SOURCES" "$*" quietly "$(basename "$SOURCES")" unpack "$@"
    export SOURCES PYTHON
}

# pytest_judged ARGUMENT...: runs pytest with the judge's lines; succeeds unless the run itself broke.
pytest_judged() {
    local status=0
    PYTHONPATH=$ROOT/compat/lib PYTHONDONTWRITEBYTECODE=1 "$PYTHON" -m pytest -p pytest_judge -p no:cacheprovider \
        -p no:terminal -W ignore "$@" || status=$?
    [ "$status" -le 1 ]
}
