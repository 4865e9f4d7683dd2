"""Kill-proof, proven from outside: kill -9 of nodes (the Manager's too), of `up` and of nats-server at random instants, under a continuous load of epics.

    .tools/venv/bin/python tests/faults/kill_proof.py --runs 60 [--seed 7] [--load 6] [--nodes 3] [--pauses] [--keep]

With --pauses some instants are a SIGSTOP of a node or nats-server, for up to 20 s, in place of a kill.

Every task writes its start, its life and its end to a file that the system knows nothing of. When the faults are over, every epic that was
accepted has to end, and the file and the journal have to tell the same story (see judge.py). The last line is `N passed, N failed`.
A seed gives the same epics and the same plan of kills; what they hit depends on the machine.
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
from cluster import KILLED, Cluster, ClusterError, alive, marked, until
from trial import Trial, say

TARGETS = [("node",)] * 9 + [("up",)] * 5 + [("nats",)] * 6 + [("node", "nats"), ("up", "nats"), ("up", "node"), ("node", "up", "nats")]


class Proof:
    """One run: the cluster, the load, the kills, the judgement."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.cluster = Cluster(folder, "--nodes", str(options.nodes), "--capacity", str(max(4, 12 // options.nodes)))
        self.trial = Trial(self.cluster, folder / "ledger", options.seed, options.load)
        self.dice = random.Random(options.seed)
        self.kills, self.instants = Counter(), Counter()
        self.ending = False

    async def run(self):
        self.cluster.start()
        await self.cluster.until_ready()
        keeper = asyncio.create_task(self.keep_up())
        self.trial.begin()
        await self.kill_all()
        say(f"faults are over after {sum(self.instants.values())} instants; {len(self.trial.epics)} epics so far")
        self.trial.submitting = False
        await self.cluster.until_ready(90)
        await self.trial.finish()
        results = await self.trial.judge()
        self.table()
        self.ending = True
        code = await self.cluster.stop()
        await keeper
        results.append(("`up` ends with 0 on TERM", [] if code == 0 else [f"it ended with {code}"]))
        await self.trial.client.close()
        left = await self.leftovers()
        results.append(("nothing of it runs any more", left))
        results.append(("nothing is left of any attempt on disk", self.litter()))
        results.append(("nothing panicked", self.panics()))
        return results

    async def keep_up(self):
        """Starts `up` again after its death, as an operator's service manager would."""
        dice = random.Random(f"{self.options.seed}/up")
        while not self.ending:
            if self.cluster.up.poll() is not None and not self.ending:
                code = self.cluster.up.returncode
                if code != KILLED:
                    self.trial.trouble.append(f"`up` ended by itself with {code}; see {self.cluster.log}")
                    await asyncio.sleep(1)
                await asyncio.sleep(dice.uniform(0, 0.5))
                self.cluster.start()
            await asyncio.sleep(0.02)

    async def kill_all(self):
        began = time.monotonic()
        while sum(self.instants.values()) < self.options.runs:
            # Some instants fall into the recovery from the one before.
            quick = self.dice.random() < self.options.quick
            await asyncio.sleep(self.dice.uniform(0.02, 1.0) if quick else self.dice.uniform(1.0, 4.5))
            if self.options.pauses and self.dice.random() < 0.25:
                await self.pause(self.dice.choice(["node", "nats"]), self.dice.choice([0.5, 2, 4, 7, 20]))
                continue
            targets, hit = self.dice.choice(TARGETS), []
            for target in targets:
                if self.cluster.kill(target, dice=self.dice):
                    hit.append(target)
                    self.kills[target] += 1
            if hit:
                self.instants["+".join(hit)] += 1
                done = sum(self.instants.values())
                if done % 10 == 0:
                    say(f"  {done} instants in {time.monotonic() - began:.0f} s, {len(self.trial.epics)} epics accepted")

    async def pause(self, target, seconds):
        """Stops a process for a while; what it has missed is then old news to everybody."""
        pid = self.cluster.kill(target, signal.SIGSTOP, self.dice)
        if pid is None:
            return
        self.instants[f"pause of {target}"] += 1
        await asyncio.sleep(seconds)
        if alive(pid):
            os.kill(pid, signal.SIGCONT)

    def table(self):
        rows = [
            *((f"kill -9 of {target}", count) for target, count in sorted(self.kills.items())),
            ("instants", sum(self.instants.values())),
            ("  of these pauses", sum(n for what, n in self.instants.items() if "pause" in what)),
            ("  of these several at once", sum(n for what, n in self.instants.items() if "+" in what)),
            *self.trial.rows(),
        ]
        say("")
        for what, count in rows:
            say(f"  {what:<44}{count:>7}")
        say(f"  (judged in {self.trial.judged_in:.0f} s)\n")

    def litter(self):
        return [str(path) for folder in ("attempts", "guards") for path in sorted(self.cluster.data.glob(f"node-*/{folder}/*"))]

    def panics(self):
        logs = [self.cluster.log, *sorted(self.cluster.data.glob("node-*/log*"))]
        return [line for log in logs for line in log.read_text(errors="replace").splitlines() if "panicked at" in line]

    async def leftovers(self):
        try:
            await until("everything has ended", lambda: not marked(str(self.folder)), 15, 0.2)
        except ClusterError:
            return [f"pid {pid} still runs" for pid in marked(str(self.folder))]
        return []


def report(results, keep, folder):
    passed = failed = 0
    for law, violations in results:
        passed, failed = (passed, failed + 1) if violations else (passed + 1, failed)
        say(f"{'FAIL' if violations else 'ok  '} {law}")
        for violation in violations[:12]:
            say(f"       {violation}")
        if len(violations) > 12:
            say(f"       and {len(violations) - 12} more")
    if failed or keep:
        say(f"everything is kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"{passed} passed, {failed} failed")
    return failed == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8, help="instants at which something is killed")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--load", type=int, default=6, help="epics under way at once")
    parser.add_argument("--nodes", type=int, default=3, help="node processes; the first one has the Manager")
    parser.add_argument("--quick", type=float, default=0.3, help="share of the instants that follow within a second")
    parser.add_argument("--pauses", action="store_true", help="also stop node and nats-server for a while")
    parser.add_argument("--keep", action="store_true", help="keep data, logs and ledger also after success")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    folder = Path(tempfile.mkdtemp(prefix="amphi-kill-"))
    say(f"kill_proof.py --runs {options.runs} --seed {options.seed} --load {options.load} --nodes {options.nodes}, in {folder}")
    proof = Proof(options, folder)
    try:
        results = asyncio.run(proof.run())
    except (ClusterError, Unanswered, Refused) as error:
        results = [("the run came to its end", [f"{error}", *proof.trial.trouble])]
    finally:
        if proof.cluster.up is not None and proof.cluster.up.poll() is None:
            proof.cluster.up.kill()
            proof.cluster.up.wait()
    sys.exit(0 if report(results, options.keep, folder) else 1)


if __name__ == "__main__":
    main()
