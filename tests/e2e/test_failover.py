"""Managers that fail: killed, stopped and woken again, cut away with their whole machine. Standbys take over; nothing is done twice."""

import os
import tempfile

from harness import *


async def nodes_of(c):
    return {node["id"]: node for node in (await c.api("node.list"))["nodes"]}


async def leader_of(c, shard=0):
    """The node that leads, once one says so."""

    async def leads():
        try:
            nodes = await c.api("node.list", deadline=3)
        except (AssertionError, Refused, nats.errors.Error):
            return None
        return next((node for node in nodes["nodes"] if shard in node["leads"] and node["state"] == "alive"), None)

    return await within(leads, f"somebody leads shard {shard}")


async def another_leads(c, former, shard=0):
    async def leads():
        found = await leader_of(c, shard)
        return found if found["id"] != former["id"] else None

    return await within(leads, f"another than {former['id']} leads shard {shard}")


def starts(folder):
    """How often each task has begun, by its own word."""
    counts = {}
    for name in os.listdir(folder):
        task = name.split(".")[0]
        counts[task] = counts.get(task, 0) + 1
    return counts


def marked(folder, then):
    """A command that leaves a file of its own for each start."""
    return f"mktemp {folder}/$AMPHI_TASK.XXXXXX; {then}"


async def holds(c, *epics):
    for epic in epics:
        verdict = await c.api("epic.verify", {"epic": epic})
        assert verdict["ok"], [law for law in verdict["laws"] if law["result"] == "violated"]


async def test_a_killed_leader_is_replaced_and_what_others_run_goes_on(c):
    async def work(own):
        folder, gate = own.new_folder(), os.path.join(own.folder, "gate")
        epic = await own.submit({"m": {"matrix": {"i": "1..6"}, "run": marked(folder, f"until [ -e {gate} ]; do sleep 0.1; done")}})
        await within(lambda: len(epic.of("task.started")) == 6 or None, "all have begun")
        leader = await leader_of(own)
        elsewhere = {event["task"] for event in epic.of("task.started") if event["node"] != leader["id"]}
        os.kill(leader["pid"], signal.SIGKILL)
        # Sent at once, to whichever gateway; the same id again is the same epic.
        during = await within(lambda: accepted(own, "during"), "a submission is accepted")
        follower = await another_leads(own, leader)
        open(gate, "w").close()
        view = await epic.end("succeeded")
        attempts = {task["task"]: task["attempt"] for task in view["tasks"]}
        same({task: attempts[task] for task in elsewhere}, dict.fromkeys(elsewhere, 1), "what ran elsewhere was not touched")
        same(starts(folder), attempts, "each attempt began once")
        await within(lambda: ended(own, during), "what came meanwhile ends")
        same(await accepted(own, "during"), during)
        told = (await own.amphi("events", "--json")).exits(0).lines
        elected = [event["node"] for event in told if event["type"] == "manager.elected"]
        same(elected, [leader["id"], follower["id"]])
        await holds(own, epic.id, during)

    await in_its_own(c, work, ["--nodes", "3"])


async def test_a_stopped_leader_that_wakes_again_commands_nobody(c):
    async def work(own):
        folder = own.new_folder()
        leader = await leader_of(own)
        os.kill(leader["pid"], signal.SIGSTOP)
        try:
            follower = await another_leads(own, leader)
            # A request that reached the stopped gateway is sent again, under the same id.
            during = await within(lambda: accepted(own, "during"), "a submission is accepted")
            await within(lambda: ended(own, during), "it ends")
        finally:
            os.kill(leader["pid"], signal.SIGCONT)
        # Awake, it finds that it was deposed, and stands by in the same process.
        log = os.path.join(own.up.data, leader["id"], "log")
        await within(lambda: "was deposed" in open(log, encoding="utf-8").read() or None, "it has noticed")
        after = await own.submit({"m": {"matrix": {"i": "1..12"}, "run": marked(folder, "sleep 0.2")}})
        await after.end("succeeded")
        nodes = await nodes_of(own)
        same({id: node["leads"] for id, node in nodes.items() if node["leads"]}, {follower["id"]: [0]})
        same((nodes[leader["id"]]["pid"], nodes[leader["id"]]["state"]), (leader["pid"], "alive"))
        os.kill(follower["pid"], signal.SIGKILL)
        await another_leads(own, follower)
        await holds(own, during, after.id)

    await in_its_own(c, work, ["--nodes", "2"])


async def test_nodes_without_a_seat_keep_their_reports_until_somebody_leads(c):
    async def work(own):
        worker = Up(tempfile.mkdtemp(prefix="worker-", dir=own.folder), ["--nats", own.up.url, "--no-manager", "--node-prefix", "far", "--capacity", "2"])
        spare = Up(tempfile.mkdtemp(prefix="spare-", dir=own.folder), ["--nats", own.up.node_url, "--node-prefix", "spare", "--capacity", "2"])
        try:
            await worker.start()
            folder, gate = own.new_folder(), os.path.join(own.folder, "gate")
            (await own.amphi("node", "drain", "node-1", "--detach")).exits(0)
            epic = await own.submit({"m": {"matrix": {"i": "1..2"}, "run": marked(folder, f"until [ -e {gate} ]; do sleep 0.05; done; echo x=1 >> $AMPHI_OUTPUT")}})
            await within(lambda: len(epic.of("task.started")) == 2 or None, "both run on the far node")
            same({event["node"] for event in epic.of("task.started")}, {"far-node-1"})
            pids = [event["data"]["pid"] for event in epic.of("task.started")]
            (leader,) = own.up.ready["nodes"]
            os.kill(leader["pid"], signal.SIGKILL)
            open(gate, "w").close()
            # They finish while nobody leads; the only seat stays empty until another machine brings one.
            await within(lambda: not any(alive(pid) for pid in pids) or None, "both have finished")
            await spare.start()
            view = await epic.end("succeeded")
            same({(task["attempt"], task["outputs"]["x"]) for task in view["tasks"]}, {(1, "1")}, "what was finished is not run again")
            same(starts(folder), {"m[1]": 1, "m[2]": 1})
            same((await leader_of(own))["id"], "spare-node-1")
            await holds(own, epic.id)
        finally:
            await spare.stop()
            await worker.stop()

    await in_its_own(c, work, ["--nodes", "1", "--no-restart"])


async def test_shards_are_spread_and_a_moved_one_goes_on(c):
    file = os.path.join(c.folder, "shards.yaml")
    with open(file, "w", encoding="utf-8") as out:
        out.write("version: 1\ncluster: {shards: 2}\n")

    async def work(own):
        first, second = await leader_of(own, 0), await leader_of(own, 1)
        assert first["id"] != second["id"], "each node takes one"
        gate = os.path.join(own.folder, "gate")
        waiting = f"until [ -e {gate} ]; do sleep 0.1; done"
        epics = [await own.submit({"m": {"matrix": {"i": "1..2"}, "run": waiting}}, project=f"p{i}") for i in range(6)]
        homes = {}
        for i, epic in enumerate(epics):
            homes.setdefault((await epic.event("epic.submitted"))["shard"], []).append(i)
        same(set(homes), {0, 1}, "six projects do not all fall on one shard")
        same({agent["node"] for agent in (await own.api("agent.list"))["agents"]}, {"node-1", "node-2"})
        os.kill(second["pid"], signal.SIGKILL)
        # Its node stays dead (a next life would take the shard again at once), so the other one has both.
        same((await another_leads(own, second, 1))["id"], first["id"])
        open(gate, "w").close()
        for epic in epics:
            await epic.end("succeeded")
        listed = (await own.amphi("epic", "ls", "--json")).exits(0).json
        same([epic["epic"] for epic in listed["epics"]], sorted(epic.id for epic in epics), "one list of both shards")
        pages, after = [], None
        while True:
            page = await own.api("epic.list", {"limit": 4, "after": after})
            pages += [epic["epic"] for epic in page["epics"]]
            after = page["next"]
            if not after:
                break
        same(pages, sorted(epic.id for epic in epics), "page by page")
        same((await own.api("node.get", {"node": first["id"]}))["leads"], [0, 1], "one node, whichever shard is asked")
        await own.refused("node.get", {"node": "nobody"}, "node.not_found", 404)
        await own.refused("epic.get", {"epic": "nobody-0"}, "epic.not_found", 404)
        (await own.amphi("epic", "verify", epics[0].id)).exits(0)
        await holds(own, *(epic.id for epic in epics))

    await in_its_own(c, work, ["--nodes", "2", "--no-restart", "--config", file])


if __name__ == "__main__":
    main(__name__)
