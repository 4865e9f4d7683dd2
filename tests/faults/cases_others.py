"""What the catalogue has beside processes, links and disks: hostile input, clocks, order and repetition; and what comes with later issues.

Cases that the end-to-end tests or the simulation hold are run from here, so that the catalogue is whole.
"""
import asyncio
import re
from pathlib import Path

from cluster import ROOT
from cases_managers import program
from machine import Case, later
from stage import need

E2E = ROOT / "tests/e2e"


def e2e(number, name, laws, file, *tests, **how):
    async def play(_folder):
        return await program(E2E / f"test_{file}.py", *tests)

    play.__name__ = f"{file}_{number}"
    return Case(number, name, laws, play, **how)


async def simulated(seeds="0..400"):
    """The simulation, with its counters: what was injected how often."""
    from cluster import program as amphi

    binary = Path(amphi()).with_name("simulate")
    need(binary.exists(), f"there is no {binary}: `cargo build --workspace --bins`")
    done = await asyncio.create_subprocess_exec(str(binary), "--seeds", seeds, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    text = (await done.communicate())[0].decode(errors="replace")
    # So few seeds need not reach every counter, which is what else it would end with 1 for.
    need(", 0 violations" in text, f"the simulation found something:\n{text[-1500:]}")
    return text


async def ten_thousand_live(_folder):
    """The leader of a cluster with thousands of live tasks is killed; how long until it accepts again."""
    from cases_managers import HERE

    return await program(HERE / "recovery.py", "--epics", 40)


async def more_order(_folder):
    """Other seeds of the same."""
    text = await simulated("400..800")
    return " ".join(re.sub(r"\s+", " ", line) for line in text.splitlines()[-1:])


async def order_and_repetition(_folder):
    """Messages doubled, late and out of order, answers lost, clocks that jump, at every step of the pure core."""
    text = await simulated()
    return " ".join(re.sub(r"\s+", " ", line) for line in text.splitlines()[-1:])


MODELS = "comes with the issue of models and agents that think"
SANDBOX = "comes with the issue of the sandbox"
WEB = "comes with the issue of HTTP, webhooks and the dashboard"

CASES = [
    Case("33", "every message three times, reordered, late (simulation)", ("S3", "S5", "S13"), order_and_repetition),
    Case("34", "result before start, cancel before assign, a late heartbeat (simulation)", ("S4", "S5", "S13"), more_order),
    e2e("35", "payloads over the limits", ("L8",), "bad_input", "payload_over", "documents_that_are_too_much"),
    e2e("36", "random bytes, bad UTF-8, deep JSON on every subject", ("S13",), "bad_input", "garbage", "malformed_documents", "alias_bombs"),
    e2e("37", "CR, LF and NUL in what reaches headers", ("S13",), "bad_input", "header"),
    e2e("38", "ids with characters of paths and subjects", ("S17",), "bad_input", "ids_with_characters", "unknown_names"),
    e2e("40", "a command of a former life or term is sent again", ("S2", "S13"), "identity", "former_life"),
    e2e("41", "cycles, unknown needs", ("S18",), "bad_input", "cycles", "wrong_shapes"),
    e2e("42", "a ring of owners, inside and outside of epics", ("S18",), "outside_locks", "ring_of_owners"),
    e2e("43", "readers against a writer, locks in the order of arrival", ("S7", "S11", "L5"), "order", "lock_queue", "readers_share", "writers_of_one"),
    e2e("44b", "a lock is free in the commit that ends its holder", ("S10",), "order", "locks_of_an_ended"),
    e2e("46", "tasks for agents that are held; the last agent of a role is quarantined", ("L3",), "scheduling", "agent_that_is_drained", "drained_agent"),
    e2e("47", "a document of 100,000 tasks", ("L8",), "bad_input", "100_000"),
    Case("48", "kill -9 of the leader with 4,000 live tasks", ("S1", "L1"), ten_thousand_live, alone=True),
    e2e("53c", "a crash loop ends in quarantine, the agents beside it work on", ("L7",), "supervision", "crash_loop", "beside_a_panic"),
    e2e("55", "a node that poses as another, an outsider as a node", ("S15",), "identity"),
    e2e("57b", "effects outside happen once per key, whatever dies in between", ("S9",), "effects"),
    e2e("62", "a node that is shut out in the middle of its task", ("S15", "S12"), "identity", "shut_out"),
    later("52", "fork bomb, memory hog, 10 GB of output", ("L8",), SANDBOX),
    later("56", "an epic that wants out of its workspace", ("S17",), SANDBOX),
    later("57", "a task that looks for secrets", ("S16",), SANDBOX),
    later("58", "exfiltration by TCP, DNS and sockets", ("S16",), SANDBOX),
    later("59", "webhooks forged, late, twice, endless", ("S13",), WEB),
    later("60", "a README that gives orders to a model", ("S19",), MODELS),
    later("61", "a slow or dead dashboard", ("L8",), WEB),
    later("63", "a machine without bubblewrap or Landlock", ("S17",), SANDBOX),
    later("64", "a model that calls itself for ever", ("S19",), MODELS),
]
