"""Faults of links: cut, held, one way only, flapping; each `up` reaches NATS through a proxy of the harness."""
import asyncio
import time

from cluster import alive, until
from fleet import FleetStage
from judge import Ledger
from loaded import BEYOND, LEASE, SLACK, LoadedStage
from machine import Case
from stage import at, need

# What a node that nobody acknowledges ends by itself, and when others get it (seconds).
FENCE, GRANT = 13, 18
NODE_DEAD = 15


async def manager_cut_off(stage):
    """The Manager's link is dead (nothing moves, nothing is refused); another leads; then what it had written lands late."""
    said = []
    for drop in (False, True):
        leader, began = await stage.leader(), time.monotonic()
        await stage.cut(leader["id"], "hold")
        took = await stage.taken_over(began, LEASE + BEYOND + SLACK)
        new = await stage.leader(leader["pid"], LEASE + BEYOND + SLACK)
        need(new["id"] != leader["id"], "the node that is cut off still leads")
        said.append(took)
        await stage.more(2)
        await stage.heal(leader["id"], drop=drop)
        await stage.more(3)
        leads = [node["id"] for node in await stage.nodes() if node["leads"]]
        need(len(leads) == 1, f"{leads} say that they lead")
    stage.said = f"taken over after {said[0]:.1f} s and {said[1]:.1f} s (promise: {LEASE + BEYOND} s)"


async def one_way(stage):
    """A node with a write lock can send and hears nothing: it ends the task by itself, in time, and another node does it."""
    held = {"run": f"trap '' TERM; {stage.run(600)}", "locks": {"write": ["res/x"]}, "retry": 3}
    epic, start = await stage.away_from_the_leader(lambda: {"held": held}, "held")
    began = time.monotonic()
    await stage.cut(start["node"], "deaf")
    await until("the fenced attempt is ended", lambda: not alive(start["data"]["pid"]), FENCE + 15, 0.05)
    ended = time.monotonic() - began
    need(ended > FENCE - 4, f"it was ended after {ended:.1f} s already")
    again = await stage.event(epic, "task.started", "held", count=2, within=90)
    need(again["node"] != start["node"], "it was given to the same node again")
    await stage.heal(start["node"])
    await asyncio.sleep(3)
    need(alive(again["data"]["pid"]), "the second attempt was disturbed when the link healed")
    await stage.client.ask("epic.cancel", {"epic": epic})
    await stage.ends(epic, "cancelled")
    stage.said = f"ended by its node after {ended:.1f} s, elsewhere {at(again) - at(start):.1f} s after its first start"


async def late_report(stage, drop=False):
    """A node is cut off, its task is done again elsewhere, and only then its own report arrives."""
    epic, start = await stage.away_from_the_leader(lambda: {"work": {"run": stage.run(60)}, "after": {"needs": ["work"], "run": stage.run(0)}}, "work")
    await stage.cut(start["node"], "hold")
    await until("the first attempt ends, unheard", lambda: key_of(stage, epic, 1).end is not None, 30)
    again = await stage.event(epic, "task.started", "work", count=2, within=NODE_DEAD + 45)
    need(again["node"] != start["node"], "it was given to the node that is cut off")
    await stage.ends(epic)
    await stage.heal(start["node"], drop=drop)
    await asyncio.sleep(2)
    done = await stage.events(epic, "task.succeeded", "work")
    need([e["attempt"] for e in done] == [2], f"it succeeded with attempts {[e['attempt'] for e in done]}")
    stage.said = f"done elsewhere {at(done[0]) - at(start):.1f} s after its first start"


def key_of(stage, epic, attempt):
    return Ledger(stage.ledger).attempts[(epic, "work", 1, attempt)]


async def late_and_lost(stage):
    """As before, but what the node had on its way is lost with its connection."""
    await late_report(stage, drop=True)


async def flapping(stage, seconds=30):
    """The leader's link goes away and comes back every second."""
    leader = await stage.leader()
    before = len(stage.elections.elected)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await stage.cut(leader["id"], "cut")
        await asyncio.sleep(1)
        await stage.heal(leader["id"])
        await asyncio.sleep(1)
    elected = len(stage.elections.elected) - before
    await stage.more(3)
    need(elected <= 5, f"{elected} elections in {seconds} s of flapping")
    restarts = sum(up.log.read_text(errors="replace").count("starting it again") for up in stage.fleet.ups)
    need(restarts <= 2, f"nodes were started again {restarts} times")
    stage.said = f"{elected} elections in {seconds} s"


async def slow_link(stage, delay=0.4):
    """Every piece that the leader sends or hears is late."""
    leader = await stage.leader()
    before = len(stage.elections.elected)
    await stage.cut(leader["id"], "slow", delay=delay)
    end = time.monotonic() + 15
    while time.monotonic() < end:
        await asyncio.sleep(0.5)
    await stage.more(2)
    await stage.heal(leader["id"])
    elected = len(stage.elections.elected) - before
    need(elected <= 3, f"{elected} elections on a slow link")
    stage.said = f"{delay} s each way, {elected} elections"


CASES = [
    Case("16", "the Manager cut off from NATS, healed after the takeover; its writes land late", ("S2", "S4", "S13", "L1"), manager_cut_off, LoadedStage, quick=True),
    Case("18", "a node that can send and hears nothing", ("S7", "S8", "S12"), one_way, FleetStage),
    Case("19", "the Manager's link flaps, 1 s on and 1 s off", ("S2", "L1", "L2"), flapping, LoadedStage),
    Case("19b", "the Manager's link is slow", ("S2", "L2"), slow_link, LoadedStage),
    Case("20", "a node cut off, its task done elsewhere, its report late", ("S5", "S8", "S12"), late_report, FleetStage, quick=True),
    Case("15", "a zombie's report of a task that is done, after its connection was lost", ("S5", "S13"), late_and_lost, FleetStage),
]
