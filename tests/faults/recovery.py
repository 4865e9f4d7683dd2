"""How long a cluster is without a Manager when the node that leads is killed with 10,000 live tasks on its hands.

100 epics of 100 tasks that sleep; kill -9 of the leading node; then the time until a submission is accepted again, and of that the time in
which the state was rebuilt from the store, as the node's own log says. `--limit-ms` fails above a time of rebuilding. Not a part of the
tests: no test depends on how fast it runs.
"""
import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "e2e"))
import harness  # noqa: E402

REBUILT = re.compile(r"the state is rebuilt.*?\bms=(\d+)")
TASKS = {"nap": {"matrix": {"i": "1..100"}, "run": "sleep 600", "retry": 5}}


def plain(text):
    """A log without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


async def measured(cluster, epics):
    for _ in range(epics):
        await cluster.submit(TASKS)
    nodes = (await cluster.api("node.list"))["nodes"]
    leader = next(node for node in nodes if node["leads"])
    log = os.path.join(cluster.up.data, leader["id"], "log")

    def rebuilt():
        with open(log, encoding="utf-8", errors="replace") as file:
            return REBUILT.findall(plain(file.read()))

    before = len(rebuilt())
    killed = time.monotonic()
    os.kill(leader["pid"], signal.SIGKILL)
    after = {"document": {"version": 1, "name": "after", "tasks": {"a": {"run": "true"}}}, "id": "after"}

    async def accepted():
        try:
            await cluster.api("epic.submit", after, deadline=1)
        except (AssertionError, harness.Refused, harness.nats.errors.NoRespondersError):
            return None
        return time.monotonic() - killed

    accepted = await harness.within(accepted, "a submission is accepted again")
    view = await cluster.api("epic.list", {"limit": 1000})
    live = sum(epic["counts"].get(state, 0) for epic in view["epics"] for state in epic["counts"] if state not in harness.ENDED)
    times = await harness.within(lambda: (found := rebuilt()) and len(found) > before and found, "the log tells of the start")
    return live, int(times[-1]), accepted


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epics", type=int, default=100)
    parser.add_argument("--limit-ms", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="amphi-recovery-") as folder:
        cluster = harness.Cluster(folder, ["--nodes", "1", "--capacity", "4"])
        try:
            await cluster.start()
            live, rebuilt, accepted = await measured(cluster, options.epics)
        finally:
            cluster.up.process.send_signal(signal.SIGTERM)
            cluster.up.process.send_signal(signal.SIGTERM)
            cluster.up.process.wait()
    print(f"live tasks                        {live}")
    print(f"state rebuilt from the store      {rebuilt} ms")
    print(f"kill to the next accepted submit  {accepted * 1000:.0f} ms, the 1 s included after which `up` starts a dead node again")
    if options.limit_ms is not None and rebuilt >= options.limit_ms:
        print(f"the state took {rebuilt} ms, wanted less than {options.limit_ms}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
