#!/bin/sh
# Prints the folder into which cargo builds.
set -eu
cd "$(dirname -- "$0")/.."
cargo metadata --format-version 1 --no-deps --offline | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
