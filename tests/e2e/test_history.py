"""The journal is snapshotted, archived and trimmed, ended epics leave the memory, and all of it can still be read, over kill -9.

The thresholds are small, so that a short test goes through what takes days otherwise.
"""

import asyncio
import os
import signal

from harness import *

UPKEEP = {"AMPHI_UPKEEP": "decisions=60,segment_bytes=30000,ended_epics=10"}


async def journal(c):
    # Clients do not see it.
    node = await c.up.as_node()
    try:
        return (await node.jetstream().stream_info("AMPHI_JOURNAL_0")).state
    finally:
        await node.close()


async def many(c, count, word):
    """`count` epics of one noop each, to their end; their ids in order."""
    ids = []
    for start in range(0, count, 20):
        batch = [c.submit({"a": {"tool": "noop"}}, id=f"{word}-{n}") for n in range(start, min(count, start + 20))]
        ids += [epic.id for epic in await asyncio.gather(*batch)]
    for id in ids:

        async def over():
            return (await c.api("epic.get", {"epic": id}))["state"] == "succeeded"

        await within(over, f"{id} succeeded")
    return ids


async def kill_the_node(c):
    """kill -9 of the only node; gives when its next life leads and answers."""
    (node,) = (await c.api("node.list"))["nodes"]
    os.kill(node["pid"], signal.SIGKILL)

    async def again():
        try:
            (now,) = (await c.api("node.list", deadline=2))["nodes"]
        except (Refused, AssertionError, NoRespondersError):
            return None
        return now["pid"] != node["pid"] and now["state"] == "alive"

    await within(again, "the node's next life leads")


async def test_history_stays_whole_when_the_journal_is_trimmed(c):
    first = await c.submit({"make": {"run": "echo word=ahoy >> $AMPHI_OUTPUT", "outputs": {"word": "string"}}, "use": {"needs": ["make"], "run": "echo ${{ tasks.make.outputs.word }}"}}, id="the first")
    before = await first.end("succeeded")
    events = (await c.amphi("epic", "events", first.id, "--json")).exits(0).lines
    report = (await c.amphi("epic", "report", first.id, "--json")).exits(0).json
    ids = await many(c, 90, "bulk")

    async def is_trimmed():
        return (await journal(c)).first_seq > 1

    await within(is_trimmed, "the journal is trimmed")
    await kill_the_node(c)
    ids += await many(c, 20, "after")
    await kill_the_node(c)

    # What was put away is shown as if it had never left.
    same((await c.amphi("epic", "events", first.id, "--json")).exits(0).lines, events)
    same((await c.amphi("epic", "report", first.id, "--json")).exits(0).json, report)
    verdict = (await c.amphi("epic", "verify", first.id, "--json")).exits(0).json
    assert verdict["ok"] and verdict["from"] == 1, verdict
    after = await first.get()
    same({key: after[key] for key in ("state", "tasks", "submitted_at", "ended_at")}, {key: before[key] for key in ("state", "tasks", "submitted_at", "ended_at")})
    same((await c.amphi("task", "show", f"{first.id}/use", "--json")).exits(0).json["state"], "succeeded")
    assert "ahoy" in await first.log("use")
    same((await c.api("task.why", {"epic": first.id, "task": "use"}))["waits"], [])
    listed = (await c.amphi("epic", "ls", "--json", "--limit", "1000")).exits(0).json["epics"]
    assert {first.id, *ids} <= {epic["epic"] for epic in listed}, f"{len(listed)} of {len(ids) + 1} epics are listed"
    same([epic["epic"] for epic in listed], sorted(epic["epic"] for epic in listed))

    # Its key is known, its end is final, and what never was is still unknown.
    other = {"version": 1, "name": "other", "tasks": {"a": {"tool": "noop"}}}
    await c.refused("epic.submit", {"document": other, "id": "the first"}, "submit.conflict", 409)
    await c.refused("epic.cancel", {"epic": first.id}, "state.conflict", 409)
    for verb in ("task.retry", "task.cancel"):
        refused = await c.refused(verb, {"epic": first.id, "task": "use"}, "state.conflict", 409)
    assert "put away" in str(refused) and "submit it under a new id" in str(refused), refused
    await c.refused("epic.get", {"epic": "nobody-0"}, "epic.not_found", 404)
    await c.refused("task.get", {"epic": first.id, "task": "nothing"}, "task.not_found", 404)

    # The export is whole too: the checker of files says so without the cluster.
    file = os.path.join(c.folder, "export.ndjson")
    (await c.amphi("epic", "export", first.id, "--output", file)).exits(0)
    verdict = (await command("epic", "verify", "--journal", file, "--json")).exits(0).json
    assert verdict["ok"] and verdict["from"] == 1, verdict

    # What is left in the journal is bounded by the thresholds, not by what has happened.
    async def is_bounded():
        state = await journal(c)
        return state.first_seq > 20 and state.messages < 400

    await within(is_bounded, "the journal is short again")


if __name__ == "__main__":
    main(__name__, env=UPKEEP)
