"""One NATS and several `amphi up`s, each of which reaches it through a link of its own: a cluster whose parts can be lost one by one."""
import asyncio
import os
import signal

from cluster import KILLED, Cluster, ClusterError, alive
from proxy import Links
from servers import Server, Trio
from stage import Stage, need

# The harness's own server syncs each write, and says so to nobody.
CONFIRMED = {"AMPHI_CLUSTER_DURABILITY_CONFIRMED": "true"}


# `amphi up` ends with it when it finds no NATS at its start.
UNREACHABLE = 6


class Fleet:
    """`shape` has one entry per `up`: the options of that one. `trio`: three NATS servers in place of one."""

    def __init__(self, folder, shape, trio=False, env=None, sync="always", store=None, links=True, binaries=None):
        self.folder, self.trio = folder, trio
        self.links = Links()
        self.server = Trio(folder, self.links, sync) if trio else Server(folder, sync=sync, store=store)
        self.shape, self.linked = shape, links
        self.env = [{**CONFIRMED, **(env or {}), **(each.get("env") or {})} for each in shape]
        self.binaries = binaries or {}
        self.ups, self.keeper, self.keeping = [], None, True
        self.trouble = []

    def url(self):
        """For clients: straight to the server, past all links."""
        return self.server.url

    @property
    def servers(self):
        return self.server.servers if self.trio else [self.server]

    async def start(self):
        await self.links.start()
        if self.trio:
            await self.server.start()
        else:
            self.server.start()
            await self.server.until_healthy()
        for number, each in enumerate(self.shape):
            urls = []
            for at, server in enumerate(self.servers):
                port = await self.links.add(f"u{number}-{at}" if self.trio else f"u{number}", "127.0.0.1", server.port) if self.linked else server.port
                urls.append(f"nats://127.0.0.1:{port}")
            folder = self.folder / f"up{number}"
            folder.mkdir(exist_ok=True)
            options = [str(option) for option in each.get("options", [])]
            up = Cluster(folder, "--nats", ",".join(urls), "--node-prefix", f"u{number}", *options, env=self.env[number], binary=self.binaries.get(number))
            self.ups.append(up)
        for up in self.ups:
            up.start()
            # One after the other, as people do it; also, the first makes the journal.
            await up.until_ready(90)
        self.keeper = asyncio.create_task(self._keep())

    async def until_ready(self, within=90):
        for up in self.ups:
            await up.until_ready(within)

    async def _keep(self):
        """Starts a dead `up` and a dead server again, as a service manager would."""
        while True:
            await asyncio.sleep(0.1)
            if not self.keeping:
                continue
            for number, up in enumerate(self.ups):
                if up.up.poll() is not None:
                    # TERM ends it with 0, ours is KILL; with 6 it says that NATS cannot be reached, and may be started again.
                    if up.up.returncode not in (0, KILLED):
                        if up.up.returncode != UNREACHABLE:
                            self.trouble.append(f"up{number} ended by itself with {up.up.returncode}; see {up.log}")
                        await asyncio.sleep(0.5)
                    up.start()
            for server in self.servers:
                if not server.alive():
                    server.start()

    def up_of(self, node):
        """Which `up` a node belongs to."""
        return int(node.split("-")[0].removeprefix("u"))

    def link_of(self, node):
        return f"u{self.up_of(node)}"

    def node_pids(self):
        return [pid for up in self.ups for pid in up.pids("node")]

    async def stop(self, within=60):
        """Everything open again, then TERM to all at once, then the server."""
        self.keeping = False
        if self.keeper is not None:
            self.keeper.cancel()
            try:
                await self.keeper
            except asyncio.CancelledError:
                pass
        for server in self.servers:
            if server.stopped:
                server.signal(signal.SIGCONT)
        if self.links.process is not None:
            await self.links.open_all()
        results = await asyncio.gather(*(up.stop(within) for up in self.ups if up.up is not None), return_exceptions=True)
        self.server.stop()
        await self.links.stop()
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            raise ClusterError(f"an `up` does not end: {failed}")


class FleetStage(Stage):
    """A stage on a fleet."""

    SHAPE = [{"options": ["--capacity", 4]} for _ in range(3)]

    def __init__(self, folder, shape=None, **options):
        super().__init__(folder, Fleet(folder, shape or self.SHAPE, **options))
        self.fleet = self.cluster

    async def rise(self):
        await self.fleet.start()

    async def settle(self, within=180):
        states = await super().settle(within)
        need(not self.fleet.trouble, "; ".join(self.fleet.trouble))
        return states

    async def cut(self, node, state="cut", **how):
        await self.fleet.links.set(self.fleet.link_of(node), state, **how)

    async def heal(self, node, drop=False):
        await self.fleet.links.set(self.fleet.link_of(node), "open", drop=drop)

    async def fall(self):
        self.go_on()
        try:
            await self.client.close()
            await self.fleet.stop(60)
        except (ClusterError, OSError):
            pass
        finally:
            # Whatever happened: the processes that we started are ours to end.
            for up in self.fleet.ups:
                if up.up is not None and up.up.poll() is None:
                    for pid in [*up.pids("node"), up.up.pid]:
                        if alive(pid):
                            os.kill(pid, signal.SIGKILL)
                    up.up.wait()
            for server in self.fleet.servers:
                server.kill()
