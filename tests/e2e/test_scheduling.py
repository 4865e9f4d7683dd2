"""Who gets the next agent: fairness between epics, agents and nodes that are held, overlapping locks, pins. Through the real program."""

import asyncio

from harness import *


def sleeps(count, ms=100):
    return {"t": {"tool": "sleep", "with": {"ms": ms}, "matrix": {"n": f"1..{count}"}}}


async def test_an_epic_of_200_tasks_does_not_starve_one_of_three(c):
    large = await c.submit(sleeps(200))
    await within(lambda: len(large.of("task.assigned")) >= 20 or None, "the large epic is at work")
    small, _ = await c.run(sleeps(3), "succeeded")
    since = small.of("epic.submitted")[0]["seq"]
    until = small.of("task.assigned")[-1]["seq"]
    meanwhile = [event for event in large.of("task.assigned") if since < event["seq"] < until]
    assert len(meanwhile) <= 4, f"{len(meanwhile)} assignments of the large epic came before the three of the small one"
    await large.end("succeeded")
    assert large.of("task.assigned")[-1]["seq"] > until, "the large epic had nothing left to ask for: nothing was shown"


if __name__ == "__main__":
    main(__name__)
