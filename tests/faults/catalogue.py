"""The fault catalogue of the design, case by case, on real processes; each case names the laws it asserts.

    .tools/venv/bin/python tests/faults/catalogue.py [NUMBER|NAME…] [--list] [--quick] [--keep] [--at-once N]

One line per case. What this machine cannot run is NOT RUN, with the reason, and counted; so is what belongs to a later issue. After each
case the laws are checked from outside (see stage.py). --quick is the part of it that `make test` runs. The last line is
`N passed, N failed, N not run`.
"""
import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import cases_clocks
import cases_disk
import cases_links
import cases_managers
import cases_nats
import cases_nodes
import cases_others
import cases_trio
from client import Refused, Unanswered
from cluster import ClusterError
from machine import missing
from stage import need

AT_ONCE = 2
# How long one case may take before it counts as hung, in seconds.
LIMIT = 600
CASES = [
    case
    for file in (cases_managers, cases_nodes, cases_links, cases_nats, cases_disk, cases_clocks, cases_trio, cases_others)
    for case in file.CASES
]


def order(case):
    digits = "".join(c for c in case.number if c.isdigit())
    return int(digits or 0), case.number


def head(case):
    return f"case {case.number:<4} {case.name}   {' '.join(case.laws)}"


def named(case, word):
    """By its number, or by a part of what it is called."""
    return word == case.number or (not word[0].isdigit() and (word in case.play.__name__ or word in case.name))


class Runner:
    """Plays cases, some side by side, and counts them."""

    def __init__(self, folder, keep):
        self.folder, self.keep = folder, keep
        self.passed = self.failed = self.not_run = 0

    def skip(self, case, why):
        self.not_run += 1
        print(f"{head(case)}   NOT RUN: {why}", flush=True)

    async def play(self, case, at_once):
        reason = case.later or missing(case.needs)
        if reason:
            return self.skip(case, reason)
        async with at_once:
            began = time.monotonic()
            folder = self.folder / f"{case.number}-{case.play.__name__}"
            folder.mkdir()
            said, problem = "", None
            try:
                said = await asyncio.wait_for(self.act(case, folder), LIMIT)
            except (ClusterError, Unanswered, Refused, OSError, StopIteration, asyncio.TimeoutError) as error:
                problem = f"{type(error).__name__}: {error}"
            except Exception:  # a mistake of the case itself: shown whole, and the others go on
                problem = traceback.format_exc()
            took = f"{time.monotonic() - began:.1f} s"
            if problem is None:
                self.passed += 1
                print(f"{head(case)}   ok {took}{f' ({said})' if said else ''}", flush=True)
                if not self.keep:
                    shutil.rmtree(folder, ignore_errors=True)
            else:
                self.failed += 1
                print(f"{head(case)}   FAIL {took}", flush=True)
                print("".join(f"       {line}\n" for line in [*problem.splitlines(), f"kept in {folder}"]), end="", flush=True)

    async def act(self, case, folder):
        if case.stage is None:
            return await case.play(folder)
        stage = case.stage(folder)
        try:
            await stage.rise()
            await case.play(stage)
            if case.settles:
                await stage.settle()
        finally:
            await asyncio.shield(stage.fall())
        need(not stage.panics(), f"panicked: {stage.panics()[:3]}")
        await stage.nothing_left()
        return stage.said

    async def play_all(self, cases, count):
        # Those that fill disks or hold the whole machine up are alone.
        beside = [case for case in cases if not case.alone]
        at_once = asyncio.Semaphore(count)
        await asyncio.gather(*(self.play(case, at_once) for case in beside))
        for case in cases:
            if case.alone:
                await self.play(case, at_once)


def main():
    # Told to end, it ends what it started first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="numbers or parts of names; default: all")
    parser.add_argument("--list", action="store_true", help="what there is, without running it")
    parser.add_argument("--quick", action="store_true", help="the part that `make test` runs")
    parser.add_argument("--keep", action="store_true", help="keep data and logs of all cases")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    options = parser.parse_args()
    chosen = sorted(CASES, key=order)
    if options.cases:
        chosen = [case for case in chosen if any(named(case, word) for word in options.cases)]
    if options.quick:
        chosen = [case for case in chosen if case.quick or case.later]
    if options.list:
        for case in chosen:
            print(f"{head(case)}{f'   ({case.later})' if case.later else ''}")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="amphi-catalogue-"))
    runner = Runner(folder, options.keep)
    asyncio.run(runner.play_all(chosen, options.at_once))
    if not runner.failed and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{runner.passed} passed, {runner.failed} failed, {runner.not_run} not run")
    return 1 if runner.failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
