"""What every case of the fault catalogue stands on: a cluster, epics on it, the words to ask for them, and the laws at its end.

`settle` holds the end of each case against the laws from outside: the tasks' own file against the journal (judge.py), `epic verify` for
every epic, every accepted epic ended, no lock held; `fall` then ends everything, and nothing of it may run any more.
"""
import asyncio
import os
import re
import shlex
import signal
import time
from datetime import datetime

from client import Client, Refused
from cluster import Cluster, ClusterError, alive, children, command_line, marked, until
from judge import LAWS, MATRIX, Evidence, History, Ledger
from load import TASK, Epic

ENDED = ("succeeded", "failed", "cancelled")
# Panics that a case asks for itself, by the tool of that name.
WANTED_PANIC = "the fault tool `panic` was asked for"
PANIC = re.compile(r"panicked at .*\n?.*")


def at(event):
    """When it happened, in seconds."""
    return datetime.fromisoformat(event["ts"].replace("Z", "+00:00")).timestamp()


def need(holds, words):
    if not holds:
        raise ClusterError(words)


def plan_of(key, document):
    """What the judge has to know of a document that stands in a case."""
    plan = Epic(key, document)
    for name, task in document["tasks"].items():
        if task.get("retry") == 0:
            plan.once.add(name)
        for mode, resources in (task.get("locks") or {}).items():
            plan.locks[name] = (mode, resources[0])
        if str(TASK) not in str(task.get("run", "")):
            plan.tools.add(name)
    return plan


class Stage:
    """A cluster, a ledger, and the epics on it. `cluster` has `start()`, `until_ready()`, `url()` and `stop()`."""

    def __init__(self, folder, cluster):
        self.folder, self.cluster = folder, cluster
        self.ledger = folder / "ledger"
        self.client = Client(cluster)
        self.epics = {}  # id -> load.Epic
        self.stopped, self.said = [], ""

    async def rise(self):
        self.cluster.start()
        await self.cluster.until_ready(120)

    # -- work

    def run(self, tenths, bad=0, until_attempt=0):
        """The command of a task that works so many tenths of a second."""
        words = ("/bin/sh", TASK, self.ledger, tenths, bad, until_attempt)
        return "exec " + " ".join(shlex.quote(str(word)) for word in words)

    async def submit(self, tasks, **top):
        document = {"version": 1, "name": "case", **top, "tasks": tasks}
        key = f"{time.monotonic_ns()}"
        epic = (await self.client.ask("epic.submit", {"document": document, "id": key}))["epic"]
        self.epics[epic] = plan_of(key, document)
        return epic

    async def events(self, epic, kind=None, task=None):
        events = await self.client.all("epic.events", "events", {"epic": epic})
        return [e for e in events if kind in (None, e["type"]) and task in (None, e["task"])]

    async def event(self, epic, kind, task=None, count=1, within=60):
        end = time.monotonic() + within
        while True:
            found = await self.events(epic, kind, task)
            if len(found) >= count:
                return found[count - 1]
            if time.monotonic() > end:
                raise ClusterError(f"{epic}: no {kind} of {task} ({count}.) within {within} s; seen {[e['type'] for e in await self.events(epic)]}")
            await asyncio.sleep(0.1)

    async def ends(self, epic, wanted="succeeded", within=120):
        end, state = time.monotonic() + within, None
        while time.monotonic() < end:
            state = (await self.client.ask("epic.get", {"epic": epic}))["state"]
            if state == wanted or state in ENDED:
                break
            await asyncio.sleep(0.2)
        if state != wanted:
            raise ClusterError(f"{epic} is {state}, expected {wanted}")
        if wanted in ENDED:
            await self.verified(epic)

    async def verified(self, epic):
        verdict = await self.client.ask("epic.verify", {"epic": epic}, timeout=60)
        if verdict.get("ok") is not True:
            raise ClusterError(f"laws are violated: {[law for law in verdict['laws'] if law['result'] == 'violated']}")

    # -- nodes

    async def nodes(self, within=60):
        return (await self.client.ask("node.list", {"limit": 500}, within=within))["nodes"]

    async def node(self, id):
        return await self.client.ask("node.get", {"node": id})

    async def leader(self, other_than=None, within=60):
        """The node that leads shard 0, not the life `other_than` of one."""
        end = time.monotonic() + within
        while True:
            leads = [node for node in await self.nodes(within) if node["leads"] and alive(node["pid"] or 0)]
            if leads and (other_than is None or leads[0]["pid"] != other_than):
                return leads[0]
            need(time.monotonic() < end, f"no node leads after {within} s (other than pid {other_than})")
            await asyncio.sleep(0.05)

    async def leads_again(self, began, pid, within=60):
        """Seconds from `began` until a submission is accepted and somebody other than `pid` leads."""
        await self.submit({"after": {"tool": "noop"}})
        took = time.monotonic() - began
        leader = await self.leader(pid, within)
        return took, leader

    async def away_from_the_leader(self, make, task):
        """Submits a task that runs on another node than the Manager's; gives (epic, its start)."""
        leader, fillers = (await self.leader())["id"], []
        try:
            for _ in range(8):
                # Whoever has the least to do gets the next one.
                fillers.append(await self.submit({"fill": {"run": "exec sleep 600"}}))
                if (await self.event(fillers[-1], "task.started"))["node"] != leader:
                    continue
                epic = await self.submit(make())
                start = await self.event(epic, "task.started", task)
                if start["node"] != leader:
                    return epic, start
                await self.client.ask("epic.cancel", {"epic": epic})
            raise ClusterError(f"all tasks went to {leader}, the Manager's node")
        finally:
            for filler in fillers:
                await self.client.ask("epic.cancel", {"epic": filler})

    # -- faults

    def stop(self, *pids):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            self.stopped.append(pid)

    def go_on(self, *pids):
        for pid in pids or list(self.stopped):
            if alive(pid):
                os.kill(pid, signal.SIGCONT)
            if pid in self.stopped:
                self.stopped.remove(pid)

    def tasks(self):
        """Living processes of the tasks: (pid, epic, task, attempt)."""
        found = []
        for pid in marked(str(self.ledger)):
            if "task.sh" not in command_line(pid):
                continue
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    env = dict(pair.split(b"=", 1) for pair in file.read().split(b"\0") if b"=" in pair)
                found.append((pid, env[b"AMPHI_EPIC"].decode(), env[b"AMPHI_TASK"].decode(), int(env[b"AMPHI_ATTEMPT"])))
            except (OSError, KeyError, ValueError):
                continue
        return found

    @staticmethod
    def guards_of(pid):
        return [child for child in children(pid) if "guard" in command_line(child)]

    # -- the end

    async def settle(self, within=180):
        """Everything accepted has ended, and every law holds."""
        end = time.monotonic() + within
        while True:
            states = {epic["epic"]: epic["state"] for epic in await self.client.all("epic.list", "epics", {"limit": 500})}
            need(set(self.epics) <= set(states), f"accepted and not listed: {sorted(set(self.epics) - set(states))}")
            open_epics = {epic: state for epic, state in states.items() if state not in ENDED}
            if not open_epics:
                break
            need(time.monotonic() < end, f"not ended {within} s after the faults: {open_epics}")
            await asyncio.sleep(0.3)
        histories = {}
        for epic in states:
            await self.verified(epic)
            histories[epic] = History(epic, await self.client.all("epic.events", "events", {"epic": epic}, timeout=60))
        seen = Evidence(Ledger(self.ledger), self.epics, histories)
        broken = [f"{law}: {words}" for law, check in LAWS for words in check(seen)]
        need(not broken, "; ".join(broken[:6]))
        await self.no_lock_held()
        return states

    async def no_lock_held(self):
        async def held():
            listed = (await self.client.ask("lock.list", {"limit": 500}))["locks"]
            return [lock for lock in listed if lock.get("holders") or lock.get("queue")]

        end = time.monotonic() + 20
        while locks := await held():
            need(time.monotonic() < end, f"locks are still held: {locks}")
            await asyncio.sleep(0.3)

    def logs(self):
        # Folders of attempts come and go while we look, so only those that stay are looked into.
        here = [self.folder, *self.folder.glob("up*/"), self.folder / "disk"]
        return [log for at in here for log in [*at.glob("up.log"), *at.glob("data/*node-*/log*")]]

    def panics(self):
        """What panicked, with its words, which stand on the next line; without what a case has asked for."""
        found = [match for log in self.logs() for match in PANIC.findall(log.read_text(errors="replace"))]
        return [words for words in found if WANTED_PANIC not in words]

    async def fall(self):
        self.go_on()
        try:
            await self.client.close()
            await self.cluster.stop(60)
        except ClusterError:
            pass

    async def nothing_left(self):
        """No process of the case runs any more; called after `fall`."""
        try:
            await until("everything has ended", lambda: not marked(str(self.folder)), 20, 0.2)
        except ClusterError:
            left = {pid: command_line(pid)[:120] for pid in marked(str(self.folder))}
            for pid in left:
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
            raise ClusterError(f"these processes outlived their cluster: {left}") from None


__all__ = ["ENDED", "MATRIX", "Cluster", "Refused", "Stage", "at", "need", "plan_of"]
