# The few commands that everybody needs; `make` alone lists them. What they do stands in scripts/.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test mutants simulate recovery faults soak clean

# How many seeds `make simulate` tries, from which on; which cases `make faults` runs (none: all); seed and length of `make soak`.
SEEDS ?= 100000
FROM ?= 0
CASES ?=
SEED ?= 1
MINUTES ?= 30

help: ## Lists the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

setup: ## Checks prerequisites, fetches nats-server and the Python client for the tests into .tools
	@scripts/setup.sh

demo: setup ## Builds, and releases a real application on three nodes, once in peace and once with kill -9 of nodes; checks everything
	@scripts/demo.sh

test: setup ## Format, lints, all tests, simulation, end to end, a part of the fault runs; ends with `N passed, N failed`
	@scripts/test.sh

mutants: ## Takes one safeguard out at a time; the simulation has to notice each
	cargo run --release -p amphi-tests --features mutants --bin simulate -- --mutants

simulate: ## The seeded simulation: SEEDS=100000 FROM=0
	cargo run --release -p amphi-tests --bin simulate -- --seeds $(FROM)..$$(($(FROM) + $(SEEDS)))

recovery: setup ## How long a start takes that finds 10,000 live tasks: in memory, and a killed node of a real cluster; fails above one second
	cargo run --release -p amphi-tests --bin recovery
	cargo build --release --locked --bin amphi
	AMPHI_BIN="$$(scripts/target-dir.sh)/release/amphi" PATH="$$PWD/.tools/bin:$$PATH" .tools/venv/bin/python tests/faults/recovery.py --limit-ms 1000

faults: setup ## The fault catalogue, case by case, each with the laws that it asserts: CASES="11 16 22" for some of it
	cargo build --locked --workspace --bins
	AMPHI_BIN="$$(scripts/target-dir.sh)/debug/amphi" .tools/venv/bin/python tests/faults/catalogue.py $(CASES)

soak: setup ## Random faults of all kinds into a running load, then everything is counted and judged: SEED=1 MINUTES=30
	cargo build --locked --workspace --bins
	AMPHI_BIN="$$(scripts/target-dir.sh)/debug/amphi" .tools/venv/bin/python tests/faults/soak.py --seed $(SEED) --minutes $(MINUTES)

clean: ## Removes what was built and fetched
	cargo clean
	rm -rf .tools
