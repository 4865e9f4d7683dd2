"""Faults of disks: full, slow, without power. The store of NATS lies on an ext4 file system in a file, mounted for the case alone."""
import fcntl
import os
import signal
import struct
import subprocess
import time

from cluster import Cluster
from fleet import FleetStage
from loaded import LoadedStage
from machine import BLKIO, Case
from servers import Server
from stage import Stage, need

EXT4_IOC_SHUTDOWN = 0x8004587D
# The journal of the file system is not written out either: what the disk has now is all there is.
NOLOGFLUSH = 2


def sh(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"`{' '.join(map(str, command))}`: {done.stderr.strip()}")
    return done.stdout


class Disk:
    """An ext4 file system in a file."""

    def __init__(self, folder, megabytes):
        self.image, self.at = folder / "disk.img", folder / "disk"
        self.at.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(megabytes << 20)
        # Nothing is kept back for root, who we are.
        sh("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(self.image))
        self.mounted = False
        self.mount()

    def mount(self):
        sh("mount", "-o", "loop", str(self.image), str(self.at))
        self.mounted = True

    def device(self):
        """MAJOR:MINOR of the loop device."""
        device = os.stat(self.at).st_dev
        return f"{os.major(device)}:{os.minor(device)}"

    def cut_power(self):
        handle = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(handle)

    def unmount(self):
        for _ in range(50):
            if not self.mounted:
                return
            done = subprocess.run(["umount", str(self.at)], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                self.mounted = False
            else:
                time.sleep(0.2)
        subprocess.run(["umount", "-l", str(self.at)], check=False)

    def fill(self):
        """A hog takes all the space that is left."""
        hog = self.at / "hog"
        with open(hog, "wb", buffering=0) as file:
            # Taken without being written, so that it takes no time and no room outside.
            piece, taken = 1 << 28, 0
            while piece >= 1 << 20:
                try:
                    os.posix_fallocate(file.fileno(), taken, piece)
                    taken += piece
                except OSError:
                    piece //= 2
            file.seek(taken)
            piece = b"\0" * (1 << 20)
            while piece:
                try:
                    while True:
                        file.write(piece)
                except OSError:
                    piece = piece[: len(piece) // 2]
        return hog


class OwnDisk(LoadedStage):
    """A fleet under load whose NATS store is on a disk of its own."""

    # The output stream reserves a gigabyte; the image has holes, so it takes only what is written.
    SIZE = 3000

    def __init__(self, folder):
        self.disk = Disk(folder, self.SIZE)
        super().__init__(folder, store=self.disk.at / "store", load=3)

    async def fall(self):
        try:
            await super().fall()
        finally:
            self.disk.unmount()


async def power_cut(stage, times=2):
    """The disk of NATS loses power under load, all servers die with it; what was acknowledged is there afterwards."""
    for _ in range(times):
        await stage.more(6)
        stage.fleet.keeping = False
        acknowledged = set(stage.trial.epics)
        stage.disk.cut_power()
        stage.fleet.server.kill()
        for pid in [pid for up in stage.fleet.ups for pid in [*up.pids("node"), *up.pids("up")]]:
            os.kill(pid, signal.SIGKILL)
        acknowledged |= set(stage.trial.epics)
        stage.disk.unmount()
        stage.disk.mount()
        stage.fleet.keeping = True
        await stage.more(2)
        listed = {row["epic"] for row in await stage.client.all("epic.list", "epics", {"limit": 500})}
        need(acknowledged <= listed, f"acknowledged before the power cut and gone: {sorted(acknowledged - listed)}")
    stage.said = f"{times} power cuts"


class ManagedDisk(Stage):
    """An `amphi up` with its own server whose data folder is on a small disk; the epics' ledger is not."""

    def __init__(self, folder):
        self.disk = Disk(folder, OwnDisk.SIZE)
        super().__init__(folder, Cluster(folder, "--nodes", "2", "--capacity", "4"))
        self.cluster.data = self.disk.at / "data"

    async def fall(self):
        try:
            await super().fall()
        finally:
            self.disk.unmount()


async def disk_full(stage):
    """The disk runs full under submissions, stays so, then has space again: no false `accepted`, `up` starts the server again, work resumes."""
    await stage.ends(await stage.submit({"a": {"run": stage.run(0)}}))
    hog = stage.disk.fill()
    refused, before = 0, len(stage.epics)
    # Documents large enough that they cannot slip into what the store has reserved.
    pad = {f"pad{n}": {"type": "string", "default": "x" * 60_000} for n in range(10)}
    for _ in range(6):
        document = {"version": 1, "name": "full", "inputs": pad, "tasks": {"a": {"run": stage.run(0)}}}
        try:
            answer = await stage.client.once("epic.submit", {"document": document}, timeout=4)
            stage.epics[answer["epic"]] = plan(stage, document)
        except Exception:  # refused, unanswered, or nobody there: each says that nothing was accepted
            refused += 1
    accepted_full = len(stage.epics) - before
    need(refused > 0, "a full disk refused nothing")
    hog.unlink()
    began = time.monotonic()
    epic = await stage.submit({"a": {"run": stage.run(0)}})
    took = time.monotonic() - began
    await stage.ends(epic)
    stage.said = f"{refused} refused and {accepted_full} accepted while full, accepted again {took:.1f} s after there was space"


def plan(stage, document):
    from stage import plan_of

    return plan_of("full", document)


async def slow_disk(stage):
    """Each write of the store's disk takes its time (a handful a second): work goes on slowly, and nobody is deposed again and again."""
    group = BLKIO / f"amphi-faults-{os.getpid()}"
    group.mkdir(exist_ok=True)
    before = len(stage.elections.elected)
    try:
        (group / "blkio.throttle.write_iops_device").write_text(f"{stage.disk.device()} 20")
        (group / "cgroup.procs").write_text(str(stage.fleet.server.pid))
        began = time.monotonic()
        await stage.more(4, 180)
        while time.monotonic() < began + 20:
            await stage.more(1, 180)
    finally:
        try:
            (BLKIO / "cgroup.procs").write_text(str(stage.fleet.server.pid))
        except (OSError, TypeError):
            pass
        for _ in range(50):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)
    elected = len(stage.elections.elected) - before
    need(elected <= 3, f"{elected} elections on a slow disk")
    stage.said = f"20 writes a second, {elected} elections"


# What an operator adds so that the cluster may ask its server how it writes.
ASKABLE = """accounts {
  SYS: { users: [{user: sys, password: sys}], exports: [{service: "$SYS.REQ.SERVER.PING.VARZ", response_type: stream}] }
  TEAM: { jetstream: enabled, users: [{user: core, password: core}], imports: [{service: {account: SYS, subject: "$SYS.REQ.SERVER.PING.VARZ"}}] }
}
system_account: SYS
"""


async def foreign_servers(folder):
    """`durability: power` takes a foreign server only if it says that it syncs each write, or if the operator vouches for it."""
    said = []
    for name, sync, extra, env, wanted in (
        ("silent", "always", "", {}, 2),
        ("later", '"2m"', ASKABLE, {}, 2),
        ("always", "always", ASKABLE, {}, 0),
        ("vouched", '"2m"', "", {"AMPHI_CLUSTER_DURABILITY_CONFIRMED": "true"}, 0),
        ("process", '"2m"', "", {"AMPHI_CLUSTER_DURABILITY": "process"}, 0),
    ):
        server = Server(folder, name, sync, extra=extra)
        server.start()
        await server.until_healthy()
        url = server.url.replace("//", "//core:core@") if extra else server.url
        (folder / f"up-{name}").mkdir()
        up = Cluster(folder / f"up-{name}", "--nats", url, env=env)
        try:
            up.start()
            if wanted == 0:
                await up.until_ready(60)
                need(await up.stop() == 0, f"{name}: it did not end well")
            else:
                code = await up.ended(30)
                need(code == wanted, f"{name}: `up` ended with {code}, expected {wanted}: {up.log.read_text()[-400:]}")
                need("durability_confirmed" in up.log.read_text(), f"{name}: it does not say what to do: {up.log.read_text()[-400:]}")
            said.append(f"{name} {'taken' if wanted == 0 else 'refused'}")
        finally:
            if up.up.poll() is None:
                await up.stop()
            server.kill()
    return ", ".join(said)


class NodeDisk(FleetStage):
    """A fleet in which one `up` without a seat has its data on a small disk."""

    def __init__(self, folder):
        self.disk = Disk(folder, 48)
        super().__init__(folder, [{"options": ["--capacity", 4]}, {"options": ["--no-manager", "--capacity", 8]}])

    async def rise(self):
        (self.folder / "up1").mkdir()
        (self.folder / "up1" / "data").symlink_to(self.disk.at)
        await super().rise()

    async def fall(self):
        try:
            await super().fall()
        finally:
            self.disk.unmount()


async def node_disk_full(stage):
    """The disk of one node is full: its attempts fail there and succeed elsewhere; nothing hangs."""
    hog = stage.disk.fill()
    tasks = {"w": {"matrix": {"i": "1..12"}, "run": stage.run(2), "retry": {"attempts": 30, "backoff": "200ms", "max": "1s"}}}
    epic = await stage.submit(tasks)
    await stage.ends(epic, within=180)
    causes = {e["data"].get("cause") for e in await stage.events(epic, "task.retrying")}
    hog.unlink()
    stage.said = f"causes of retries: {sorted(map(str, causes))}"
    epic = await stage.submit(tasks)
    await stage.ends(epic, within=180)


CASES = [
    Case("22", "power cut of the disk of NATS, everything killed", ("S1", "S13", "L2"), power_cut, OwnDisk, needs=("root", "loop"), alone=True),
    Case("22b", "`durability: power` on a server that does not sync, or does not say so", ("S1",), foreign_servers, quick=True),
    Case("27", "the disk of NATS full, then with space again", ("S1", "S13", "L2", "L8"), disk_full, ManagedDisk, needs=("root", "loop"), quick=True),
    Case("28", "the disk of a node full", ("S4", "L2", "L8"), node_disk_full, NodeDisk, needs=("root", "loop")),
    Case("29", "a slow disk under NATS", ("S2", "L2"), slow_disk, OwnDisk, needs=("root", "loop", "blkio"), alone=True),
]
