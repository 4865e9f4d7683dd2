"""Random faults of all kinds into a running load, by a seed; then calm, and everything is counted and judged.

    .tools/venv/bin/python tests/faults/soak.py --seed 7 --minutes 30 [--load 8] [--keep] [--table FILE]

One nats-server of the harness, three `up`s that may lead and one with two nodes that may not, each on a link of its own. At least one
fault every 3 s. Clients keep their own list of what was acknowledged. The same seed gives the same epics and the same sequence of faults
and pauses; what they hit (who leads just then, which task runs) depends on the machine. Prints a table in Markdown; exit 1 on any violation.
"""
import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from client import Refused, Unanswered
from cluster import ClusterError, alive, command_line
from guards import Stage as Guarded
from loaded import LoadedStage
from trial import say

SHAPE = [{"options": ["--capacity", 4]} for _ in range(3)] + [{"options": ["--no-manager", "--nodes", 2, "--capacity", 4]}]
# How often each kind comes, as shares.
KINDS = {
    "kill -9 of the leader": 10,
    "kill -9 of a node": 10,
    "kill -9 of an `up`": 6,
    "kill -9 of a task's process": 10,
    "kill -9 of a guard": 8,
    "kill -9 of nats-server": 8,
    "kill -9 of the leader and nats-server": 3,
    "SIGSTOP of the leader": 7,
    "SIGSTOP of a node": 6,
    "SIGSTOP of a task's process": 4,
    "SIGSTOP of nats-server": 4,
    "cut link of the leader": 5,
    "cut link": 6,
    "paused link of the leader, writes land late": 5,
    "paused link, writes land late": 4,
    "paused link, writes lost": 4,
    "one-way link (deaf)": 4,
    "one-way link (mute)": 4,
    "flapping link": 4,
    "slow link": 5,
    "rolling restart of an `up` (TERM)": 5,
    "TERM of a node": 4,
    "cancel of an epic": 6,
}
# After which of them somebody else has to lead, if they hit the leader.
DEPOSING = ("kill -9 of the leader", "SIGSTOP of the leader", "cut link of the leader", "paused link of the leader", "kill -9 of nats-server")
# Between two faults, in seconds.
PAUSE = (0.3, 2.7)
# What may be down at the same time, of the parts that heal by themselves after a while.
WOUNDS_MAX = 3
MEMORY_MAX = 1 << 30


def percentile(times, share):
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Script:
    """The faults of a seed, one after the other: when, what, how long, and a number that picks the victim."""

    def __init__(self, seed):
        self.dice = random.Random(f"{seed}/faults")
        self.deck = []

    def next(self):
        if not self.deck:
            # Every kind in each round, more often those with a greater share.
            self.deck = [kind for kind, share in KINDS.items() for _ in range(share)]
            self.dice.shuffle(self.deck)
        kind = self.deck.pop()
        return self.dice.uniform(*PAUSE), kind, self.dice.choice([0.5, 1, 2, 4, 7, 12]), self.dice.randrange(1 << 30)


class Soak(LoadedStage):
    """The cluster, the load, the faults."""

    def __init__(self, folder, options):
        super().__init__(folder, SHAPE, load=options.load, seed=options.seed)
        self.script = Script(options.seed)
        self.count, self.missed = Counter(), Counter()
        self.wounds = set()
        self.seats_lost = []  # times at which the leader was hit
        self.gaps = []
        self.memory = Counter()
        self.under_way = set()
        self.leader_now = None

    # -- who is hit

    async def watch_leader(self):
        """Keeps the node that leads, or None while nobody answers for it."""
        while True:
            try:
                reply = await self.client.once("node.list", {"limit": 500}, timeout=1)
                self.leader_now = next((node for node in reply["nodes"] if node["leads"]), None)
            except Exception:  # nobody answers in the middle of a fault; then there is nobody to hit
                self.leader_now = None
            await asyncio.sleep(0.2)

    def running(self, retryable=True):
        plans = {**self.trial.epics, **self.trial.kin}
        found = []
        for one in self.tasks():
            plan = plans.get(one[1])
            # The exit of a killed command is the truth about a `retry: 0`: it has failed, and its epic with it. Guards have no such say.
            if plan is not None and not (retryable and one[2].split("[")[0] in plan.once):
                found.append(one)
        return sorted(found)

    # -- the faults

    async def hit(self, kind, seconds, number):
        """Does it; False if there was nobody to hit."""
        pick = lambda things: things[number % len(things)] if things else None  # noqa: E731
        fleet = self.fleet
        if kind.startswith("cancel"):
            known = [epic for epic, state in list(self.trial.epics.items())[-8:] if epic not in self.trial.cancelled]
            epic = pick(known)
            if epic is None:
                return False
            self.healing(self.trial.cancel(epic))
            return True
        if "task's process" in kind or "guard" in kind:
            one = pick(self.running(retryable="guard" not in kind))
            pid = one and one[0]
            if pid and "guard" in kind:
                pid = next((up for up in Guarded.ancestors(pid) if "guard" in command_line(up)), None)
            return await self.strike(pid, kind, seconds)
        if kind == "kill -9 of an `up`":
            up = pick(fleet.ups)
            return await self.strike(up.up.pid if up.up.poll() is None else None, kind, seconds)
        if "restart of an `up`" in kind:
            up = pick(fleet.ups)
            return await self.strike(up.up.pid if up.ready() else None, kind, seconds)
        leader = self.leader_now if "leader" in kind or "nats" in kind else None
        if "leader" in kind and leader is None:
            return False
        if leader is not None and kind.startswith(DEPOSING) and not (seconds < 4 and kind.startswith(("SIGSTOP", "paused", "cut"))):
            self.seats_lost.append((time.monotonic(), kind))
        if "nats-server" in kind:
            done = False
            if "leader" in kind:
                await self.strike(leader["pid"], kind, seconds)
            if fleet.server.alive():
                done = True
                if kind.startswith("kill"):
                    fleet.server.kill()
                else:
                    fleet.server.signal(signal.SIGSTOP)
                    self.healing(self.after(min(seconds, 5), lambda: fleet.server.signal(signal.SIGCONT)))
            return done
        if "link" in kind:
            name = fleet.link_of(leader["id"]) if leader else f"u{number % len(fleet.ups)}"
            if fleet.links.states[name] != "open" or len(self.wounds) >= WOUNDS_MAX:
                return False
            self.healing(self.disturb(name, kind, seconds), name)
            return True
        if "node" in kind or "leader" in kind:
            pid = leader["pid"] if leader else pick(sorted(fleet.node_pids()))
            return await self.strike(pid, kind, seconds)
        raise ValueError(kind)

    async def strike(self, pid, kind, seconds):
        if not pid or not alive(pid) or pid in self.stopped:
            return False
        try:
            if kind.startswith("kill"):
                os.kill(pid, signal.SIGKILL)
            elif "TERM" in kind:
                os.kill(pid, signal.SIGTERM)
            else:
                if len(self.wounds) >= WOUNDS_MAX:
                    return False
                self.stop(pid)
                self.healing(self.after(seconds, lambda: self.go_on(pid)), f"pid {pid}")
        except ProcessLookupError:
            return False
        return True

    async def disturb(self, name, kind, seconds):
        links = self.fleet.links
        if kind.startswith("cut"):
            await links.set(name, "cut")
            await asyncio.sleep(seconds)
        elif kind.startswith("paused"):
            await links.set(name, "hold")
            await asyncio.sleep(seconds)
        elif kind.startswith("one-way"):
            await links.set(name, "deaf" if "deaf" in kind else "mute")
            await asyncio.sleep(seconds)
        elif kind.startswith("flapping"):
            for _ in range(max(2, int(seconds))):
                await links.set(name, "cut")
                await asyncio.sleep(0.5)
                await links.set(name, "open")
                await asyncio.sleep(0.5)
        else:
            await links.set(name, "slow", delay=0.2)
            await asyncio.sleep(seconds)
        await links.set(name, "open", drop="lost" in kind)

    def healing(self, coroutine, wound=None):
        """Runs beside the faults; its wound counts while it lasts."""
        if wound:
            self.wounds.add(wound)
        task = asyncio.create_task(coroutine)
        self.under_way.add(task)

        def done(ended):
            self.under_way.discard(ended)
            self.wounds.discard(wound)
            if not ended.cancelled() and ended.exception() is not None:
                self.trial.trouble.append(f"the harness failed to heal {wound}: {ended.exception()!r}")

        task.add_done_callback(done)

    @staticmethod
    async def after(seconds, act):
        await asyncio.sleep(seconds)
        act()

    async def storm(self, minutes):
        self.began = began = last = time.monotonic()
        end, told = began + minutes * 60, began
        watching = asyncio.create_task(self.watch_leader())
        while time.monotonic() < end:
            pause, kind, seconds, number = self.script.next()
            await asyncio.sleep(max(0.0, last + pause - time.monotonic()))
            # Whoever cannot be hit now gives way to the next one, so that the rate holds.
            if await self.hit(kind, seconds, number):
                self.count[kind] += 1
                self.gaps.append(time.monotonic() - last)
                last = time.monotonic()
            else:
                self.missed[kind] += 1
            if time.monotonic() - told > 60:
                told = time.monotonic()
                self.measure()
                say(f"  {sum(self.count.values())} faults in {told - began:.0f} s, {len(self.trial.epics)} epics accepted, {len(self.elections.elected)} elections")
        watching.cancel()
        self.lasted = time.monotonic() - began

    async def heal_all(self):
        """No more faults: what is stopped goes on, what is cut is joined."""
        if self.under_way:
            await asyncio.wait(list(self.under_way), timeout=30)
        self.go_on()
        self.fleet.server.signal(signal.SIGCONT)
        await self.fleet.links.open_all()
        await self.fleet.until_ready(150)

    # -- the numbers

    def measure(self):
        """The largest resident memory of each kind of process so far."""
        for up in self.fleet.ups:
            for pid in up.pids("node"):
                self.memory["node"] = max(self.memory["node"], resident(pid))
            if up.up.poll() is None:
                self.memory["up"] = max(self.memory["up"], resident(up.up.pid))
        if self.fleet.server.alive():
            self.memory["nats"] = max(self.memory["nats"], resident(self.fleet.server.pid))

    def takeovers(self):
        """For each hit on a leader: seconds to the next election and to the next accepted submission."""
        elected, accepted = [at for at, _, _ in self.elections.elected], self.trial.accepted_at
        to_election, to_accepted = [], []
        for at, kind in self.seats_lost:
            if (then := next((one for one in accepted if one > at), None)) is not None:
                to_accepted.append(then - at)
                if then - at > 10:
                    say(f"  accepted again only {then - at:.1f} s after {kind} (at {at - self.began:.0f} s)")
            if "nats" not in kind and (then := next((one for one in elected if one > at), None)) is not None and then - at < 60:
                to_election.append(then - at)
        return to_election, to_accepted

    def table(self, options, results):
        rows = dict(self.trial.rows())
        to_election, to_accepted = self.takeovers()
        disk = size_of(self.folder)
        broken = sum(bool(violations) for _, violations in results)
        lines = [
            "| what | count |",
            "|---|---|",
            f"| seed, minutes of faults | {options.seed}, {self.lasted / 60:.1f} |",
            f"| faults | {sum(self.count.values())} (one every {self.lasted / max(1, sum(self.count.values())):.1f} s, longest pause {max(self.gaps, default=0):.1f} s) |",
            *(f"| &nbsp; {kind} | {self.count[kind]} |" for kind in KINDS),
            f"| epics accepted (and sub-epics) | {rows['epics accepted']} ({rows['  sub-epics']}) |",
            f"| tasks | {rows['tasks of the journal']} |",
            f"| attempts in the journal, started by the tasks' own file | {rows['attempts in the journal']}, {rows['attempts started, by the file']} |",
            f"| attempts lost to a fault and made good | {rows['attempts lost to a fault']} |",
            f"| incidents of `retry: 0` answered | {rows['incidents answered']} |",
            f"| **epics lost** | **{rows['epics lost']}** |",
            f"| **starts doubled** | **{rows['starts doubled']}** |",
            f"| laws violated (the ledger's and `epic verify` of all epics) | {broken} |",
            f"| elections | {len(self.elections.elected)} |",
            f"| takeover after a hit on the leader: next `manager.elected` | p50 {percentile(to_election, .5):.1f} s, p99 {percentile(to_election, .99):.1f} s ({len(to_election)}) |",
            f"| next accepted submission after a hit on leader or NATS | p50 {percentile(to_accepted, .5):.1f} s, p99 {percentile(to_accepted, .99):.1f} s ({len(to_accepted)}) |",
            f"| requests sent again for want of an answer | {rows['requests sent again for want of an answer']} |",
            f"| largest resident memory: node, `up`, nats-server | {self.memory['node'] >> 20}, {self.memory['up'] >> 20}, {self.memory['nats'] >> 20} MiB |",
            f"| disk at the end | {disk >> 20} MiB |",
        ]
        return "\n".join(lines)

    async def judged(self):
        await self.trial.finish(300)
        results = await self.trial.judge()
        results.append(("no `up` ended by itself", self.fleet.trouble))
        try:
            await self.no_lock_held()
            held = []
        except ClusterError as error:
            held = [str(error)]
        results.append(("no lock is held", held))
        large = [f"{kind}: {size >> 20} MiB" for kind, size in self.memory.items() if size > MEMORY_MAX]
        results.append(("memory is bounded", large))
        return results


def size_of(folder):
    """Bytes of all files below it, as far as they stay."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(at, name)).st_size
            except OSError:
                continue
    return total


def resident(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


async def run(options, folder):
    soak = Soak(folder, options)
    results, table = [], ""
    try:
        await soak.rise()
        await soak.storm(options.minutes)
        say(f"faults are over; {len(soak.trial.epics)} epics so far")
        soak.trial.submitting = False
        await soak.heal_all()
        soak.measure()
        results = await soak.judged()
        table = soak.table(options, results)
    except (ClusterError, Unanswered, Refused, OSError) as error:
        results.append(("the run came to its end", [f"{type(error).__name__}: {error}", *soak.trial.trouble, *soak.fleet.trouble]))
    finally:
        await asyncio.shield(soak.fall())
    results.append(("nothing panicked", soak.panics()))
    try:
        await soak.nothing_left()
        results.append(("nothing of it runs any more", []))
    except ClusterError as error:
        results.append(("nothing of it runs any more", [str(error)]))
    results.append(("nothing is left of any attempt on disk", litter(folder)))
    return results, table


def litter(folder):
    return [str(path) for kept in ("attempts", "guards") for path in sorted(folder.glob(f"up*/data/*node-*/{kept}/*"))]


def main():
    # Told to end, it ends what it started first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--load", type=int, default=6, help="epics under way at once")
    parser.add_argument("--table", help="also write the table there")
    parser.add_argument("--keep", action="store_true", help="keep data, logs and ledger also after success")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    folder = Path(tempfile.mkdtemp(prefix="amphi-soak-"))
    say(f"soak.py --seed {options.seed} --minutes {options.minutes:g} --load {options.load}, in {folder}")
    results, table = asyncio.run(run(options, folder))
    failed = sum(bool(violations) for _, violations in results)
    say(f"\n{table}\n" if table else "")
    for law, violations in results:
        say(f"{'FAIL' if violations else 'ok  '} {law}")
        for violation in violations[:12]:
            say(f"       {violation}")
        if len(violations) > 12:
            say(f"       and {len(violations) - 12} more")
    if options.table and table:
        Path(options.table).write_text(table + "\n")
    if failed or options.keep:
        say(f"everything is kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not table else 0


if __name__ == "__main__":
    sys.exit(main())
