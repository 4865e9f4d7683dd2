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

from client import Client, Refused, Unanswered
from cluster import KILLED, Cluster, ClusterError, alive, marked, until
from judge import LAWS, Evidence, History, Ledger
from load import Maker

TARGETS = [("node",)] * 9 + [("up",)] * 5 + [("nats",)] * 6 + [("node", "nats"), ("up", "nats"), ("up", "node"), ("node", "up", "nats")]
ENDED = ("succeeded", "failed", "cancelled")
# How long what was accepted may take to end once the faults are over.
CALM = 240


def say(text):
    print(text, flush=True)


class Proof:
    """One run: the cluster, the load, the kills, the judgement."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.ledger = folder / "ledger"
        self.cluster = Cluster(folder, "--nodes", str(options.nodes), "--capacity", str(max(4, 12 // options.nodes)))
        self.client = Client(self.cluster)
        self.maker = Maker(options.seed, self.ledger)
        self.dice = random.Random(options.seed)
        self.kills, self.instants = Counter(), Counter()
        self.epics = {}  # id -> load.Epic
        self.states, self.resolved, self.trouble = {}, {}, []
        self.number = 0
        self.submitting, self.ending = True, False
        self.duplicates = 0
        self.cancelled = set()

    async def run(self):
        self.cluster.start()
        await self.cluster.until_ready()
        keeper = asyncio.create_task(self.keep_up())
        workers = [asyncio.create_task(self.work(n)) for n in range(self.options.load)]
        await self.kill_all()
        say(f"faults are over after {sum(self.instants.values())} instants; {len(self.epics)} epics so far")
        self.submitting = False
        await self.cluster.until_ready(90)
        for done in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(done, BaseException):
                self.trouble.append(f"a client gave up: {done!r}")
        await self.calm()
        results = await self.judge()
        self.ending = True
        code = await self.cluster.stop()
        await keeper
        results.append(("`up` ends with 0 on TERM", [] if code == 0 else [f"it ended with {code}"]))
        await self.client.close()
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
                    self.trouble.append(f"`up` ended by itself with {code}; see {self.cluster.log}")
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
                    say(f"  {done} instants in {time.monotonic() - began:.0f} s, {len(self.epics)} epics accepted")

    async def pause(self, target, seconds):
        """Stops a process for a while; what it has missed is then old news to everybody."""
        pid = self.cluster.kill(target, signal.SIGSTOP, self.dice)
        if pid is None:
            return
        self.instants[f"pause of {target}"] += 1
        await asyncio.sleep(seconds)
        if alive(pid):
            os.kill(pid, signal.SIGCONT)

    async def work(self, worker):
        """Submits epics one after the other, each followed to its end, or left alone after a while."""
        dice = random.Random(f"{self.options.seed}/worker/{worker}")
        while self.submitting:
            epic = self.maker.make(self.number)
            self.number += 1
            body = {"document": epic.document, "id": epic.key}
            answer = await self.client.ask("epic.submit", body, {"Nats-Msg-Id": epic.key}, within=180, timeout=1.5)
            self.epics[answer["epic"]] = epic
            if dice.random() < 0.3:
                again = await self.client.ask("epic.submit", body, {"Nats-Msg-Id": epic.key}, within=180, timeout=1.5)
                self.duplicates += 1
                if again["epic"] != answer["epic"] or again["duplicate"] is not True:
                    self.trouble.append(f"{epic.key} was accepted as {answer['epic']} and then as {again}")
            if epic.cancel_after is not None:
                await asyncio.sleep(epic.cancel_after)
                await self.cancel(answer["epic"])
            end = time.monotonic() + 30
            while self.submitting and time.monotonic() < end:
                await asyncio.sleep(0.5)
                shown = await self.client.ask("epic.get", {"epic": answer["epic"]}, within=180)
                if shown["state"] in ENDED:
                    break

    async def cancel(self, epic):
        try:
            await self.client.ask("epic.cancel", {"epic": epic}, within=180)
        except Refused as refused:
            # It may have ended by itself, or by an earlier request whose answer was lost.
            if refused.code != "state.conflict":
                self.trouble.append(f"{epic} could not be cancelled: {refused}")
        self.cancelled.add(epic)

    async def calm(self):
        """Waits until every accepted epic has ended; answers the incidents that lost `retry: 0` tasks left, truthfully."""
        began = time.monotonic()
        while True:
            await self.resolve_incidents()
            listed = {epic["epic"]: epic["state"] for epic in await self.client.all("epic.list", "epics", {"limit": 500})}
            self.states = listed
            took = time.monotonic() - began
            if all(listed.get(epic) in ENDED for epic in self.epics) or took > CALM:
                say(f"{len(self.epics)} epics accepted; what was left of them took {took:.0f} s more")
                return
            await asyncio.sleep(0.5)

    async def resolve_incidents(self):
        for incident in await self.client.all("incident.list", "incidents", {}):
            if incident["state"] == "resolved" or incident["incident"] in self.resolved:
                continue
            epic, task = incident["epic"], incident["task"]
            if epic not in self.epics or task not in self.epics[epic].once:
                self.trouble.append(f"an incident that no lost `retry: 0` explains: {incident}")
            lines = [a for key, a in Ledger(self.ledger).attempts.items() if key[:2] == (epic, task) and a.starts]
            verdict = "not_started" if not lines else "succeeded" if any(a.code == 0 for a in lines) else "failed"
            try:
                await self.client.ask("incident.resolve", {"incident": incident["incident"], "as": verdict})
            except Refused as refused:
                self.trouble.append(f"{incident['incident']} could not be resolved as {verdict}: {refused}")
            self.resolved[incident["incident"]] = (epic, verdict)

    async def judge(self):
        """(law, violations) of everything."""
        began = time.monotonic()
        histories, verdicts, wrong_ends = {}, [], []
        failed_by_person = {epic for epic, verdict in self.resolved.values() if verdict == "failed"}
        at_once = asyncio.Semaphore(3)

        async def read(epic):
            state, wanted = self.states.get(epic), "failed" if epic in failed_by_person else "succeeded"
            if state != wanted and not (epic in self.cancelled and state in ENDED):
                wrong_ends.append(f"{epic} is {state}, expected {wanted}")
            async with at_once:
                histories[epic] = History(epic, await self.client.all("epic.events", "events", {"epic": epic}, timeout=60))
                verdict = await self.client.ask("epic.verify", {"epic": epic}, timeout=60)
            if verdict.get("ok") is not True:
                laws = [law for law in verdict.get("laws", []) if law["result"] == "violated"]
                verdicts.append(f"{epic}: {laws or verdict}")

        await asyncio.gather(*(read(epic) for epic in self.epics))
        seen = Evidence(Ledger(self.ledger), self.epics, histories)
        strangers = [f"{epic} was never acknowledged to anybody" for epic in self.states if epic not in self.epics]
        missing = [f"{epic} ({self.epics[epic].key}) is not listed" for epic in self.epics if epic not in self.states]
        open_epics = [f"{epic} is {state}" for epic, state in self.states.items() if state not in ENDED]
        self.table(seen, histories, time.monotonic() - began)
        return [
            ("no process did anything that no fault explains", self.trouble),
            ("every acknowledged epic is there, once per key", missing + strangers),
            ("every accepted epic has ended", open_epics),
            ("every epic ended as it should", wrong_ends),
            *((law, list(check(seen))) for law, check in LAWS),
            ("`epic verify` holds for every epic", verdicts),
        ]

    def table(self, seen, histories, seconds):
        lost = sum(history.lost for history in histories.values())
        doubled = sum(len(a.starts) > 1 for a in seen.ledger.attempts.values())
        rows = [
            *((f"kill -9 of {target}", count) for target, count in sorted(self.kills.items())),
            ("instants", sum(self.instants.values())),
            ("  of these pauses", sum(n for what, n in self.instants.items() if "pause" in what)),
            ("  of these several at once", sum(n for what, n in self.instants.items() if "+" in what)),
            ("epics accepted", len(self.epics)),
            *((f"  {state}", count) for state, count in sorted(Counter(self.states.values()).items())),
            ("  sent again on purpose", self.duplicates),
            ("  cancelled on purpose", len(self.cancelled)),
            ("requests sent again for want of an answer", self.client.resent),
            ("attempts in the journal", len(seen.assigned)),
            ("attempts started, by the file", seen.ledger.starts()),
            ("attempts lost to a kill", lost),
            ("incidents answered", len(self.resolved)),
            ("epics lost", sum(epic not in self.states for epic in self.epics)),
            ("starts doubled", doubled),
        ]
        say("")
        for what, count in rows:
            say(f"  {what:<44}{count:>7}")
        say(f"  (judged in {seconds:.0f} s)\n")

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
        results = [("the run came to its end", [f"{error}", *proof.trouble])]
    finally:
        if proof.cluster.up is not None and proof.cluster.up.poll() is None:
            proof.cluster.up.kill()
            proof.cluster.up.wait()
    sys.exit(0 if report(results, options.keep, folder) else 1)


if __name__ == "__main__":
    main()
