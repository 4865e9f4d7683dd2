"""Faults of nodes, agents, guards and the processes of tasks; rolling restarts; old and new build side by side."""
import asyncio
import os
import signal
import time

import guards
import nodes
from cases_managers import SEATS_AND_WORKERS, figures
from cluster import alive, until
from fleet import FleetStage
from loaded import LoadedStage
from machine import Case
from stage import at, need

EIGHT = [{"options": ["--capacity", 16]} for _ in range(3)]


async def node_with_eight(stage):
    """kill -9 of a node that is not the Manager's, with tasks on it: no orphan, and how soon they run elsewhere."""
    leader = (await stage.leader())["id"]
    epic = await stage.submit({"w": {"matrix": {"i": "1..24"}, "run": stage.run(60), "retry": 5}})
    await stage.event(epic, "task.started", count=24)
    starts = [e for e in await stage.events(epic, "task.started") if e["node"] != leader]
    victim = max({e["node"] for e in starts}, key=lambda node: sum(e["node"] == node for e in starts))
    hit = {e["task"]: e["data"]["pid"] for e in starts if e["node"] == victim}
    need(hit, "no task ran away from the leader")
    pid = (await stage.node(victim))["pid"]
    began = time.time()
    os.kill(pid, signal.SIGKILL)
    await until("no process of its tasks is left", lambda: not any(alive(one) for one in hit.values()), 10, 0.02)
    dead = time.time() - began
    took = []
    for task in hit:
        again = await stage.event(epic, "task.started", task, count=2, within=90)
        need(again["node"] != victim or again["attempt"] > 1, f"{task} was not tried again")
        took.append(at(again) - began)
    stage.said = f"{len(hit)} tasks, their processes gone after {dead:.2f} s, running elsewhere {figures(took)} (promise: 0.5 s)"
    await stage.ends(epic)


async def task_processes_killed(stage, times=12):
    """kill -9 of the processes that tasks run as, and of their guards, under load."""
    for number in range(times):
        plans = {**stage.trial.epics, **stage.trial.kin}
        # A `retry: 0` task that dies has failed for good, which is another case.
        found = [one for one in stage.tasks() if one[1] in plans and one[2].split("[")[0] not in plans[one[1]].once]
        if found:
            pid = found[0][0]
            guard = next((up for up in parents(pid) if "guard" in nodes.command_line(up)), None)
            victim = guard if number % 2 and guard else pid
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass
        await asyncio.sleep(0.6)
    await stage.more(2)


def parents(pid):
    return guards.Stage.ancestors(pid)


async def rolling(stage):
    """TERM to one `up` after the other while epics run; each is back before the next goes."""
    for up in stage.fleet.ups:
        up.up.terminate()
        gone = up.up.pid
        await until("it ends and is started again", lambda: up.up.pid != gone and up.ready(), 120)
        await stage.more(2)
    stage.said = f"{len(stage.fleet.ups)} times"


async def rolling_nodes(stage):
    """TERM to one node process after the other, the Manager's too; its `up` starts the next life."""
    for up in stage.fleet.ups:
        for pid in up.pids("node"):
            os.kill(pid, signal.SIGTERM)
            await until("the node has a next life", lambda: not alive(pid) and up.ready(), 120)
            await stage.more(2)


async def old_and_new(stage):
    """An older build runs two of three nodes and is replaced by this one while epics run; both lead for a while."""
    await stage.more(5)
    for number in (0, 1):
        up = stage.fleet.ups[number]
        gone, up.binary = up.up.pid, None
        up.up.terminate()
        await until("it ends and is started again", lambda: up.up.pid != gone and up.ready(), 120)
        await stage.more(5)


def mixed(folder):
    old = os.environ["AMPHI_OLD_BIN"]
    return LoadedStage(folder, binaries={0: old, 1: old})


async def busy_loop(stage):
    """A command that uses no output and no CPU is stuck; one that only burns CPU is not."""
    tasks = {
        "silent": {"stuck_after": "2s", "run": 'if [ "$AMPHI_ATTEMPT" = 1 ]; then exec sleep 600; fi'},
        "busy": {"stuck_after": "2s", "run": "end=$(($(date +%s) + 5)); while [ $(date +%s) -lt $end ]; do :; done"},
    }
    epic = await stage.submit(tasks)
    await stage.ends(epic, within=120)
    need(await stage.events(epic, "task.stuck", "silent"), "the silent one is not told stuck")
    need(not await stage.events(epic, "task.stuck", "busy"), "a busy one is told stuck")


async def poison(stage):
    """A task that kills its agent every time is parked after its attempts, on different agents; the others run on."""
    tasks = {"bad": {"tool": "panic", "optional": True}, "good": {"matrix": {"i": "1..6"}, "run": stage.run(5)}}
    epic = await stage.submit(tasks)
    await stage.ends(epic, within=180)
    tried = [e["agent"] for e in await stage.events(epic, "task.assigned", "bad")]
    need(len(tried) == 3 and len(set(tried)) >= 2, f"it was tried by {tried}")
    stage.said = f"parked after {len(tried)} attempts on {len(set(tried))} agents"


def faulty(folder):
    return nodes.Stage(folder)


async def fence_without_manager(stage):
    """The only node with a seat is stopped; a node without one ends its task with a write lock in time, and no other."""
    # Deaf to TERM: at the fence there is no time for a grace.
    held = {"run": f"trap '' TERM; {stage.run(300)}", "locks": {"write": ["res/x"]}}
    epic, start = await stage.away_from_the_leader(lambda: {"held": held, "plain": {"run": stage.run(200)}}, "held")
    plain = await stage.event(epic, "task.started", "plain")
    leader = await stage.leader()
    began = time.monotonic()
    stage.stop(leader["pid"])
    await until("the attempt with a write lock is ended", lambda: not alive(start["data"]["pid"]), nodes.FENCE + 10, 0.05)
    ended = time.monotonic() - began
    need(nodes.FENCE - 4 < ended < nodes.GRANT - 1, f"it was ended {ended:.1f} s after the Manager fell silent")
    need(plain["node"] == leader["id"] or alive(plain["data"]["pid"]), "an attempt without a lock was ended too")
    stage.said = f"ended after {ended:.1f} s"
    stage.go_on()
    await stage.event(epic, "task.started", "held", count=2)
    await stage.ends(epic)
    if plain["node"] != leader["id"]:
        need(len(await stage.events(epic, "task.started", "plain")) == 1, "the plain task was begun again")


def seats_and_workers(folder):
    return FleetStage(folder, SEATS_AND_WORKERS)


def guard_case(number, play, laws, **how):
    return Case(number, play.__doc__, laws, play, guards.Stage, **how)


def node_case(number, play, laws, **how):
    return Case(number, play.__doc__, laws, play, nodes.Stage, **how)


CASES = [
    guard_case("5", guards.guard_killed, ("S4", "S9", "L6")),
    guard_case("5b", guards.guard_stopped_and_cancelled, ("L6",)),
    guard_case("5c", guards.guard_stopped_and_node_killed, ("S4", "L6")),
    guard_case("5d", guards.node_and_guard_killed, ("S4", "L6")),
    Case("5e", "kill -9 of tasks' processes and guards under load", ("S4", "S7", "S9", "S10"), task_processes_killed, LoadedStage),
    guard_case("6", guards.node_killed, ("S4", "S9", "L6")),
    Case("6b", "kill -9 of a node with running tasks; how soon they run elsewhere", ("S4", "S12", "L3"), node_with_eight, lambda f: FleetStage(f, EIGHT), quick=True),
    node_case("6c", nodes.killed_seat, ("S1", "S4", "S13", "L1")),
    guard_case("6d", guards.up_killed, ("L6", "S1")),
    guard_case("6e", guards.up_killed_and_started_at_once, ("L6", "S1")),
    guard_case("6f", guards.second_up, ("L6",), settles=False),
    node_case("9b", nodes.lost_once, ("S9", "L2"), settles=False),
    node_case("12", nodes.silent_holder, ("S7", "S8", "S10")),
    node_case("12b", nodes.silent_worker, ("S4", "S12")),
    node_case("12c", nodes.silent_manager, ("S2", "S7", "L1")),
    Case("12d", "no Manager answers: what is fenced ends by itself, everything else runs on", ("S7", "S8"), fence_without_manager, seats_and_workers),
    guard_case("13", guards.node_stopped, ("S7", "L6")),
    guard_case("13b", guards.up_stopped, ("L6", "L2")),
    guard_case("13c", guards.node_stopped_and_up_killed, ("L6",)),
    node_case("44", nodes.locks_in_order, ("S7", "S10", "S11", "S12")),
    node_case("51", nodes.stuck_command, ("L4",)),
    Case("51b", "silence is being stuck, a busy loop is progress", ("L4",), busy_loop, FleetStage),
    node_case("53", nodes.hung_and_panicking_agents, ("S12", "L4", "L7")),
    Case("53b", "a task that kills its agent every time is parked", ("S12", "L7"), poison, faulty),
    Case("65", "rolling restart of every `up` under load", ("S1", "S4", "S9", "S13", "L2"), rolling, LoadedStage),
    Case("65b", "rolling restart of every node process under load", ("S1", "S4", "S9", "S13", "L2"), rolling_nodes, LoadedStage),
    Case("66", "an older build beside this one, then replaced, under load", ("S1", "S3", "S13"), old_and_new, mixed, needs=("old",)),
]
