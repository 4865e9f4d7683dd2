"""A real `amphi up` under a harness: started, killed, started again, ended; and what runs of it, read from /proc.

It knows nothing of epics. Processes are found by the ready file, and below `up` in /proc while there is no ready file yet. Everything
that it signals is a descendant of an `up` that it started itself.
"""
import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILLED = -signal.SIGKILL


class ClusterError(Exception):
    """The cluster did something that no fault explains."""


def program():
    """The binary under test: `AMPHI_BIN`, or what cargo built last in this checkout."""
    chosen = os.environ.get("AMPHI_BIN") or str(ROOT / "target/debug/amphi")
    if not os.access(chosen, os.X_OK):
        raise SystemExit(f"there is no {chosen}: build it (`cargo build --bins`) or set AMPHI_BIN")
    return chosen


def environment(**more):
    """Ours, with the project's nats-server first, and without what would point at another cluster."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("AMPHI_") or k == "AMPHI_UPKEEP"} | more
    env["PATH"] = f"{ROOT / '.tools/bin'}:{env.get('PATH', '')}"
    return env


def stat(pid):
    """(state, parent, start time) of a process, or None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[0], int(fields[1]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def alive(pid):
    """Whether it runs; a zombie does not."""
    now = stat(pid)
    return now is not None and now[0] not in "ZX"


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def processes():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children(pid):
    """Living children of a process."""
    found = []
    for other in processes():
        now = stat(other)
        if now and now[1] == pid and now[0] not in "ZX":
            found.append(other)
    return found


def marked(marker):
    """Living processes with `marker` in their arguments or environment, ourselves excluded."""
    wanted, found = marker.encode(), []
    for pid in processes():
        if pid == os.getpid() or not alive(pid):
            continue
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes() + b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted in text:
            found.append(pid)
    return found


async def until(what, condition, within, every=0.1):
    """The first true value of `condition()`; a ClusterError that names `what` after `within` seconds."""
    end = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not within {within} s")
        await asyncio.sleep(every)


class Cluster:
    """One data folder and the `up` that runs on it now."""

    def __init__(self, folder, *options, faults=False, env=None, binary=None):
        self.folder = Path(folder)
        self.data = self.folder / "data"
        self.ready_file = self.folder / "ready.json"
        self.log = self.folder / "up.log"
        self.options = options
        self.env = (env or {}) | ({"AMPHI_FAULTS": "1"} if faults else {})  # with the tools `hang` and `panic`
        self.binary = binary  # another build than the one under test
        self.up = None

    def start(self):
        """Starts `up`, without waiting for it."""
        arguments = [self.binary or program(), "up", "--data", str(self.data), "--ready-file", str(self.ready_file), *self.options]
        with open(self.log, "ab") as log:
            self.up = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                env=environment(**self.env),
            )
        return self.up.pid

    def ready(self):
        """What the ready file says, if every process in it runs; else None."""
        try:
            ready = json.loads(self.ready_file.read_text())
        except (OSError, ValueError):
            return None
        # A server that is not ours has no pid.
        pids = [*([ready["nats_pid"]] if "--nats" not in self.options else []), *(node["pid"] for node in ready["nodes"])]
        here = self.up and self.up.poll() is None
        return ready if here and all(pid and (stat(pid) or (0, 0))[1] == self.up.pid and alive(pid) for pid in pids) else None

    async def until_ready(self, within=60):
        return await until("`up` is ready", self.ready, within)

    def url(self):
        """Where the clients go; also while something is down, as address and password stay."""
        try:
            return json.loads(self.ready_file.read_text())["nats"]
        except (OSError, ValueError, KeyError):
            return None

    def pids(self, what):
        """The processes of a kind, now: `up`, `node` or `nats`. During a start there may be none."""
        if self.up is None or self.up.poll() is not None:
            return []
        if what == "up":
            return [self.up.pid]
        mark = " node --spec" if what == "node" else "nats-server"
        return [pid for pid in children(self.up.pid) if mark in command_line(pid)]

    def kill(self, what, sign=signal.SIGKILL, dice=None):
        """Signals one of them, any one with `dice`; its pid, or None if none ran."""
        pids = self.pids(what)
        for pid in dice.sample(pids, len(pids)) if dice else pids:
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                continue
            return pid
        return None

    async def ended(self, within=60):
        """The exit code of `up`."""
        await until("`up` ends", lambda: self.up.poll() is not None, within)
        return self.up.returncode

    async def stop(self, within=60):
        """TERM, as a person would; its exit code."""
        if self.up is None or self.up.poll() is not None:
            return self.up.returncode if self.up else None
        self.up.terminate()
        try:
            return await self.ended(within)
        except ClusterError:
            self.up.kill()
            self.up.wait()
            raise

    def cli(self, *arguments, timeout=120):
        """Runs `amphi …` against this cluster: (exit code, stdout, stderr)."""
        done = subprocess.run(
            [program(), "--nats", self.url(), *arguments], capture_output=True, text=True, env=environment(), timeout=timeout, check=False
        )
        return done.returncode, done.stdout, done.stderr
