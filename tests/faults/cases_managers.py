"""Faults of the Manager: killed, stopped, cut off, all of them gone."""
import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from cluster import ROOT, environment, until
from fleet import FleetStage
from judge import Ledger
from loaded import BEYOND, LEASE, SLACK, LoadedStage
from machine import Case
from stage import need

HERE = Path(__file__).resolve().parent


async def program(*arguments, env=None, within=600):
    """Runs one of our scripts; its last line, or what went wrong."""
    done = await asyncio.create_subprocess_exec(
        sys.executable, *map(str, arguments), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **(env or {})}
    )
    try:
        text = (await asyncio.wait_for(done.communicate(), within))[0].decode(errors="replace")
    except asyncio.TimeoutError:
        done.terminate()
        await done.wait()
        raise
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    need(done.returncode == 0, f"{arguments[0]} ended with {done.returncode}:\n" + "\n".join(lines[-25:]))
    return lines[-1]


def figures(times):
    """Median and worst of some seconds, for people."""
    ordered = sorted(times)
    return f"p50 {ordered[len(ordered) // 2]:.2f} s, max {ordered[-1]:.2f} s" if ordered else "none"


async def killed_under_load(stage, times=6):
    """The leader's process is killed again and again while epics come in."""
    took = []
    for _ in range(times):
        leader, began = await stage.leader(), time.monotonic()
        os.kill(leader["pid"], signal.SIGKILL)
        took.append(await stage.taken_over(began, LEASE + BEYOND + SLACK))
        await stage.more(3)
        await asyncio.sleep(0.5)
    stage.said = f"{times} kills, taken over after {figures(took)} (promise: 1 s)"


def at_place(place, nth, **env):
    """A stage whose nodes end themselves each time they pass a place in the Manager's work for the n-th time, while the file is there."""

    def make(folder):
        (folder / "go").touch()
        return LoadedStage(folder, env={"AMPHI_FAULTS": "1", "AMPHI_KILL_AT": f"{place}:{nth}:{folder / 'go'}", **env})

    return make


async def dies_there(stage, times=10):
    """Until so many Managers have died at that place; then no more."""
    go = stage.folder / "go"

    def died():
        return sum(log.read_text(errors="replace").count("a fault run ends this process here") for log in stage.logs())

    end = time.monotonic() + 150
    while died() < times and time.monotonic() < end:
        await asyncio.sleep(0.2)
    go.unlink()
    need(died() >= min(3, times), f"only {died()} Managers died at that place")
    await stage.more(3)
    stage.said = f"{died()} Managers died there"


async def fifty_times(stage):
    """The same, fifty times."""
    await dies_there(stage, 50)


UPKEEP = {"AMPHI_UPKEEP": "decisions=60,segment_bytes=20000,ended_epics=5"}


async def kill_proof_with_upkeep(_folder):
    """Snapshots, archive and trimming go on all the time, and so do the kills."""
    return await program(
        HERE / "kill_proof.py", "--runs", 12, "--nodes", 3, env={"AMPHI_UPKEEP": "decisions=200,segment_bytes=100000,ended_epics=20"}
    )


async def kill_proof_managed(_folder):
    """Any process of `amphi up` with its own server: node, `up` and nats-server, also several at once."""
    return await program(HERE / "kill_proof.py", "--runs", 12)


async def short_soak(_folder):
    """All faults at random."""
    return await program(HERE / "soak.py", "--minutes", 1, "--seed", 11)


async def all_managers_gone(stage, gone=20):
    """Every node with a seat is killed and stays away; agents elsewhere finish, and their reports wait."""
    stage.fleet.keeping = False
    epic = await stage.submit({"work": {"matrix": {"i": "1..6"}, "run": stage.run(40)}, "after": {"needs": ["work"], "run": stage.run(0)}})
    for count in range(1, 7):
        await stage.event(epic, "task.started", count=count)
    starts = await stage.events(epic, "task.started")
    elsewhere = {e["task"] for e in starts if e["node"].startswith("u1")}
    need(elsewhere, "no task runs on a node without a seat")
    seats = stage.fleet.ups[0]
    for pid in [*seats.pids("node"), *seats.pids("up")]:
        os.kill(pid, signal.SIGKILL)
    await until("they have finished, without a Manager", lambda: ended_in(stage.ledger, epic) >= elsewhere, 60)
    await asyncio.sleep(gone)
    stage.fleet.keeping = True
    await stage.ends(epic, within=120)
    again = {key[1] for key, a in Ledger(stage.ledger).attempts.items() if key[0] == epic and a.starts and key[3] > 1}
    need(not again & elsewhere, f"{again & elsewhere} had finished and were run again")
    stage.said = f"{len(elsewhere)} reports were held for {gone} s and more"


def ended_in(ledger, epic):
    return {key[1] for key, a in Ledger(ledger).attempts.items() if key[0] == epic and a.end is not None}


async def manager_and_nats_killed(stage, times=3):
    """Both in the same instant."""
    took = []
    for _ in range(times):
        leader = await stage.leader()
        os.kill(leader["pid"], signal.SIGKILL)
        stage.fleet.server.kill()
        await stage.leader(leader["pid"])
        took.append(await stage.more(1))
        await stage.more(3)
    stage.said = f"{times} times, accepted again {figures(took)}"


async def one_leader(stage, other_than, seconds):
    """For so long: never two that say they lead, and never `other_than`, apart from the moment in which it wakes up."""
    end, seen = time.monotonic() + seconds, []
    while time.monotonic() < end:
        leads = [node["pid"] for node in await stage.nodes() if node["leads"]]
        need(len(leads) <= 1, f"{leads} say that they lead")
        seen.append(other_than in leads)
        await asyncio.sleep(0.1)
    need(not seen[-1], "the Manager that was stopped leads again without an election")


async def zombie_manager(stage):
    """SIGSTOP for twice its lease; another leads; SIGCONT: it wakes up to find itself deposed."""
    leader = await stage.leader()
    began = time.monotonic()
    stage.stop(leader["pid"])
    took = await stage.taken_over(began, LEASE + BEYOND + SLACK)
    new = await stage.leader(leader["pid"], LEASE + BEYOND + SLACK)
    need(new["id"] != leader["id"], "the stopped node still leads")
    await asyncio.sleep(max(0.0, 2 * LEASE - (time.monotonic() - began)))
    stage.go_on()
    await one_leader(stage, leader["pid"], 3)
    await stage.more(3)
    stage.said = f"taken over {took:.1f} s after SIGSTOP (promise: {LEASE + BEYOND} s)"


async def thousand_waiters(stage, count=300):
    """Many tasks queue for one lock, the leader is killed in the middle of them: all are served, in the order in which they came."""
    epics = []
    for number in range(count // 10):
        run = {"run": "true", "locks": {"write": ["res/door"]}, "matrix": {"i": "1..10"}, "retry": {"attempts": 8, "backoff": "50ms"}}
        epics.append(await stage.submit({f"w{number}": run}))
    await stage.event(epics[1], "lock.granted")
    leader = await stage.leader()
    began = time.monotonic()
    os.kill(leader["pid"], signal.SIGKILL)
    took, _ = await stage.leads_again(began, leader["pid"])
    firsts = []
    for epic in epics:
        await stage.ends(epic, within=300)
        firsts.append(min(e["seq"] for e in await stage.events(epic, "lock.granted")))
    need(firsts == sorted(firsts), "the first grants of the epics are out of order")
    stage.said = f"{count} waiters, accepted again {took:.1f} s after the kill"


async def client_killed(stage):
    """The client that submitted is killed as soon as it has its answer."""
    document = stage.folder / "a.epic.yaml"
    document.write_text(f"version: 1\nname: left\ntasks:\n  a: {{ run: '{stage.run(10)}' }}\n  b: {{ needs: [a], run: '{stage.run(0)}' }}\n")
    from cluster import program as binary

    client = await asyncio.create_subprocess_exec(
        binary(), "--nats", stage.cluster.url(), "run", str(document), "--wait", "--id", "left", stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL, env=environment(),
    )
    line = (await asyncio.wait_for(client.stdout.readline(), 30)).decode()
    client.kill()
    await client.wait()
    need(line.startswith("epic "), f"the client said {line!r}")
    epic = line.split()[1]
    from stage import plan_of

    stage.epics[epic] = plan_of("left", {"tasks": {"a": {"run": stage.run(10)}, "b": {"run": stage.run(0)}}})
    await stage.ends(epic)
    code, shown, error = await asyncio.to_thread(stage.fleet.ups[0].cli, "epic", "show", epic)
    need(code == 0 and "succeeded" in shown, f"epic show: {code} {error}")


SEATS_AND_WORKERS = [{"options": ["--capacity", 2]}, {"options": ["--no-manager", "--nodes", 2, "--capacity", 4]}]

CASES = [
    Case("1", "kill -9 of the Manager at any instant, under load", ("S1", "S4", "S9", "S13", "L1"), killed_under_load, LoadedStage, quick=True),
    Case("1b", "the Manager dies after a commit, before its effects, 50 times", ("S1", "S4", "S9", "S13"), fifty_times, at_place("after_commit", 8)),
    Case("2", "the Manager dies with inputs decided, before the commit", ("S13", "S1"), dies_there, at_place("before_commit", 12), quick=True),
    Case("3", "the Manager dies with half of the answers and effects out", ("S1", "S13", "S4"), dies_there, at_place("half_effects", 12)),
    Case("4b", "the Manager dies with a snapshot stored and not on record", ("S3", "S13"), dies_there, at_place("snapshot_stored", 1, **UPKEEP)),
    Case("4c", "the Manager dies with a segment archived and not on record", ("S3", "S13"), dies_there, at_place("archived", 1, **UPKEEP)),
    Case("4d", "the Manager dies after a trim", ("S3", "S13"), dies_there, at_place("trimmed", 1, **UPKEEP)),
    Case("4", "kill -9 around snapshot, archive and purge", ("S3", "S1", "S13"), kill_proof_with_upkeep, alone=True),
    Case("7", "kill -9 of the client right after `accepted`", ("S1", "L2"), client_killed, FleetStage),
    Case("8", "all faults at random", ("S1", "S2", "S4", "S7", "S9", "S13", "L1", "L2"), short_soak, alone=True),
    Case("8b", "kill -9 of node, `up` and nats-server of one managed cluster", ("S1", "S4", "S7", "S9", "S13", "L2"), kill_proof_managed, alone=True),
    Case("9", "no Manager lives while agents finish", ("S5", "S13", "L2"), all_managers_gone, lambda folder: FleetStage(folder, SEATS_AND_WORKERS)),
    Case("10", "Manager and NATS killed in the same instant", ("S1", "S13", "L1"), manager_and_nats_killed, LoadedStage),
    Case("11", "SIGSTOP of the Manager for twice its lease, SIGCONT while another leads", ("S2", "S13", "L1"), zombie_manager, LoadedStage, quick=True),
    Case("45", "a Manager failover with hundreds of waiters on one lock", ("S11", "L5"), thousand_waiters, FleetStage),
]
