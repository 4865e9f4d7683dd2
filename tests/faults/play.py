"""Plays the cases of a fault file side by side, each on a stage of its own, and counts them.

A stage has `rise()`, `fall()` and `said` (what it measured, for people); a case is a coroutine that takes a stage, its docstring is the law.
"""
import argparse
import asyncio
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from client import Refused, Unanswered
from cluster import ClusterError


async def play(case, stage, at_once):
    async with at_once:
        stage.folder.mkdir()
        began = time.monotonic()
        try:
            await stage.rise()
            await case(stage)
            problem = None
        except (ClusterError, Unanswered, Refused, OSError, StopIteration, asyncio.TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"
        except Exception:  # a mistake of the case itself: shown whole, and the others go on
            problem = traceback.format_exc()
        await stage.fall()
        said = f"{stage.said}, " if stage.said else ""
        print(f"{'FAIL' if problem else 'ok  '} {case.__name__} ({said}in all {time.monotonic() - began:.0f} s): {case.__doc__}", flush=True)
        if problem:
            print("".join(f"       {line}\n" for line in problem.splitlines()), end="", flush=True)
        return problem is None


async def play_all(cases, make_stage, folder, count):
    at_once = asyncio.Semaphore(count)
    return await asyncio.gather(*(play(case, make_stage(folder / case.__name__), at_once) for case in cases))


def main(description, cases, make_stage, at_once):
    """The command line of a fault file; `at_once` is how many cases run side by side."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[[], *(case.__name__ for case in cases)])
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="amphi-faults-"))
    chosen = [case for case in cases if case.__name__ in (options.cases or [case.__name__])]
    results = asyncio.run(play_all(chosen, make_stage, folder, at_once))
    if all(results) and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"everything is kept in {folder}")
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) else 1)
