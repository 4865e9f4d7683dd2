"""nats-servers of the harness: one that stands alone, or a cluster of three; started, killed, stopped for a while, ended.

Every process is a child of ours, is signalled by its own pid, and dies with us.
"""
import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from cluster import ROOT, ClusterError

PR_SET_PDEATHSIG = 1


def with_us():
    """In the child: dies when we die, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def program():
    found = ROOT / ".tools/bin/nats-server"
    found = str(found) if found.exists() else shutil.which("nats-server")
    if not found:
        raise SystemExit("there is no nats-server: `make setup` fetches it")
    return found


def free_ports(count):
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Server:
    """One nats-server with JetStream."""

    def __init__(self, folder, name="alone", sync="always", store=None, routes=None, route_port=None, ports=None, extra=""):
        self.folder, self.name = Path(folder), name
        self.port, self.monitor = ports or free_ports(2)
        self.store = Path(store) if store else self.folder / f"{name}-store"
        self.log = self.folder / f"{name}.log"
        self.config = self.folder / f"{name}.conf"
        self.process, self.stopped = None, False
        # A server that stands alone takes submissions of any size that interface.md allows.
        text = f'server_name: "{name}"\nlisten: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{self.monitor}"\nmax_payload: 8MB\nmax_pending: 64MB\n'
        text += f'jetstream {{ store_dir: "{self.store}", sync_interval: {sync}, limits {{ default_max_consumers: 10000, max_ack_pending: 10000 }} }}\n'
        if routes is not None:
            listed = ", ".join(f'"nats://{route}"' for route in routes)
            text += f'cluster {{ name: "faults", listen: "127.0.0.1:{route_port}", no_advertise: true, routes: [{listed}] }}\n'
        self.config.write_text(text + extra)

    @property
    def url(self):
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.process.pid if self.alive() else None

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def start(self):
        self.process = subprocess.Popen(
            [program(), "-c", str(self.config), "-l", str(self.log)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=with_us,
        )
        self.stopped = False

    def healthy(self):
        """Whether it says that it may be used."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/healthz", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    async def until_healthy(self, within=60):
        end = time.monotonic() + within
        while not await asyncio.to_thread(self.healthy):
            if time.monotonic() > end:
                raise ClusterError(f"{self.name} is not healthy after {within} s; see {self.log}")
            await asyncio.sleep(0.1)

    def signal(self, sign):
        if self.alive():
            os.kill(self.process.pid, sign)
            self.stopped = sign == signal.SIGSTOP or (self.stopped and sign != signal.SIGCONT)

    def kill(self):
        """kill -9, and it is gone when this returns."""
        if self.alive():
            if self.stopped:
                self.signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def stop(self):
        """TERM, and KILL after a while."""
        if not self.alive():
            return
        self.signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


class Trio:
    """Three servers that are one cluster; what each calls another by is a link of `links`, if there are some."""

    def __init__(self, folder, links=None, sync="always"):
        self.folder, self.links, self.sync = Path(folder), links, sync
        self.servers = []

    async def start(self):
        routes = free_ports(3)
        for number in range(3):
            far = []
            for other in range(3):
                if other == number:
                    continue
                port = routes[other]
                if self.links is not None:
                    port = await self.links.add(f"route-{number}-{other}", "127.0.0.1", port)
                far.append(f"127.0.0.1:{port}")
            self.servers.append(Server(self.folder, f"s{number}", self.sync, routes=far, route_port=routes[number]))
        for server in self.servers:
            server.start()
        await asyncio.gather(*(server.until_healthy() for server in self.servers))

    def routes_of(self, number):
        """The links between this one and the others, whoever calls."""
        return [name for other in range(3) if other != number for name in (f"route-{number}-{other}", f"route-{other}-{number}")]

    @property
    def url(self):
        return ",".join(server.url for server in self.servers)

    def stop(self):
        for server in self.servers:
            server.kill()
