"""The epics of the fault runs. A seed and a number give the same document every time.

Tasks are `task.sh`; what each may do (its lock, whether it is `retry: 0`) stands here too, so that the judge compares the file with what
was asked for and not with what the system says.
"""
import random
import shlex
from dataclasses import dataclass, field
from pathlib import Path

TASK = Path(__file__).resolve().with_name("task.sh")
# Shared by all epics of the project, so that they wait for each other.
RESOURCES = ["res/red", "res/green", "res/blue"]
# Causes that the faults bring are tried again as often as it takes; a wrong value (exit 90) ends in the same way as another exit.
PATIENT = {"attempts": 40, "backoff": "50ms", "max": "500ms"}


@dataclass
class Epic:
    """A document, and what holds for its tasks (by id, without the matrix part)."""

    key: str
    document: dict
    once: set = field(default_factory=set)
    locks: dict = field(default_factory=dict)  # task -> (mode, resource)
    tools: set = field(default_factory=set)  # tasks that are no process and leave no trace
    children: dict = field(default_factory=dict)  # task -> Epic of what it opens
    cancel_after: float = None  # seconds


class Maker:
    """Makes epics for one ledger file."""

    def __init__(self, seed, ledger):
        self.seed, self.ledger = seed, str(ledger)
        self.shapes = [self.chain, self.matrix, self.locks, self.once, self.phases, self.slow, self.nested, self.waits]

    def make(self, number):
        dice = random.Random(f"{self.seed}/{number}")
        shape = self.shapes[number % len(self.shapes)]
        epic = Epic(f"kill-{self.seed}-{number}", {"version": 1, "name": f"{shape.__name__}-{number}", "tasks": {}})
        epic.document["defaults"] = {"retry": PATIENT}
        shape(epic, dice)
        if dice.random() < 0.08:
            epic.cancel_after = dice.uniform(0, 2)
        if dice.random() < 0.08:
            # Too large to stand in the journal itself.
            epic.document["inputs"] = {f"pad{n}": {"type": "string", "default": "x" * 60_000} for n in range(10)}
        return epic

    def _run(self, tenths, bad=0, until=0, *pairs):
        # Pairs come as shell text: substituted values are data already and stand outside of quotes.
        words = [shlex.quote(str(word)) for word in ("/bin/sh", TASK, self.ledger, tenths, bad, until)]
        return " ".join(["exec", *words, *pairs])

    def chain(self, epic, dice):
        """Outputs and artifacts handed on, one task that fails twice."""
        tasks, before = epic.document["tasks"], None
        for name in ("a", "b", "c", "d"):
            pairs = [f"{before}=${{{{ tasks.{before}.outputs.made }}}}", f"in:{before}"] if before else []
            task = {"run": self._run(dice.randint(0, 8), 7, 3 if name == "b" else 0, *pairs), "outputs": {"made": "string"}}
            task["needs"] = [before] if before else []
            tasks[name], before = task, name

    def matrix(self, epic, dice):
        """A fan out with a bound, and what comes after all of it."""
        tasks = epic.document["tasks"]
        tasks["first"] = {"run": self._run(dice.randint(0, 3))}
        tasks["each"] = {"needs": ["first"], "matrix": {"i": "1..5"}, "max_parallel": dice.choice([2, 5]), "run": self._run(dice.randint(0, 10))}
        tasks["last"] = {"needs": ["each"], "run": self._run(0, 0, 0, *(f"'in:each[{i}]'" for i in range(1, 6)))}

    def locks(self, epic, dice):
        """Writers and readers of what all epics share."""
        tasks = epic.document["tasks"]
        for number in range(4):
            name, resource = f"t{number}", dice.choice(RESOURCES)
            mode = "write" if number < 2 else dice.choice(["read", "write"])
            tasks[name] = {"run": self._run(dice.randint(1, 6)), "locks": {mode: [resource]}}
            epic.locks[name] = (mode, resource)

    def once(self, epic, dice):
        """Never started twice, in the middle of others."""
        tasks = epic.document["tasks"]
        tasks["before"] = {"run": self._run(0)}
        tasks["once"] = {"needs": ["before"], "retry": 0, "run": self._run(dice.randint(2, 12))}
        tasks["beside"] = {"matrix": {"i": "1..2"}, "run": self._run(dice.randint(0, 10))}
        tasks["after"] = {"needs": ["once"], "run": self._run(0)}
        epic.once.add("once")
        if dice.random() < 0.5:
            resource = dice.choice(RESOURCES)
            tasks["once"]["locks"] = {"write": [resource]}
            epic.locks["once"] = ("write", resource)

    def phases(self, epic, dice):
        """Phases, a locked matrix that fails once, one that always fails and may."""
        epic.document["phases"] = ["build", "check", "ship"]
        resource = dice.choice(RESOURCES)
        tasks = epic.document["tasks"]
        tasks["build"] = {"phase": "build", "matrix": {"i": ["x", "y"]}, "run": self._run(dice.randint(0, 5))}
        tasks["check"] = {"phase": "check", "matrix": {"i": "1..3"}, "run": self._run(1, 9, 2), "locks": {"read": [resource]}}
        tasks["flaky"] = {"phase": "check", "optional": True, "retry": {"attempts": 2, "backoff": "50ms", "on": ["exit"]}, "run": self._run(0, 3, 99)}
        tasks["ship"] = {"phase": "ship", "run": self._run(dice.randint(1, 5)), "locks": {"write": [resource]}}
        epic.locks.update(check=("read", resource), ship=("write", resource))

    def slow(self, epic, dice):
        """Ended by their timeout, one of them with a lock, beside a tool that runs inside the node."""
        tasks, resource = epic.document["tasks"], dice.choice(RESOURCES)
        tasks["slow"] = {"timeout": "700ms", "run": self._run(1, "hang", 2)}
        tasks["held"] = {"timeout": "500ms", "run": self._run(0, "hang", 3), "locks": {"write": [resource]}}
        tasks["nap"] = {"tool": "sleep", "with": {"ms": dice.randint(0, 1500)}}
        tasks["last"] = {"needs": ["slow", "held", "nap"], "run": self._run(0)}
        epic.locks["held"] = ("write", resource)
        epic.tools.add("nap")

    def nested(self, epic, dice):
        """An epic within, with a lock and a matrix of its own, between two tasks."""
        inner, resource = Epic(epic.key, {"tasks": {}}), dice.choice(RESOURCES)
        inside = inner.document["tasks"]
        inside["held"] = {"run": self._run(dice.randint(1, 5)), "locks": {"write": [resource]}}
        inside["each"] = {"needs": ["held"], "matrix": {"i": "1..3"}, "run": self._run(dice.randint(0, 6))}
        inner.document["defaults"] = {"retry": PATIENT}
        inner.locks["held"] = ("write", resource)
        tasks = epic.document["tasks"]
        tasks["before"] = {"run": self._run(dice.randint(0, 3))}
        tasks["part"] = {"needs": ["before"], "epic": inner.document}
        tasks["after"] = {"needs": ["part"], "run": self._run(0)}
        epic.children["part"] = inner
        epic.tools.add("part")

    def waits(self, epic, dice):
        """Times that pass in the Manager alone, beside work."""
        tasks = epic.document["tasks"]
        tasks["work"] = {"run": self._run(dice.randint(0, 6))}
        tasks["pause"] = {"needs": ["work"], "wait": f"{dice.randint(50, 3000)}ms"}
        tasks["beside"] = {"run": self._run(dice.randint(2, 12))}
        tasks["last"] = {"needs": ["pause", "beside"], "run": self._run(0)}
        epic.tools.add("pause")
