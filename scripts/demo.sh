#!/usr/bin/env bash
# A real epic on one node, with a kill -9 of the node in the middle, to a verified end. Exit 0 only if everything holds.
# Sets up what is missing, builds, and leaves nothing behind; see demo.py for what happens.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
if [ -z "${AMPHI_BIN:-}" ]; then
    cargo build --locked --bin amphi
    AMPHI_BIN=$(scripts/target-dir.sh)/debug/amphi
fi
export AMPHI_BIN
exec .tools/venv/bin/python scripts/demo.py "$@"
