"""A cluster of several nodes under faults: SIGKILL and SIGSTOP of nodes, with locks, `retry: 0`, stuck commands and hung agents.

    .tools/venv/bin/python tests/faults/nodes.py [CASE…] [--keep]

Each case is a cluster of its own with three nodes. What happened is read from the tasks' own file and from the events, never from what
the system says of itself. The last line is `N passed, N failed`.
"""
import asyncio
import os
import signal
import time

import stage
from cluster import Cluster, children, command_line
from judge import Ledger
from play import main
from stage import at, need

AT_ONCE = 2
# The fence of a node that nobody acknowledges, and what the Manager adds before it gives its locks on (seconds).
FENCE, GRANT = 13, 18
NODE_DEAD = 15


class Stage(stage.Stage):
    """A cluster of three nodes on one machine, a ledger, and the epics on it."""

    def __init__(self, folder):
        super().__init__(folder, Cluster(folder, "--nodes", "3", "--capacity", "4", faults=True))

    async def away_from_the_seat(self, make, task):
        """Submits a task that runs on another node than the Manager's; gives (epic, its start)."""
        return await self.away_from_the_leader(make, task)


def no_overlap(ledger, epics):
    """No line of one attempt stands between the lines of another: the file's own order tells."""
    spans = sorted((a.starts[0], a.last, key) for key, a in Ledger(ledger).attempts.items() if key[0] in epics and a.starts)
    for (_, last, one), (start, _, other) in zip(spans, spans[1:]):
        need(start > last, f"{other} began while {one} was alive")


async def silent_holder(stage):
    """SIGSTOP of a node that holds a write lock: granted again after the promise and not before, no overlap; afterwards it joins again"""
    held = {"run": stage.run(600), "locks": {"write": ["res/x"]}}
    epic, start = await stage.away_from_the_seat(lambda: {"hold": held}, "hold")
    other = await stage.submit({"next": {"run": stage.run(2), "locks": {"write": ["res/x"]}}})
    await stage.event(other, "task.waiting", "next")
    began = time.time()
    stage.stop((await stage.node(start["node"]))["pid"])
    granted = await stage.event(other, "lock.granted", "next", within=60)
    waited = at(granted) - began
    # Its last acknowledged heartbeat was sent at most one period (and some) before the stop.
    need(waited > GRANT - 5, f"granted {waited:.1f} s after the stop, which is before the node's own fence and 5 s")
    need(waited < GRANT + 15, f"granted only {waited:.1f} s after the stop")
    stage.said = f"granted {waited:.1f} s after the stop"
    await stage.ends(other)
    stage.go_on()
    await stage.event(epic, "task.started", "hold", count=2)
    no_overlap(stage.ledger, {epic, other})
    end = time.monotonic() + 60
    while (await stage.node(start["node"]))["state"] != "alive":
        need(time.monotonic() < end, "the node did not join again")
        await asyncio.sleep(0.2)
    await stage.client.ask("epic.cancel", {"epic": epic})
    await stage.ends(epic, "cancelled")


async def silent_manager(stage):
    """SIGSTOP of the Manager's node: another leads within its lease, and what runs on other nodes is not disturbed, locks or not"""
    tasks = {"held": {"run": stage.run(200), "locks": {"write": ["res/x"]}}, "plain": {"run": stage.run(100)}}
    epic, _ = await stage.away_from_the_seat(lambda: tasks, "held")
    plain = await stage.event(epic, "task.started", "plain")
    manager = await stage.leader()
    began = time.monotonic()
    stage.stop(manager["pid"])
    took, leader = await stage.leads_again(began, manager["pid"])
    need(leader["id"] != manager["id"], "the node that is stopped still leads")
    stage.said = f"accepted again after {took:.1f} s"
    await stage.ends(epic)
    stage.go_on()
    for task in ["held"] + ["plain"] * (plain["node"] != manager["id"]):
        need(len(await stage.events(epic, "task.started", task)) == 1, f"{task} was begun again")


async def silent_worker(stage):
    """SIGSTOP of a node and its guards: lost after node_dead, its ordinary task runs elsewhere, the tree says so"""
    epic, start = await stage.away_from_the_seat(lambda: {"work": {"run": stage.run(40)}}, "work")
    began = time.time()
    pid = (await stage.node(start["node"]))["pid"]
    stage.stop(pid, *(child for child in children(pid) if "guard" in command_line(child)))
    again = await stage.event(epic, "task.started", "work", count=2, within=60)
    waited = at(again) - began
    need(again["node"] != start["node"], f"the next attempt is on {again['node']} again")
    need(NODE_DEAD - 4 < waited < NODE_DEAD + 15, f"started again {waited:.1f} s after the stop")
    tree = {node["node"]: node for node in (await stage.client.ask("tree.get", {}))["nodes"]}
    need(tree[start["node"]]["state"] == "lost" and "silent" in tree[start["node"]]["last_exit"], f"the tree says {tree[start['node']]}")
    stage.said = f"elsewhere after {waited:.1f} s"
    stage.go_on()
    await stage.ends(epic)


async def lost_once(stage):
    """kill -9 of a node that runs `retry: 0`: one incident, the epic waits, a person's word ends it"""
    tasks = {"once": {"retry": 0, "run": stage.run(100)}, "after": {"needs": ["once"], "run": stage.run(0)}}
    epic, start = await stage.away_from_the_seat(lambda: tasks, "once")
    os.kill((await stage.node(start["node"]))["pid"], signal.SIGKILL)
    await stage.ends(epic, "waiting", 60)
    incidents = [i for i in await stage.client.all("incident.list", "incidents", {}) if i["epic"] == epic]
    need(len(incidents) == 1 and incidents[0]["state"] == "open", f"incidents: {incidents}")
    need(not await stage.events(epic, "task.started", "after"), "what needs a lost `retry: 0` task was started")
    await stage.client.ask("incident.resolve", {"incident": incidents[0]["incident"], "as": "succeeded"})
    await stage.ends(epic)
    starts = sum(len(a.starts) for key, a in Ledger(stage.ledger).attempts.items() if key[:2] == (epic, "once"))
    need(starts == 1, f"`retry: 0` was started {starts} times")


async def killed_seat(stage):
    """kill -9 of the Manager's node: a Manager leads again, nothing accepted is lost, what runs elsewhere runs on"""
    epics = [await stage.submit({"a": {"matrix": {"i": "1..6"}, "run": stage.run(60)}, "z": {"needs": ["a"], "run": stage.run(0)}})]
    await stage.event(epics[0], "task.started", count=6)
    leader, began = await stage.leader(), time.monotonic()
    os.kill(leader["pid"], signal.SIGKILL)
    epics.append(await stage.submit({"a": {"run": stage.run(0)}}))
    stage.said = f"accepted again after {time.monotonic() - began:.1f} s"
    for epic in epics:
        await stage.ends(epic)
    elsewhere = {e["task"] for e in await stage.events(epics[0], "task.started") if e["node"] != leader["id"] and e["attempt"] == 1}
    again = {e["task"] for e in await stage.events(epics[0], "task.retrying")}
    need(elsewhere and not elsewhere & again, f"{elsewhere & again} ran on other nodes and were begun again")


async def stuck_command(stage):
    """a `run` that hangs in silence is replaced by another agent within its `stuck_after` and 10 s"""
    epic = await stage.submit({"quiet": {"stuck_after": "2s", "run": 'if [ "$AMPHI_ATTEMPT" = 1 ]; then exec sleep 600; fi'}})
    first = await stage.event(epic, "task.started", "quiet")
    second = await stage.event(epic, "task.started", "quiet", count=2)
    waited = at(second) - at(first)
    stage.said = f"replaced after {waited:.1f} s"
    need(waited <= 12, f"replaced only after {waited:.1f} s")
    need(first["agent"] != second["agent"], f"{first['agent']} got it again")
    need(await stage.events(epic, "task.stuck", "quiet"), "there is no task.stuck")
    await stage.ends(epic)


async def hung_and_panicking_agents(stage):
    """`hang` and `panic` cost their agent, not the epic: the next attempt is another agent's, and the agents come back"""
    for tool in ("panic", "hang"):
        epic = await stage.submit({"bad": {"tool": tool, "retry": {"attempts": 2, "on": ["agent_lost", "stuck"]}, "optional": True}, "good": {"run": "true"}})
        await stage.ends(epic, within=180)
        agents = [e["agent"] for e in await stage.events(epic, "task.assigned", "bad")]
        need(len(agents) == 2 and len(set(agents)) == 2, f"{tool}: attempts went to {agents}")
    end = time.monotonic() + 60
    while any(a["state"] == "down" for a in (await stage.client.ask("agent.list", {}))["agents"]):
        need(time.monotonic() < end, "agents are still down")
        await asyncio.sleep(0.2)


async def locks_in_order(stage):
    """conflicting requests over three nodes are granted in the order they came, also when a holder's node is killed (S11, S12)"""
    lock = {"locks": {"write": ["res/line"]}, "retry": {"attempts": 5, "backoff": "50ms"}}
    epics = []
    for _ in range(12):
        epics.append(await stage.submit({"t": {"run": stage.run(8), **lock}}))
    await stage.event(epics[2], "task.started", "t")
    for _ in range(2):
        started = [event for epic in epics for event in await stage.events(epic, "task.started", "t")]
        os.kill((await stage.node(max(started, key=at)["node"]))["pid"], signal.SIGKILL)
        await asyncio.sleep(3)
    order = []
    for epic in epics:
        await stage.ends(epic, within=180)
        attempts = await stage.events(epic, "task.assigned", "t")
        order.append(at(attempts[0]))
        for one, other in zip(attempts, attempts[1:]):
            need(one["agent"] != other["agent"], f"{epic}: attempts {one['agent']} twice in a row")
    need(order == sorted(order), f"first grants out of order: {order}")
    no_overlap(stage.ledger, set(epics))


CASES = [silent_holder, silent_manager, silent_worker, lost_once, killed_seat, stuck_command, hung_and_panicking_agents, locks_in_order]


if __name__ == "__main__":
    main(__doc__, CASES, Stage, AT_ONCE)
