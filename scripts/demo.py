"""The demo: builds, tests and releases the sample application with a kill -9 of the node while tests run, then checks everything.

Run it by `make demo`. It ends whatever it started; `--keep` leaves its folder (data, logs, the released archive).
"""
import argparse
import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/faults"))
from cluster import Cluster, ClusterError, alive, environment, marked, program, until  # noqa: E402

# Enough random texts that the kill falls into the tests on a fast machine too.
ROUNDS = 500_000
VERSION = (ROOT / "examples/tally/VERSION").read_text().strip()
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def title(text):
    print(f"\n\033[1m== {text}\033[0m" if COLOUR else f"\n== {text}", flush=True)


def say(text):
    print(f"   {text}", flush=True)


class Demo:
    def __init__(self, folder):
        self.folder = folder
        self.cluster = Cluster(folder)
        self.starts = folder / "starts"
        self.epic = None
        self.killed = []  # (task, run, attempt, pid) that were running at the kill
        self.checks = []

    def check(self, what, holds, found=""):
        self.checks.append(holds)
        print(f"   {'ok  ' if holds else 'FAIL'} {what}{f': {found}' if found else ''}", flush=True)

    def show(self, *arguments):
        """Runs a command and shows what it prints, as a person would see it."""
        print(f"\n   $ amphi {' '.join(arguments)}", flush=True)
        code, out, err = self.cluster.cli(*arguments)
        print("".join(f"     {line}\n" for line in (out + err).splitlines()), end="", flush=True)
        return code

    def json(self, *arguments):
        code, out, err = self.cluster.cli(*arguments, "--json")
        if code not in (0, 1):
            raise ClusterError(f"amphi {' '.join(arguments)} ended with {code}: {err.strip()}")
        return [json.loads(line) for line in out.splitlines()]

    def started(self):
        """(task, run, attempt, pid) of every start so far, from the tasks' own file."""
        lines = self.starts.read_text().splitlines() if self.starts.exists() else []
        return [(w[0], int(w[1]), int(w[2]), int(w[3])) for w in (line.split(" ") for line in lines) if len(w) == 4]

    async def run(self):
        title("A cluster on this machine: one node, its own nats-server")
        for part in ("tally", "demo"):
            shutil.copytree(ROOT / "examples" / part, self.folder / part)
        began = time.monotonic()
        self.cluster.start()
        ready = await self.cluster.until_ready()
        say(f"`amphi up` was ready after {time.monotonic() - began:.1f} s: node {ready['nodes'][0]['pid']}, nats-server {ready['nats_pid']}")

        title(f"The epic: check, build, test, package and release tally {VERSION} (a small C program)")
        file = self.folder / "demo/release.epic.yaml"
        self.show("epic", "plan", str(file))
        inputs = ["-i", f"version={VERSION}", "-i", f"rounds={ROUNDS}", "-i", f"starts={self.starts}"]
        self.epic = self.json("run", str(file), "--detach", *inputs)[0]["epic"]
        say(f"accepted as {self.epic}: from here on it has to end, whatever dies")

        await self.kill_the_node()
        await self.follow()
        self.judge()
        await self.end()
        return all(self.checks)

    async def kill_the_node(self):
        """In the middle: when the unit tests run."""

        def testing():
            return [start for start in self.started() if start[0].startswith("unit[") and alive(start[3])]

        await until("the unit tests run", lambda: len(testing()) >= 2, 60, 0.02)
        await asyncio.sleep(0.2)
        title("kill -9 of the node, in the middle of the tests")
        node = self.cluster.ready()["nodes"][0]["pid"]
        self.killed = [start for start in self.started() if alive(start[3])]
        self.cluster.kill("node")
        began = time.monotonic()
        say(f"killed pid {node}; running were {', '.join(f'{task} (pid {pid})' for task, _, _, pid in self.killed) or 'none'}")
        await until("its tasks are dead", lambda: not any(alive(pid) for *_, pid in self.killed), 15, 0.02)
        say(f"their guards ended all of them within {time.monotonic() - began:.1f} s")
        await until("another node process", lambda: self.cluster.pids("node") not in ([], [node]), 30, 0.02)
        ready = await self.cluster.until_ready()
        pid = ready["nodes"][0]["pid"]
        self.check("tasks were running at the kill", bool(self.killed), str(len(self.killed)))
        await until("the epic can be read again", lambda: self.cluster.cli("epic", "show", self.epic)[0] == 0, 30)
        say(f"node pid {pid} was started by `up`, replayed the journal and leads again after {time.monotonic() - began:.1f} s")
        self.show("tree")
        self.show("epic", "show", self.epic)

    async def follow(self):
        title("Back at work: what happens from here to the end")
        print(f"\n   $ amphi epic watch {self.epic}", flush=True)
        watch = await asyncio.create_subprocess_exec(
            program(), "--nats", self.cluster.url(), "epic", "watch", self.epic, env=environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

        async def lines():
            async for line in watch.stdout:
                print(f"     {line.decode(errors='replace').rstrip()}", flush=True)
            return await watch.wait()

        try:
            code = await asyncio.wait_for(lines(), 120)
        except asyncio.TimeoutError:
            watch.kill()
            raise ClusterError(f"{self.epic} did not end within 120 s") from None
        self.check("`epic watch` ends with 0", code == 0, f"exit {code}" if code else "")

    def judge(self):
        title("The laws, by a checker that shares only the record types with what it checks")
        verified = self.show("epic", "verify", self.epic)
        title("What holds at the end")
        epic, events = self.json("epic", "show", self.epic)[0], self.json("epic", "events", self.epic)
        tasks = {task["task"]: task for task in epic["tasks"]}
        self.check("the epic succeeded", epic["state"] == "succeeded", epic["state"])
        self.check("every run succeeded", all(t["state"] == "succeeded" for t in tasks.values()), f"{len(tasks)} runs")
        self.check("`epic verify` finds no violation", verified == 0)
        self.judge_starts(events)
        self.judge_artifact(tasks, events)

    def judge_starts(self, events):
        """The tasks' own file against the journal."""

        def key(event):
            return event["task"], event["run"], event["attempt"]

        assigned = {key(event) for event in events if event["type"] == "task.assigned"}
        finished = {key(event) for event in events if event["type"] == "task.succeeded"}
        lost = {key(event) for event in events if event["type"] == "task.retrying" and event["data"]["cause"] == "agent_lost"}
        starts = [start[:3] for start in self.started()]
        self.check("every start in the tasks' own file is an attempt of the journal", set(starts) <= assigned, f"{len(starts)} starts")
        self.check("no attempt was started twice", len(starts) == len(set(starts)))
        self.check("every attempt that succeeded was started", finished <= set(starts), f"{len(finished)} attempts")
        self.check("what the kill hit was lost and tried again", {start[:3] for start in self.killed} <= lost | finished, f"{len(lost)} attempts")
        again = [(t, r, a) for t, r, a in starts if any(f[:2] == (t, r) and a > f[2] for f in finished)]
        self.check("nothing that was finished ran again", not again, str(again or ""))

    def judge_artifact(self, tasks, events):
        """The released archive is the one that was packaged, and what is in it works."""
        told = tasks["package"]["outputs"]
        archive = self.folder / "tally/release" / told["archive"]
        digest = hashlib.sha256(archive.read_bytes()).hexdigest() if archive.exists() else "missing"
        kept = [a for e in events if e["type"] == "task.succeeded" and e["task"] == "package" for a in e["data"]["artifacts"]]
        self.check("the released archive has the announced checksum", digest == told["sha256"], digest[:16])
        self.check("the kept artifact is the same", [a["sha256"] for a in kept] == [digest], str([a["path"] for a in kept]))
        log = (self.folder / "tally/release/log").read_text().splitlines()
        self.check("it was released once", len(log) == 1, str(len(log)))
        with tarfile.open(archive) as packed:
            packed.extractall(self.folder / "installed")
        installed = self.folder / f"installed/tally-{VERSION}"
        says = subprocess.run([installed / "bin/tally", "--version"], capture_output=True, text=True, check=False).stdout.strip()
        self.check("the program in it runs", says == f"tally {VERSION}", says)

    async def end(self):
        title("The end")
        code = await self.cluster.stop()
        self.check("`amphi up` ends with 0 on TERM", code == 0, f"exit {code}" if code else "")
        try:
            await until("everything has ended", lambda: not marked(str(self.folder)), 15)
        except ClusterError:
            pass
        left = marked(str(self.folder))
        self.check("nothing that was started runs any more", not left, str(left or ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep data, logs and the released archive")
    options = parser.parse_args()
    folder, began = Path(tempfile.mkdtemp(prefix="amphi-demo-")), time.monotonic()
    demo, good = Demo(folder), False
    try:
        good = asyncio.run(demo.run())
    except ClusterError as error:
        print(f"   FAIL {error}", flush=True)
    finally:
        if demo.cluster.up is not None and demo.cluster.up.poll() is None:
            demo.cluster.up.kill()
            demo.cluster.up.wait()
    held = sum(demo.checks)
    print(f"\n{'everything holds' if good else 'NOT everything holds'}: {held} of {len(demo.checks)} checks, {time.monotonic() - began:.0f} s")
    if good and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"kept: {folder}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
