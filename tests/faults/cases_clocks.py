"""Clocks that are wrong: one `up` and its nodes live an hour or a year away, or twice as fast; the host's clock is never touched."""
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from loaded import BEYOND, LEASE, SLACK, LoadedStage
from machine import Case
from stage import need

SOURCE = Path(__file__).resolve().with_name("clock.c")
HOUR, YEAR = 3600, 365 * 86400


def with_clocks(*clocks):
    """A stage whose `up`s have these clocks: (offset in seconds, rate)."""

    def make(folder):
        library = folder / "clock.so"
        compiler = shutil.which("cc") or shutil.which("gcc")
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True, capture_output=True)
        shape = []
        for offset, rate in clocks:
            env = {"LD_PRELOAD": str(library), "AMPHI_CLOCK_OFFSET": str(offset), "AMPHI_CLOCK_RATE": str(rate)} if (offset, rate) != (0, 1) else {}
            shape.append({"options": ["--capacity", 4], "env": env})
        return LoadedStage(folder, shape)

    return make


async def wrong_clocks(stage):
    """Work goes on, nobody is deposed for it, and each of them may be the one that leads."""
    before = len(stage.elections.elected)
    end = time.monotonic() + 12
    while time.monotonic() < end:
        await stage.more(1)
    elected = len(stage.elections.elected) - before
    need(elected <= 1, f"{elected} elections though nothing failed")
    led = set()
    for _ in range(4):
        leader, began = await stage.leader(), time.monotonic()
        led.add(leader["id"])
        os.kill(leader["pid"], signal.SIGKILL)
        await stage.taken_over(began, LEASE + BEYOND + SLACK)
        await stage.more(3)
    stage.said = f"{len(led)} nodes have led"


async def fast_and_slow(stage):
    """Safety holds; a fast clock may end its own lease or its fence early, which costs time and nothing else."""
    for _ in range(3):
        leader, began = await stage.leader(), time.monotonic()
        os.kill(leader["pid"], signal.SIGKILL)
        await stage.taken_over(began, 2 * (LEASE + BEYOND) + SLACK)
        await stage.more(3)


LAWS = ("S2", "S4", "S13", "L1", "L2")
CASES = [
    Case("30", "wall clocks an hour late and a year early on two of three nodes", LAWS, wrong_clocks, with_clocks((0, 1), (-HOUR, 1), (YEAR, 1)), needs=("cc",)),
    Case("30b", "the same, an hour early and a year late", LAWS, wrong_clocks, with_clocks((HOUR, 1), (-YEAR, 1), (0, 1)), needs=("cc",)),
    Case("31", "clocks twice as fast and half as fast", LAWS, fast_and_slow, with_clocks((0, 1), (0, 2), (0, 0.5)), needs=("cc",)),
]
