"""A load of epics under faults, and the judgement of what came of it; the faults are the caller's.

Clients submit one epic after the other and keep their own list of what was acknowledged. When the faults are over, every epic on that
list has to end, and the tasks' own file and the journal have to tell the same story (see judge.py).
"""
import asyncio
import json
import random
import time
from collections import Counter

import nats

from client import Client, Refused
from judge import LAWS, MATRIX, Evidence, History, Ledger
from load import Maker

# Epics of which what was told is compared with what the journal says.
COMPARED = 12
ENDED = ("succeeded", "failed", "cancelled")
# How long what was accepted may take to end once the faults are over, in seconds.
CALM = 240
# More epics than this are not read one by one: each reading goes through the whole journal.
MANY = 40


def say(text):
    print(text, flush=True)


class Trial:
    """One load on one cluster; `cluster` has `url()`."""

    def __init__(self, cluster, ledger, seed, load):
        self.seed, self.load = seed, load
        self.ledger = ledger
        self.client = Client(cluster)
        self.maker = Maker(seed, ledger)
        self.epics = {}  # id -> load.Epic
        self.kin = {}  # sub-epic -> load.Epic
        self.states, self.resolved, self.trouble = {}, {}, []
        self.number = 0
        self.submitting = True
        self.duplicates = 0
        self.cancelled = set()
        self.workers = []
        self.accepted_at = []  # times of the answers
        self.heard = {}  # number -> event, as it was told while everything went on

    def begin(self):
        self.workers = [asyncio.create_task(self.work(n)) for n in range(self.load)]

    async def finish(self, calm=CALM):
        """No more submissions; waits for the clients, then for what was accepted."""
        self.submitting = False
        for done in await asyncio.gather(*self.workers, return_exceptions=True):
            if isinstance(done, BaseException):
                self.trouble.append(f"a client gave up: {done!r}")
        await self.calm(calm)

    async def work(self, worker):
        """Submits epics one after the other, each followed to its end, or left alone after a while."""
        dice = random.Random(f"{self.seed}/worker/{worker}")
        while self.submitting:
            epic = self.maker.make(self.number)
            self.number += 1
            body = {"document": epic.document, "id": epic.key}
            answer = await self.client.ask("epic.submit", body, {"Nats-Msg-Id": epic.key}, within=180, timeout=1.5)
            self.epics[answer["epic"]] = epic
            self.accepted_at.append(time.monotonic())
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

    async def calm(self, within=CALM):
        """Waits until every accepted epic has ended; answers the incidents that lost `retry: 0` tasks left, truthfully."""
        began = time.monotonic()
        while True:
            await self.resolve_incidents()
            rows = await self.client.all("epic.list", "epics", {"limit": 500})
            self.states = listed = {row["epic"]: row["state"] for row in rows}
            self.find_kin(rows)
            took = time.monotonic() - began
            if all(listed.get(epic) in ENDED for epic in [*self.epics, *self.kin]) or took > within:
                say(f"{len(self.epics)} epics accepted; what was left of them took {took:.0f} s more")
                return
            await asyncio.sleep(0.5)

    def find_kin(self, rows):
        """Sub-epics that our epics have opened; each is held against its own part of the document."""
        for row in rows:
            parent = row.get("parent")
            if parent and parent["epic"] in self.epics:
                self.kin[row["epic"]] = self.epics[parent["epic"]].children[MATRIX.sub("", parent["task"])]
                if parent["epic"] in self.cancelled:
                    self.cancelled.add(row["epic"])

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
        everything = {**self.epics, **self.kin}
        failed_by_person = {epic for epic, verdict in self.resolved.values() if verdict == "failed"}
        wrong_ends = []
        for epic in everything:
            state, wanted = self.states.get(epic), "failed" if epic in failed_by_person else "succeeded"
            if state != wanted and not (epic in self.cancelled and state in ENDED):
                wrong_ends.append(f"{epic} is {state}, expected {wanted}")
        told = await self.told(everything)
        histories = {epic: History(epic, events) for epic, events in told.items()}
        verdicts = await self.verdicts(list(everything))
        self.seen = seen = Evidence(Ledger(self.ledger), everything, histories)
        strangers = [f"{epic} was never acknowledged to anybody" for epic in self.states if epic not in everything]
        missing = [f"{epic} ({self.epics[epic].key}) is not listed" for epic in self.epics if epic not in self.states]
        open_epics = [f"{epic} is {state}" for epic, state in self.states.items() if state not in ENDED]
        self.histories, self.judged_in = histories, time.monotonic() - began
        self.lost = sum(epic not in self.states for epic in self.epics)
        self.doubled = sum(len(a.starts) > 1 for a in seen.ledger.attempts.values())
        return [
            ("no process did anything that no fault explains", self.trouble),
            ("every acknowledged epic is there, once per key", missing + strangers),
            ("every accepted epic has ended", open_epics),
            ("every epic ended as it should", wrong_ends),
            *((law, list(check(seen))) for law, check in LAWS),
            ("`epic verify` holds for every epic", verdicts),
        ]

    async def told(self, epics):
        """The events of each epic. Of many from what was heard all along and what the stream holds, if their numbers have no hole; else from
        the journal, epic by epic."""
        found = {}
        if len(epics) > MANY:
            events = {seq: json.loads(data) for seq, data in self.heard.items()} | await self.stream_of_events()
            seqs = sorted(events)
            if seqs and seqs == list(range(1, len(seqs) + 1)):
                found = {epic: [] for epic in epics}
                for seq in seqs:
                    if (event := events[seq])["epic"] in found:
                        found[event["epic"]].append(event)
            else:
                say(f"  {len(seqs)} of {max(seqs, default=0)} events were heard or are in the stream; each epic is read from the journal")
        at_once = asyncio.Semaphore(3)

        async def read(epic):
            async with at_once:
                found[epic] = await self.client.all("epic.events", "events", {"epic": epic}, timeout=120, within=600)

        heard = {epic: found[epic] for epic in random.Random(self.seed).sample(sorted(found), min(len(found), COMPARED))}
        # One that was put away shows an empty list only if it has really none.
        await asyncio.gather(*(read(epic) for epic in epics if not found.get(epic) or epic in heard))
        self.trouble += [f"{epic} was told otherwise than the journal has it" for epic in heard if heard[epic] != found[epic]]
        return found

    async def stream_of_events(self):
        """What the stream of events holds, by number."""
        connection = await nats.connect(self.client.cluster.url().split(","))
        found = {}
        try:
            js = connection.jetstream()
            last = (await js.stream_info("AMPHI_EVENTS")).state.last_seq
            reader = await js.subscribe("amphi.evt.>", ordered_consumer=True)
            while last:
                message = await reader.next_msg(timeout=20)
                event = json.loads(message.data)
                found[event["seq"]] = event
                if message.metadata.sequence.stream >= last:
                    break
        except (nats.errors.Error, asyncio.TimeoutError) as error:
            say(f"  the stream of events could not be read to its end: {error!r}")
        finally:
            await connection.close()
        return found

    async def verdicts(self, epics):
        """What the laws say: of all epics at once, in one reading of the journal, and of some by themselves, as a person asks."""
        broken = []
        sample = epics if len(epics) <= MANY else random.Random(self.seed).sample(epics, MANY // 2)
        at_once = asyncio.Semaphore(3)

        async def ask(epic):
            async with at_once:
                verdict = await self.client.ask("epic.verify", {"epic": epic} if epic else {}, timeout=600, within=900)
            if verdict.get("ok") is not True:
                laws = [law for law in verdict.get("laws", []) if law["result"] == "violated"]
                broken.append(f"{epic or 'the whole journal'}: {laws or verdict}")
            return verdict

        self.whole, *_ = await asyncio.gather(ask(None), *(ask(epic) for epic in sample))
        return broken

    def rows(self):
        """What there was, for a table; after `judge`."""
        return [
            ("epics accepted", len(self.epics)),
            ("  sub-epics", len(self.kin)),
            *((f"  {state}", count) for state, count in sorted(Counter(self.states.values()).items())),
            ("  sent again on purpose", self.duplicates),
            ("  cancelled on purpose", len(self.cancelled & set(self.epics))),
            ("requests sent again for want of an answer", self.client.resent),
            ("tasks of the journal", len({key[:2] for key in self.seen.assigned})),
            ("attempts in the journal", len(self.seen.assigned)),
            ("attempts started, by the file", self.seen.ledger.starts()),
            ("attempts lost to a fault", sum(history.lost for history in self.histories.values())),
            ("incidents answered", len(self.resolved)),
            ("epics lost", self.lost),
            ("starts doubled", self.doubled),
        ]
