#!/usr/bin/env bash
# Checks what has to be on the machine, and fetches the rest into .tools: nats-server, and a Python environment for the tests.
# Changes nothing outside .tools, and nothing at all when everything is there.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

nats_py=2.16.0
venv=.tools/venv
missing=0

say() { printf 'setup: %s\n' "$*" >&2; }
want() { say "$1"; missing=1; }

command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null \
    || want "a C compiler is missing (crates with C code need one): install gcc or clang, for instance 'apt-get install gcc libc6-dev'"
command -v cargo >/dev/null || want "cargo is missing: install Rust with rustup"
if command -v python3 >/dev/null; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || want "python3 is older than 3.9"
    python3 -c 'import pip' 2>/dev/null || python3 -c 'import ensurepip' 2>/dev/null \
        || want "python3 has neither pip nor venv: install python3-venv or python3-pip"
else
    want "python3 is missing (nats-server is fetched and the end-to-end tests run with it): install python3 and python3-venv"
fi
[ "$missing" = 0 ] || { say "install what is named above, then try again"; exit 1; }

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
found=$(rustc --version | sed -n 's/^rustc \([0-9]*\.[0-9]*\).*/\1/p')
if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    say "Rust $found is too old, $wanted is needed: 'rustup update stable'"
    exit 1
fi

scripts/get-nats-server.sh

if ! "$venv/bin/python" -c "import nats.aio.client" 2>/dev/null; then
    say "putting nats-py $nats_py into $venv"
    rm -rf "$venv"
    mkdir -p .tools
    if python3 -c 'import ensurepip' 2>/dev/null; then
        python3 -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "nats-py==$nats_py"
    else
        # Debian packages venv's pip apart; the system's pip can fill an environment without one.
        python3 -m venv --without-pip "$venv"
        packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        python3 -m pip install --quiet --disable-pip-version-check --target "$packages" "nats-py==$nats_py"
    fi
    "$venv/bin/python" -c "import nats.aio.client" || { say "nats-py was installed but cannot be imported"; exit 1; }
fi
