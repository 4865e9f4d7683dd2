"""Faults of a NATS cluster of three servers with streams of three replicas."""
import asyncio
import json
import signal
import time

import nats

from cases_managers import figures
from loaded import LoadedStage
from machine import Case
from stage import need

# A new leader of a stream takes 4 to 8 s, the Manager's lease is 15 s there.
PATIENCE = 120


class TrioStage(LoadedStage):
    """Three servers, three `up`s, each reaching all servers through links of its own."""

    def __init__(self, folder):
        super().__init__(folder, trio=True, load=3)

    async def rise(self):
        await super().rise()
        # What this is about: every stream on all three.
        connection = await nats.connect(self.fleet.url().split(","))
        streams = {info.config.name: info.config.num_replicas for info in await connection.jetstream().streams_info()}
        await connection.close()
        need(set(streams.values()) == {3}, f"not every stream has three replicas: {streams}")

    async def stream_leader(self, stream="AMPHI_JOURNAL_0"):
        """The server that leads the journal's stream."""
        connection = await nats.connect(self.fleet.url().split(","), connect_timeout=2)
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    answer = json.loads((await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=2)).data)
                    if name := answer.get("cluster", {}).get("leader"):
                        return next(server for server in self.fleet.servers if server.name == name)
                except nats.errors.Error:
                    pass
                need(time.monotonic() < end, "the journal's stream has no leader")
                await asyncio.sleep(0.2)
        finally:
            await connection.close()

    async def steady(self):
        """All three healthy again, and work goes on."""
        for server in self.fleet.servers:
            await server.until_healthy(90)
        await self.more(2, PATIENCE)


async def one_killed(stage):
    """kill -9 of the server that leads the journal's stream; the harness starts it again after a while."""
    took = []
    for _ in range(2):
        leader = await stage.stream_leader()
        stage.fleet.keeping = False
        leader.kill()
        took.append(await stage.more(1, PATIENCE))
        await stage.more(2, PATIENCE)
        stage.fleet.keeping = True
        await asyncio.sleep(0.5)
        await stage.steady()
    stage.said = f"accepted again {figures(took)}"


async def one_cut_off(stage):
    """The server that leads the journal's stream is cut off from both others, with clients on both sides."""
    leader = await stage.stream_leader()
    number = stage.fleet.servers.index(leader)
    for route in stage.fleet.server.routes_of(number):
        await stage.fleet.links.set(route, "hold")
    # A client on the lonely side: whatever it is told, it must not be `accepted` by a minority.
    minority = await nats.connect(leader.url, connect_timeout=2, max_reconnect_attempts=0, error_cb=_quiet)
    document = {"document": {"version": 1, "name": "minority", "tasks": {"a": {"tool": "noop"}}}, "id": "minority"}
    lonely = []

    async def ask_there():
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                answer = json.loads((await minority.request("amphi.api.epic.submit", json.dumps(document).encode(), timeout=2)).data)
                if "epic" in answer:
                    lonely.append(answer["epic"])
                    return
            except Exception:  # silence and refusals are what is expected there
                await asyncio.sleep(0.5)

    asking = asyncio.create_task(ask_there())
    took = await stage.more(1, PATIENCE)
    await stage.more(2, PATIENCE)
    await asking
    for route in stage.fleet.server.routes_of(number):
        await stage.fleet.links.set(route, "open", drop=True)
    await stage.steady()
    try:
        await asyncio.wait_for(minority.close(), 3)
    except Exception:  # it was never good for anything
        pass
    if lonely:
        # A node whose connections stand on both sides may carry it over; accepted is accepted: it has to be in the journal of all.
        from load import Epic

        stage.trial.epics[lonely[0]] = Epic("minority", document["document"], tools={"a"})
    stage.said = f"accepted again {took:.1f} s after the cut; asked on the lonely side: {len(lonely)} accepted, and in the journal"


async def all_killed(stage):
    """kill -9 of all three in the same instant."""
    for server in stage.fleet.servers:
        server.kill()
    began = time.monotonic()
    await stage.more(1, PATIENCE)
    took = time.monotonic() - began
    await stage.steady()
    stage.said = f"accepted again after {took:.1f} s"


async def one_stopped(stage):
    """SIGSTOP of the server that leads the journal's stream, SIGCONT when another leads."""
    leader = await stage.stream_leader()
    leader.signal(signal.SIGSTOP)
    took = await stage.more(1, PATIENCE)
    leader.signal(signal.SIGCONT)
    await stage.steady()
    stage.said = f"accepted again after {took:.1f} s"


async def rolling(stage):
    """One server after the other is ended by TERM and comes back, under load."""
    took = []
    for server in stage.fleet.servers:
        await asyncio.to_thread(server.stop)
        took.append(await stage.more(1, PATIENCE))
        await stage.steady()
    stage.said = f"accepted again {figures(took)}"


async def _quiet(_error):
    """A minority has nothing to say."""


LAWS = ("S1", "S2", "S4", "S13", "L1", "L2")
CASES = [
    Case("17", "R3: the journal's NATS server cut off from both others", LAWS, one_cut_off, TrioStage, alone=True),
    Case("17b", "R3: kill -9 of the journal's NATS server", LAWS, one_killed, TrioStage, quick=True, alone=True),
    Case("17c", "R3: kill -9 of all three NATS servers", LAWS, all_killed, TrioStage, alone=True),
    Case("17d", "R3: SIGSTOP of the journal's NATS server", LAWS, one_stopped, TrioStage, alone=True),
    Case("23", "R3: rolling restart of all three under load", LAWS, rolling, TrioStage, alone=True),
]
