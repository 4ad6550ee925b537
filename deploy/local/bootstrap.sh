#!/bin/sh
# Makes .venv with what uv.lock says. Needs Python 3.11 to 3.13; PYTHON names one. Arguments are uv's: `--no-dev
# --inexact` for what running needs, `--group bench` for what benchmarks need as well.
set -eu
cd "$(dirname "$0")/../.."

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

python=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if fits "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "Python 3.11, 3.12 or 3.13 is needed and was not found; PYTHON=/path/to/python names one." >&2
    exit 1
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    root=
    if [ "$(id -u)" != 0 ]; then root="sudo -n"; fi
    if ! command -v apt-get >/dev/null || ! $root true 2>/dev/null; then
        echo "Python's venv module is missing. Install it (Debian, Ubuntu: apt-get install $package)." >&2
        exit 1
    fi
    echo "installing $package from the system's packages"
    log=$(mktemp)
    if ! { $root apt-get update -q && DEBIAN_FRONTEND=noninteractive $root apt-get install -q -y \
        --no-install-recommends -o DPkg::Lock::Timeout=300 "$package"; } >"$log" 2>&1; then
        tail -n 10 "$log" >&2
        exit 1
    fi
    rm -f "$log"
fi

if ! .venv/bin/python -c '' 2>/dev/null || ! fits .venv/bin/python; then
    echo "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi
# Beside the environment, not in it: uv removes from it whatever the lock does not name.
UV=0.13.9
if [ "$(.venv/uv/bin/uv --version 2>/dev/null | cut -d ' ' -f 2)" != "$UV" ]; then
    echo "installing uv $UV, which installs the rest"
    rm -rf .venv/uv
    "$python" -m venv .venv/uv
    .venv/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV"
fi
# The machine's own certificates, where it has them: a network may have an authority that uv does not bring along.
certificates=
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then certificates=--system-certs; fi

# uv draws its progress where it has a terminal. Elsewhere, as in a log, we say every few seconds how far it is.
case " $* " in *" --no-dev "*) what="what running needs" ;; *) what="what tests need" ;; esac
echo "installing $what into .venv, and compiling it; the first time takes a minute or two"
quiet= ticker=
if [ ! -t 2 ]; then
    quiet=--quiet
    (
        waited=0
        while sleep "${TICK:-10}" >/dev/null 2>&1; do  # what outlives us must not hold our output open
            waited=$((waited + ${TICK:-10}))
            echo "  $waited s, $(ls -d .venv/lib/python*/site-packages/*.dist-info 2>/dev/null | wc -l) are there"
        done
    ) &
    ticker=$!
    trap 'kill "$ticker" 2>/dev/null || true' EXIT
fi
UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV= .venv/uv/bin/uv sync --frozen --all-extras --compile-bytecode $quiet $certificates "$@"
