"""Compares what really happened (the ledger file of the tasks) with what the journal says (the events of every epic).

Every law is one function that yields sentences, one per violation. None of them asks the system for a verdict of its own.
"""
import re
from collections import defaultdict
from dataclasses import dataclass, field

MATRIX = re.compile(r"\[.*\]$")


@dataclass
class Attempt:
    """One (epic, task, run, attempt) of the ledger: its lines by their number."""

    starts: list = field(default_factory=list)
    pids: list = field(default_factory=list)
    tokens: list = field(default_factory=list)
    last: int = 0
    end: int = None
    code: int = None


class Ledger:
    """The file, in the order in which it was written."""

    def __init__(self, path):
        self.attempts = defaultdict(Attempt)
        self.broken = []
        try:
            text = path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            text = ""
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split(" ")
            if len(words) != 8 or words[0] not in ("start", "alive", "end"):
                self.broken.append(f"line {number} is no whole line: {line!r}")
                continue
            what, epic, task, run, attempt, pid, token, code = words
            entry = self.attempts[(epic, task, int(run), int(attempt))]
            entry.last = number
            if what == "start":
                entry.starts.append(number)
                entry.pids.append(int(pid))
                entry.tokens.append(int(token))
            elif what == "end":
                entry.end, entry.code = number, int(code)

    def starts(self):
        return sum(len(attempt.starts) for attempt in self.attempts.values())


class History:
    """What the journal says of one epic."""

    def __init__(self, epic, events):
        self.assigned, self.started, self.codes, self.ended = set(), {}, {}, {}
        self.lost, self.seqs = 0, [event["seq"] for event in events]
        for event in events:
            kind, data = event["type"], event.get("data") or {}
            key = (epic, event.get("task"), event.get("run"), event.get("attempt"))
            if kind == "task.assigned":
                self.assigned.add(key)
            elif kind == "task.started":
                self.started[key] = data.get("pid")
            if kind in ("task.succeeded", "task.failed", "task.retrying", "task.unknown"):
                self.lost += data.get("cause") == "agent_lost" or kind == "task.unknown"
                if data.get("exit_code") is not None:
                    self.codes[key] = data["exit_code"]
                elif kind == "task.succeeded":
                    self.codes[key] = 0
            if kind in ("task.succeeded", "task.failed"):
                self.ended[key[:3]] = key[3]


class Evidence:
    """Everything that was seen, for all epics."""

    def __init__(self, ledger, epics, histories):
        self.ledger = ledger
        self.epics = epics  # id -> load.Epic
        self.histories = histories  # id -> History
        self.assigned = set().union(*(h.assigned for h in histories.values())) if histories else set()
        self.codes = {k: v for h in histories.values() for k, v in h.codes.items()}
        self.ended = {k: v for h in histories.values() for k, v in h.ended.items()}

    def plan(self, key):
        """The epic's plan and the task's id of an attempt."""
        return self.epics.get(key[0]), MATRIX.sub("", key[1])


def name(key):
    return f"{key[0]}/{key[1]} run {key[2]} attempt {key[3]}"


def whole_lines(seen):
    yield from seen.ledger.broken


def starts_are_attempts(seen):
    for key, attempt in seen.ledger.attempts.items():
        if attempt.starts and key not in seen.assigned:
            yield f"{name(key)} was started (pids {attempt.pids}), and the journal has no such attempt"


def starts_occur_once(seen):
    for key, attempt in seen.ledger.attempts.items():
        if len(attempt.starts) != 1:
            yield f"{name(key)} was started {len(attempt.starts)} times (pids {attempt.pids})"


def exits_have_starts(seen):
    for key, code in seen.codes.items():
        plan, task = seen.plan(key)
        if not seen.ledger.attempts[key].starts and not (plan and task in plan.tools):
            yield f"{name(key)} has exit code {code} in the journal, and it was never started"


def exits_are_true(seen):
    for key, code in seen.codes.items():
        attempt = seen.ledger.attempts[key]
        # Who is ended by TERM or KILL writes no end.
        if attempt.starts and attempt.code != code and (attempt.code is not None or code not in (128 + 9, 128 + 15)):
            yield f"{name(key)} ended with {attempt.code}, and the journal says {code}"


def values_are_right(seen):
    for key, attempt in seen.ledger.attempts.items():
        if attempt.code in (90, 91):
            yield f"{name(key)} got a wrong {'output' if attempt.code == 90 else 'artifact'} from what it needs"


def ended_runs_stay_ended(seen):
    for key, attempt in seen.ledger.attempts.items():
        final = seen.ended.get(key[:3])
        if final is not None and attempt.starts and key[3] > final:
            yield f"{name(key)} was started, and the run had ended with attempt {final}"


def no_late_starts(seen):
    runs = defaultdict(list)
    for key, attempt in seen.ledger.attempts.items():
        runs[key[:3]].append((key[3], key, attempt))
    for attempts in runs.values():
        for number, key, attempt in attempts:
            for later, other, later_attempt in attempts:
                if later > number and attempt.starts and later_attempt.end and attempt.starts[-1] > later_attempt.end:
                    yield f"{name(key)} was started after {name(other)} had ended"


def once_is_once(seen):
    starts = defaultdict(list)
    for key, attempt in seen.ledger.attempts.items():
        plan, task = seen.plan(key)
        if plan and task in plan.once:
            starts[key[:3]] += [f"attempt {key[3]} pid {pid}" for pid in attempt.pids]
    for run, found in starts.items():
        if len(found) > 1:
            yield f"{run[0]}/{run[1]} is `retry: 0` and was started {len(found)} times: {', '.join(found)}"


def _holders(seen):
    """resource -> [(start line, last line, mode, token, key)] in the order of their starts."""
    holders = defaultdict(list)
    for key, attempt in seen.ledger.attempts.items():
        plan, task = seen.plan(key)
        if plan and task in plan.locks and attempt.starts:
            mode, resource = plan.locks[task]
            holders[resource].append((attempt.starts[0], attempt.last, mode, attempt.tokens[0], key))
    return {resource: sorted(found) for resource, found in holders.items()}


def writers_are_alone(seen):
    for resource, holders in _holders(seen).items():
        for index, (_, last, mode, _, key) in enumerate(holders):
            for start, _, other_mode, _, other in holders[index + 1 :]:
                if start > last:
                    break
                if "write" in (mode, other_mode):
                    yield f"{resource}: {name(other)} ({other_mode}) began while {name(key)} ({mode}) was alive"


def tokens_grow(seen):
    for resource, holders in _holders(seen).items():
        highest, writer = 0, 0
        for _, _, mode, token, key in holders:
            # Readers of one generation may start in any order; a writer is above all before it, a reader above every writer.
            if token <= (highest if mode == "write" else writer):
                yield f"{resource}: {name(key)} ({mode}) has token {token}, and {highest if mode == 'write' else writer} was seen before"
            highest = max(highest, token)
            writer = max(writer, token) if mode == "write" else writer


LAWS = [
    ("every line of the ledger is whole", whole_lines),
    ("every start is an attempt of the journal", starts_are_attempts),
    ("every start occurs once", starts_occur_once),
    ("every attempt with an exit code has its start", exits_have_starts),
    ("every exit code is the one that happened", exits_are_true),
    ("outputs and artifacts arrive as they were made", values_are_right),
    ("a finished run is not run again", ended_runs_stay_ended),
    ("no attempt starts after a later one has ended", no_late_starts),
    ("`retry: 0` is started at most once", once_is_once),
    ("writers are alone, readers never beside a writer", writers_are_alone),
    ("fencing tokens grow", tokens_grow),
]
