"""Pools that follow the queue and the machine (`replicas: min..max`): up for what waits, down when idle or when memory or processor time is short, each
with its cause on record; nobody who works is ended."""

import os

from harness import *

PRESSURE = "/tmp/amphi-e2e-pressure-" + str(os.getpid())


def press(word):
    with open(PRESSURE + ".new", "w", encoding="utf-8") as file:
        file.write(word)
    os.replace(PRESSURE + ".new", PRESSURE)


def prepare(folder):
    press("none")
    with open(os.path.join(folder, "amphi.yaml"), "w", encoding="utf-8") as file:
        file.write(
            "version: 1\nhealth: { heartbeat: 500ms, agent_idle: 2s }\nroles:\n  TestGuardian: { replicas: 1..4 }\n"
            "  DeployCommander: { replicas: 2, restart: { strategy: one_for_all, max: 7, within: 30s } }\n"
        )


async def pool(c):
    return [agent for agent in (await c.api("agent.list"))["agents"] if agent["role"] == "TestGuardian"]


async def size(c, count, what):
    async def reached():
        there = await pool(c)
        return there if len(there) == count else None

    return await within(reached, what)


def causes(c, type):
    return [event["data"]["cause"] for _, _, event in c.feed.messages if event["type"] == type and event["data"].get("role") == "TestGuardian" and "cause" in event["data"]]


def held(folder, i):
    return {"agent": "TestGuardian", "run": f"touch {folder}/{i}; while [ ! -e {folder}/go ]; do sleep 0.1; done"}


async def test_a_pool_grows_with_the_queue_and_shrinks_when_idle_or_pressed(c):
    await size(c, 1, "it starts with the least")
    folder = c.new_folder()
    epic = await c.submit({f"t{i}": held(folder, i) for i in range(6)})
    await size(c, 4, "it grows to the most")

    async def four_run():
        return sum(os.path.exists(f"{folder}/{i}") for i in range(6)) == 4 or None

    await within(four_run, "four run at once")
    same(set(causes(c, "agent.joined")), {"queue"})
    same(len(causes(c, "agent.joined")), 3)
    same((len([a for a in await pool(c) if a["state"] == "busy"]), causes(c, "agent.lost")), (4, []))
    open(f"{folder}/go", "w").close()
    await epic.end("succeeded")
    await size(c, 1, "it shrinks to the least when nothing is to be done")
    same(causes(c, "agent.lost"), ["idle"] * 3)
    same([event for event in epic.of("task.retrying")], [], "nobody was ended at work")

    # Short of memory: nobody comes; who works beyond the least finishes and leaves.
    folder = c.new_folder()
    epic = await c.submit({f"t{i}": held(folder, i) for i in range(2)})
    await size(c, 2, "it grows for two")

    async def two_run():
        return sum(os.path.exists(f"{folder}/{i}") for i in range(2)) == 2 or None

    await within(two_run, "two run")
    press("memory")

    async def one_leaves():
        return sorted(agent["state"] for agent in await pool(c)) == ["busy", "down"] or None

    await within(one_leaves, "one of them takes nothing new")
    more = await c.submit({f"m{i}": {"agent": "TestGuardian", "tool": "noop"} for i in range(4)})
    open(f"{folder}/go", "w").close()
    await epic.end("succeeded")
    await more.end("succeeded")
    await size(c, 1, "the least stays")
    same(causes(c, "agent.lost")[3:], ["memory"])
    same(epic.of("task.retrying"), [], "nobody was ended at work")
    press("cpu")
    folder = c.new_folder()
    pressed = await c.submit({f"t{i}": held(folder, i) for i in range(2)})
    await pressed.event("task.started")
    joined = len(causes(c, "agent.joined"))
    await c.api("agent.list")
    same((len(await pool(c)), len(causes(c, "agent.joined"))), (1, joined), "nobody comes while processor time is short")
    press("none")
    await size(c, 2, "it grows when it is not any more")
    open(f"{folder}/go", "w").close()
    await pressed.end("succeeded")


async def test_the_strategy_of_a_role_is_that_of_its_pool(c):
    tree = (await c.amphi("tree", "--json")).exits(0).json["nodes"][0]["root"]
    pool = next(child for child in tree["children"] if child["name"] == "pool-DeployCommander")
    same((pool["strategy"], pool["max"], pool["within_ms"], len(pool["children"])), ("one_for_all", 7, 30000, 2))
    before = {child["name"]: child["restarts"] for child in pool["children"]}
    epic = await c.submit({"boom": {"agent": "DeployCommander", "tool": "panic", "retry": 0}})
    await epic.event("task.assigned")

    async def all_again():
        tree = (await c.amphi("tree", "--json")).exits(0).json["nodes"][0]["root"]
        pool = next(child for child in tree["children"] if child["name"] == "pool-DeployCommander")
        now = {child["name"]: child["restarts"] for child in pool["children"] if child["state"] == "running"}
        return (len(now) == 2 and all(now[name] > before[name] for name in before)) or None

    await within(all_again, "one crash starts both again")
    for incident in (await c.amphi("incident", "ls", "--json")).json["incidents"]:
        await c.amphi("incident", "resolve", incident["incident"], "--as", "failed")


if __name__ == "__main__":
    main(__name__, env={"AMPHI_FAULTS": "1", "AMPHI_PRESSURE_FILE": PRESSURE}, prepare=prepare)
