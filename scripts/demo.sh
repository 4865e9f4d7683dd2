#!/usr/bin/env bash
# `amphi demo`, and again with `--chaos`: sets up what is missing, builds, leaves nothing behind. With arguments, `amphi demo` with those.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
if [ -z "${AMPHI_BIN:-}" ]; then
    cargo build --locked --bin amphi
    AMPHI_BIN=$(scripts/target-dir.sh)/debug/amphi
fi
export PATH="$PWD/.tools/bin:$PATH"
if [ "$#" -gt 0 ]; then
    exec "$AMPHI_BIN" demo "$@"
fi
"$AMPHI_BIN" demo
exec "$AMPHI_BIN" demo --chaos
