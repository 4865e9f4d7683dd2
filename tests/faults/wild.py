"""wild.py MARK FILE: a task that does everything a process can do to survive its task. For tests of the guard.

Every process that it makes has MARK.<attempt> in its arguments. When all are there, FILE gets a line with their number, and the first
attempt goes on for ever; a later attempt ends well at once.
"""
import os
import signal
import sys
import time

KINDS = ["background", "session", "twice", "deaf", "stopped", "bare", "hopping"]


def forever():
    while True:
        time.sleep(60)


def again(mark, *arguments, env=None):
    """Becomes this program again, with the mark in its arguments."""
    os.execve(sys.executable, [sys.executable, os.path.abspath(__file__), "--be", mark, *arguments], os.environ if env is None else env)


def be(mark, kind):
    if kind == "deaf":
        for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(sign, signal.SIG_IGN)
    if kind == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    while kind == "hopping":
        # A new process every tenth of a second, the old one gone: never where it was seen last.
        time.sleep(0.1)
        if os.fork() != 0:
            os._exit(0)
        os.setsid()
    forever()


def birth(mark, kind):
    if os.fork() != 0:
        return
    if kind == "session":
        os.setsid()
    if kind in ("twice", "hopping"):
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os.closerange(0, 100)
        for _ in range(3):
            os.open("/dev/null", os.O_RDWR)
    again(mark, kind, env={} if kind == "bare" else None)


def main():
    if sys.argv[1] == "--be":
        be(*sys.argv[2:4])
    attempt = int(os.environ["AMPHI_ATTEMPT"])
    mark, file = f"{sys.argv[1]}.{attempt}.", sys.argv[2]
    if attempt > 1:
        return
    for kind in KINDS:
        birth(mark, kind)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # All have become themselves when they show their arguments.
    wanted = f"--be\0{mark}\0".encode()
    while sum(wanted in _arguments(pid) for pid in os.listdir("/proc") if pid.isdigit()) < len(KINDS):
        time.sleep(0.02)
    with open(file, "a", encoding="ascii") as out:
        out.write(f"{os.getpid()} {len(KINDS)}\n")
    forever()


def _arguments(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


main()
