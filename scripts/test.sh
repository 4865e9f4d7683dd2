#!/usr/bin/env bash
# Everything that has to hold before a change is taken, in stages; says what each stage tests and goes on after a failure.
# The last line is `N passed, N failed`: tests as their runner counts them, a stage without a count of its own as one.
#
# Stages may be chosen: `scripts/test.sh unit simulation`. SIMULATE_SEEDS and KILL_RUNS change how much of each is done.
set -uo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

seeds=${SIMULATE_SEEDS:-10000}
kills=${KILL_RUNS:-8}
target=$(scripts/target-dir.sh) || exit 1
logs=$target/test-logs
export PATH="$PWD/.tools/bin:$PATH"
export AMPHI_BIN="$target/debug/amphi"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
python=.tools/venv/bin/python
passed=0
failed=0
failures=()
mkdir -p "$logs"

title() { printf '\n== %s: %s\n' "$1" "$2"; }

# counted NAME COMMAND…: runs it and adds the counts that it prints; if it prints none, it counts as one test. A runner that fails
# without a failed test (it did not build, it was killed) counts as one failure.
counted() {
    local name=$1 log good bad summaries status
    shift
    log="$logs/${name//[^A-Za-z0-9]/-}.log"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r good bad summaries < <(python3 scripts/count-tests.py "$log")
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    elif [ "$status" = 0 ] && [ "$summaries" = 0 ]; then
        good=1
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    [ "$bad" = 0 ] || failures+=("$name: $bad failed, see $log")
}

stage_format() {
    title format "the source is formatted"
    counted format cargo fmt --all --check
}

stage_lints() {
    title lints "clippy and rustc have nothing to say about any target"
    counted lints cargo clippy --workspace --all-targets --locked -- -D warnings
}

stage_unit() {
    title unit "each crate by itself, the layers, the house style, the sample journals"
    if cargo nextest --version >/dev/null 2>&1; then
        counted unit cargo nextest run --workspace --locked --no-fail-fast
    else
        counted unit cargo test --workspace --locked --lib --bins --tests --no-fail-fast
    fi
    counted documentation cargo test --workspace --locked --doc --no-fail-fast
}

stage_simulation() {
    title simulation "$seeds seeds: faults at any step, every law after each"
    # The whole workspace at once: one package alone would get other features, and with them everything below it built again.
    counted build-simulation cargo build --workspace --locked --bins
    counted simulation "$target/debug/simulate" --seeds "0..$seeds"
}

stage_e2e() {
    title e2e "the program from outside: command line, plain NATS from Python"
    counted build cargo build --workspace --locked --bins
    local found=0 file
    for file in tests/e2e/test_*.py; do
        [ -e "$file" ] || continue
        found=1
        printf -- '-- %s\n' "$file"
        counted "$file" "$python" "$file"
    done
    [ "$found" = 1 ] || counted e2e false
}

stage_faults() {
    title faults "$kills kills at random instants; nothing outlives its attempt; a part of the fault catalogue; a minute of all faults"
    counted judge "$python" tests/faults/test_judge.py
    counted kills "$python" tests/faults/kill_proof.py --runs "$kills"
    # Three nodes, and a journal that is snapshotted, archived and trimmed all the time.
    counted kills-trimmed env AMPHI_UPKEEP=decisions=200,segment_bytes=100000,ended_epics=20 "$python" tests/faults/kill_proof.py --runs "$kills" --nodes 3
    counted guards "$python" tests/faults/guards.py
    counted nodes "$python" tests/faults/nodes.py
    counted catalogue "$python" tests/faults/catalogue.py --quick
    counted soak "$python" tests/faults/soak.py --seed 1 --minutes 0.7
}

stages=("$@")
[ "$#" -gt 0 ] || stages=(format lints unit simulation e2e faults)
printf 'tests: %s (logs in %s)\n' "${stages[*]}" "$logs"
began=$SECONDS
for stage in "${stages[@]}"; do
    declare -F "stage_$stage" >/dev/null || { printf 'there is no stage %s\n' "$stage" >&2; exit 2; }
    "stage_$stage"
done

printf '\n'
for failure in ${failures[@]+"${failures[@]}"}; do
    printf 'FAILED %s\n' "$failure"
done
printf 'in %s s\n' "$((SECONDS - began))"
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
