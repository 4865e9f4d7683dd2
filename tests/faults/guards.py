"""Nothing outlives its attempt: kill -9 and SIGSTOP of the node, of `up` and of a guard, with tasks that try to survive.

    .tools/venv/bin/python tests/faults/guards.py [CASE…] [--keep]

Each case is a cluster of its own with one epic whose first task is wild.py. The last line is `N passed, N failed`.
"""
import asyncio
import os
import shlex
import signal
import sys
import time
import uuid
from pathlib import Path

import stage
from cluster import Cluster, ClusterError, alive, command_line, marked, stat, until
from play import main

WILD = Path(__file__).resolve().with_name("wild.py")
# The promise: within this, in seconds, nothing of a task is left.
DEAD_WITHIN = 10
AT_ONCE = 3
# wild.py itself and one process of each kind.
WILD_PROCESSES = 8


class Stage(stage.Stage):
    """A cluster on which a wild task runs."""

    def __init__(self, folder):
        super().__init__(folder, Cluster(folder))
        self.mark = f"wild-{uuid.uuid4().hex}"
        self.note = folder / "wild"
        self.epic = None

    async def rise(self):
        self.cluster.start()
        self.ready = await self.cluster.until_ready()
        self.node, self.nats = self.ready["nodes"][0]["pid"], self.ready["nats_pid"]
        self.up = self.cluster.up.pid
        words = " ".join(shlex.quote(str(word)) for word in (sys.executable, WILD, self.mark, self.note))
        tasks = {
            "wild": {"run": f"exec {words}", "locks": {"write": ["res/wild"]}},
            "plain": {"run": "sleep 1"},
            "after": {"needs": ["wild", "plain"], "run": "echo done", "locks": {"write": ["res/wild"]}},
        }
        answer = await self.client.ask("epic.submit", {"document": {"version": 1, "name": "wild", "tasks": tasks}, "id": self.mark})
        self.epic = answer["epic"]
        self.epics[self.epic] = stage.plan_of(self.mark, {"tasks": tasks})
        # Made, then written: the line may come after the file.
        await until("the wild task is all there", lambda: self.note.exists() and self.note.read_text().endswith("\n"), 60)
        self.task = int(self.note.read_text().split()[0])
        self.guard = next(pid for pid in self.ancestors(self.task) if "guard" in command_line(pid))
        # One of them hops, so a single look may miss it.
        await until("all processes of the task are seen", lambda: len(self.wild()) >= WILD_PROCESSES, 10, 0.02)
        self.began = time.monotonic()

    @staticmethod
    def ancestors(pid):
        while pid > 1 and (now := stat(pid)):
            pid = now[1]
            yield pid

    def wild(self):
        """Living processes of the first attempt."""
        return marked(f"{self.mark}.1.") + ([self.task] if alive(self.task) else [])

    async def tree_is_dead(self):
        """Nothing of it is alive within 10 s of the fault, and nothing comes back."""
        await until(f"no process of the task is alive ({self.wild()})", lambda: not self.wild(), DEAD_WITHIN - (time.monotonic() - self.began))
        self.said = f"dead after {time.monotonic() - self.began:.1f} s"
        # Whoever hops from process to process is seen at least once in this time.
        for _ in range(10):
            await asyncio.sleep(0.05)
            if wild := self.wild():
                raise ClusterError(f"processes of the task came back: {wild}")

    async def are_dead(self, *pids):
        left = DEAD_WITHIN - (time.monotonic() - self.began)
        await until(f"{pids} are dead", lambda: not any(alive(pid) for pid in pids), left)

    async def ends_well(self, wanted="succeeded"):
        await self.ends(self.epic, wanted, 90)

    async def fall(self):
        await super().fall()
        # What a failed case has left; all of it carries our mark.
        for pid in marked(self.mark):
            if stat(pid) and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)


async def node_killed(stage):
    """kill -9 of the node: its tasks die, another node goes on, the epic ends well"""
    os.kill(stage.node, signal.SIGKILL)
    await stage.tree_is_dead()
    await stage.ends_well()


async def node_stopped(stage):
    """SIGSTOP of the node: its tasks die; after SIGCONT the cluster goes on, the epic ends well"""
    stage.stop(stage.node)
    await stage.tree_is_dead()
    stage.go_on()
    await stage.ends_well()


async def up_killed(stage):
    """kill -9 of `up`: node, NATS and tasks end within 10 s; a later `up` takes the epic to its end"""
    os.kill(stage.up, signal.SIGKILL)
    await stage.tree_is_dead()
    await stage.are_dead(stage.node, stage.nats)
    stage.cluster.up.wait()
    stage.cluster.start()
    await stage.cluster.until_ready()
    await stage.ends_well()


async def up_killed_and_started_at_once(stage):
    """kill -9 of `up` and a new one at once on the same data: it comes up, the old processes end, the epic ends well"""
    os.kill(stage.up, signal.SIGKILL)
    stage.cluster.up.wait()
    stage.cluster.start()
    await stage.tree_is_dead()
    await stage.are_dead(stage.node, stage.nats)
    await stage.cluster.until_ready()
    await stage.ends_well()


async def up_stopped(stage):
    """SIGSTOP of `up`: work goes on without it; after SIGCONT a kill -9 of the node is healed as ever"""
    stage.stop(stage.up)
    epic = await stage.submit({"one": {"run": "true"}})
    for _ in range(100):
        state = (await stage.client.ask("epic.get", {"epic": epic}))["state"]
        if state == "succeeded":
            break
        await asyncio.sleep(0.2)
    if state != "succeeded":
        raise ClusterError(f"an epic is {state} while `up` is stopped")
    os.kill(stage.node, signal.SIGKILL)
    stage.began = time.monotonic()
    await stage.tree_is_dead()
    stage.go_on()
    await stage.ends_well()


async def guard_killed(stage):
    """kill -9 of a guard: its tree dies, the attempt is lost, the next one ends well"""
    os.kill(stage.guard, signal.SIGKILL)
    await stage.tree_is_dead()
    await stage.ends_well()


async def guard_stopped_and_cancelled(stage):
    """SIGSTOP of a guard: a cancel ends the tree within 10 s all the same"""
    stage.stop(stage.guard)
    await stage.client.ask("epic.cancel", {"epic": stage.epic})
    await stage.tree_is_dead()
    await stage.ends_well("cancelled")


async def guard_stopped_and_node_killed(stage):
    """SIGSTOP of a guard, kill -9 of the node: the next life of the node ends the tree, the epic ends well"""
    stage.stop(stage.guard)
    os.kill(stage.node, signal.SIGKILL)
    await stage.tree_is_dead()
    await stage.ends_well()


async def node_and_guard_killed(stage):
    """kill -9 of node and guard together: nothing of the tree is left"""
    os.kill(stage.guard, signal.SIGKILL)
    os.kill(stage.node, signal.SIGKILL)
    await stage.tree_is_dead()
    await stage.ends_well()


async def node_stopped_and_up_killed(stage):
    """SIGSTOP of the node, kill -9 of `up`: the stopped node ends too, a new `up` goes on"""
    stage.stop(stage.node)
    os.kill(stage.up, signal.SIGKILL)
    stage.cluster.up.wait()
    await stage.tree_is_dead()
    await stage.are_dead(stage.node, stage.nats)
    stage.cluster.start()
    await stage.cluster.until_ready()
    await stage.ends_well()


async def second_up(stage):
    """a second `up` on the same data exits 5 and disturbs nobody; two TERMs end the first at once, with all tasks"""
    other = Cluster(stage.folder / "second")
    other.folder.mkdir()
    other.data = stage.cluster.data
    other.start()
    code = await other.ended(30)
    if code != 5:
        raise ClusterError(f"the second `up` ended with {code}, expected 5: {other.log.read_text()[-500:]}")
    if stage.cluster.ready() != stage.ready:
        raise ClusterError(f"the first `up` was {stage.ready} and is {stage.cluster.ready()}")
    stage.began = time.monotonic()
    os.kill(stage.up, signal.SIGTERM)
    await asyncio.sleep(1)
    if stage.cluster.up.poll() is not None:
        raise ClusterError("`up` did not wait for the running task after one TERM")
    os.kill(stage.up, signal.SIGTERM)
    await stage.cluster.ended(5)
    await stage.tree_is_dead()
    await stage.are_dead(stage.node, stage.nats)


CASES = [
    node_killed, node_stopped, up_killed, up_killed_and_started_at_once, up_stopped, guard_killed, guard_stopped_and_cancelled,
    guard_stopped_and_node_killed, node_and_guard_killed, node_stopped_and_up_killed, second_up,
]


if __name__ == "__main__":
    main(__doc__, CASES, Stage, AT_ONCE)
