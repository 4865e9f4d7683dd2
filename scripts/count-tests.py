"""Prints `<passed> <failed> <summaries>`: what the test runners' own summaries in the given log add up to, and how many there are.

Knows cargo nextest (`Summary … 16 tests run: 15 passed, 1 failed`), cargo test and doc tests (`test result: …`), unittest
(`Ran 5 tests`, `FAILED (failures=1)`), and any line of the form `N passed, N failed` or `N passed, N failed, N not run`. Indented lines do not count: they are a failed test's own output.
"""

import re
import sys


def count(text):
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    passed = failed = summaries = 0
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*Summary \[.*\] .*\btests? run: (\d+) passed(.*)", line):
            good, bad = int(match[1]), sum(int(n) for n in re.findall(r"(\d+) (?:failed|timed out|exec failed)", match[2]))
        elif match := re.match(r"test result: \w+\. (\d+) passed; (\d+) failed", line):
            good, bad = int(match[1]), int(match[2])
        elif match := re.fullmatch(r"(\d+) passed, (\d+) failed(?:, \d+ not run)?", line):
            good, bad = int(match[1]), int(match[2])
        elif match := re.fullmatch(r"Ran (\d+) tests? in .*", line):
            good, bad = int(match[1]), 0
        elif match := re.fullmatch(r"(?:OK|FAILED) \((.*)\)", line):
            # The second line of the same summary: what of the tests that ran did not pass.
            bad = sum(int(n) for n in re.findall(r"\b(?:failures|errors|unexpected successes)=(\d+)", match[1]))
            skipped = sum(int(n) for n in re.findall(r"\bskipped=(\d+)", match[1]))
            passed, failed = passed - bad - skipped, failed + bad
            continue
        else:
            continue
        passed, failed, summaries = passed + good, failed + bad, summaries + 1
    return max(passed, 0), failed, summaries


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
        print(*count(log.read()))
