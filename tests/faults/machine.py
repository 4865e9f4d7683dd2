"""What a case is, and what it needs of the machine: asked for once, answered with the reason if it is missing."""
import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

BLKIO = Path("/sys/fs/cgroup/blkio")


@dataclass
class Case:
    """One fault of the catalogue. `play` takes a stage, or the case's folder if there is none."""

    number: str
    name: str
    laws: tuple
    play: Callable
    stage: Callable = None
    needs: tuple = ()
    quick: bool = False
    alone: bool = False
    settles: bool = True  # the laws are checked at the end, from outside
    later: str = None  # why it cannot be tried yet


async def nothing(_folder):
    """The play of a case whose capability is still to come."""


def later(number, name, laws, why):
    return Case(number, name, laws, nothing, later=why)


def works(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"`{' '.join(command)}` fails: {done.stderr.strip()[:120]}"


@functools.cache
def lacks(what):
    """None if it is there; else the reason."""
    if what == "root":
        return None if os.geteuid() == 0 else "needs root"
    if what == "loop":
        return lacks("root") or _loop()
    if what == "netns":
        return lacks("root") or _netns()
    if what == "blkio":
        if lacks("loop"):
            return lacks("loop")
        return None if (BLKIO / "blkio.throttle.write_iops_device").exists() else "there is no cgroup v1 blkio controller to slow a disk with"
    if what == "cc":
        return None if shutil.which("cc") or shutil.which("gcc") else "needs a C compiler for the clock that is preloaded"
    if what == "old":
        old = os.environ.get("AMPHI_OLD_BIN")
        return None if old and os.access(old, os.X_OK) else "AMPHI_OLD_BIN names no older build to run beside this one"
    raise ValueError(what)


def missing(needs):
    return next((reason for reason in map(lacks, needs) if reason), None)


def _loop():
    if not shutil.which("mkfs.ext4"):
        return "there is no mkfs.ext4"
    with tempfile.TemporaryDirectory(prefix="amphi-loop-") as folder:
        image, at = Path(folder, "image"), Path(folder, "mount")
        at.mkdir()
        with open(image, "wb") as file:
            file.truncate(8 << 20)
        problem = works("mkfs.ext4", "-q", str(image)) or works("mount", "-o", "loop", str(image), str(at))
        return problem or works("umount", str(at))


def _netns():
    name = f"amphi-try-{os.getpid()}"
    return works("ip", "netns", "add", name) or works("ip", "netns", "del", name)
