"""Faults of NATS itself: killed, stopped, emptied, damaged."""
import asyncio
import os
import signal
import time

import nats

from cases_managers import figures
from cluster import ClusterError
from fleet import FleetStage
from loaded import LoadedStage
from machine import Case
from stage import need

JOURNAL = "AMPHI_JOURNAL_0"


async def killed_often(stage, times=20):
    """kill -9 of the server, again and again, under load."""
    took = []
    for _ in range(times):
        stage.fleet.server.kill()
        took.append(await stage.more(1))
        await stage.more(1)
    stage.said = f"{times} kills, accepted again {figures(took)}"


async def killed_sometimes(stage):
    """kill -9 of the server under load, five times."""
    await killed_often(stage, 5)


async def stopped(stage):
    """SIGSTOP of the server for less and for more than a lease."""
    took = []
    for seconds in (1, 4, 8):
        stage.fleet.server.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        stage.fleet.server.signal(signal.SIGCONT)
        took.append(await stage.more(1))
        await stage.more(2)
    stage.said = f"stopped for 1, 4 and 8 s, accepted again {figures(took)} after SIGCONT"


async def stream(stage):
    connection = await nats.connect(stage.fleet.url().split(","))
    return connection, connection.jetstream()


async def nobody_leads(stage, within):
    """Until no node says that it leads and a submission is not accepted: the system has halted, and says so."""
    end = time.monotonic() + within
    while True:
        try:
            await stage.client.once("epic.submit", {"document": {"version": 1, "name": "halt", "tasks": {"a": {"tool": "noop"}}}}, timeout=2)
            accepted = True
        except Exception:  # no answer, no responders, or an error that says so: all of them are "not accepted"
            accepted = False
        if not accepted:
            return
        need(time.monotonic() < end, "it still accepts submissions")
        await asyncio.sleep(0.5)


def said_in_logs(stage, *words):
    text = "\n".join(log.read_text(errors="replace") for log in stage.logs())
    return any(word in text for word in words)


async def journal_deleted(stage):
    """The stream of the journal is deleted under a running cluster: it halts with a clear error, and never begins a new one."""
    epic = await stage.submit({"a": {"run": stage.run(1)}})
    await stage.ends(epic)
    connection, js = await stream(stage)
    await js.delete_stream(JOURNAL)
    await nobody_leads(stage, 60)
    await asyncio.sleep(5)
    await nobody_leads(stage, 1)
    try:
        info = await js.stream_info(JOURNAL)
    except nats.js.errors.NotFoundError:
        info = None
    await connection.close()
    need(info is None, "a new, empty journal was made")
    need(said_in_logs(stage, "it is gone", "it is missing"), "no log says that the journal is gone")


async def journal_purged(stage):
    """All records are purged: the nodes remember more than the journal has, and refuse it."""
    epic = await stage.submit({"a": {"run": stage.run(1)}})
    await stage.ends(epic)
    connection, js = await stream(stage)
    await js.purge_stream(JOURNAL)
    await connection.close()
    await nobody_leads(stage, 60)
    need(said_in_logs(stage, "journal"), "no log speaks of it")


async def other_streams_deleted(stage):
    """Events and output streams and all consumers are deleted: they are made again, nothing of the truth is lost."""
    epic = await stage.submit({"a": {"run": stage.run(1)}})
    await stage.ends(epic)
    connection, js = await stream(stage)
    await js.delete_stream("AMPHI_EVENTS")
    for name in ("AMPHI_MESSAGES", "AMPHI_OUTPUT"):
        for consumer in await js.consumers_info(name):
            await js.delete_consumer(name, consumer.name)
    other = await stage.submit({"a": {"run": stage.run(1)}, "b": {"needs": ["a"], "run": stage.run(0)}})
    await stage.ends(other)
    end = time.monotonic() + 60
    while True:
        try:
            info = await js.stream_info("AMPHI_EVENTS")
            if info.state.messages > 0:
                break
        except (nats.js.errors.NotFoundError, nats.errors.Error):
            pass
        need(time.monotonic() < end, "the stream of events did not come back")
        await asyncio.sleep(0.3)
    await connection.close()


def blocks(stage):
    return sorted(stage.fleet.server.store.glob(f"**/streams/{JOURNAL}/msgs/*.blk"))


async def flipped(stage):
    """One byte of the journal's file is changed while the server is down: it is noticed; nothing is ever answered from a wrong state."""
    for _ in range(3):
        await stage.ends(await stage.submit({"a": {"run": stage.run(0)}, "b": {"needs": ["a"], "run": stage.run(0)}}))
    told = {row["epic"]: row["state"] for row in await stage.client.all("epic.list", "epics", {"limit": 500})}
    stage.fleet.keeping = False
    for up in stage.fleet.ups:
        for pid in [*up.pids("node"), up.up.pid]:
            os.kill(pid, signal.SIGKILL)
        up.up.wait()
    stage.fleet.server.stop()
    block = blocks(stage)[0]
    data = bytearray(block.read_bytes())
    data[len(data) // 2] ^= 0x10
    block.write_bytes(data)
    stage.fleet.server.start()
    await stage.fleet.server.until_healthy()
    for up in stage.fleet.ups:
        up.start()
    end, verdict = time.monotonic() + 40, None
    while time.monotonic() < end and verdict is None:
        try:
            rows = await stage.client.once("epic.list", {"limit": 500}, timeout=2)
            verdict = {row["epic"]: row["state"] for row in rows["epics"]}
        except Exception:  # no answer is an answer here: it has halted
            await asyncio.sleep(0.5)
    need(verdict is None or verdict == told, f"it goes on with another history: {verdict} and not {told}")
    if verdict is None:
        need(said_in_logs(stage, "journal"), "it halts and no log says why")
    stage.said = "halted, with the reason in the log" if verdict is None else "the damaged record was not needed: the same state"
    # Nothing may settle on a damaged store; `fall` ends what is left.
    for up in stage.fleet.ups:
        if up.up.poll() is None:
            up.up.terminate()


async def managed_stopped(stage):
    """SIGSTOP of the server that `up` keeps: killed and started again by `up` after half a minute of silence."""
    epic = await stage.submit({"a": {"matrix": {"i": "1..3"}, "run": stage.run(20)}})
    await stage.event(epic, "task.started", count=3)
    pid = stage.cluster.pids("nats")[0]
    stage.stop(pid)
    began = time.monotonic()
    while stage.cluster.pids("nats") in ([], [pid]):
        if time.monotonic() > began + 120:
            raise ClusterError("`up` did not replace a nats-server that is stopped for 2 minutes")
        await asyncio.sleep(0.5)
    stage.stopped = []
    await stage.ends(epic, within=180)
    stage.said = f"replaced after {time.monotonic() - began:.0f} s"


def managed(folder):
    import nodes

    return nodes.Stage(folder)


CASES = [
    Case("21", "kill -9 of nats-server, twenty times under load", ("S1", "S13", "L1", "L2"), killed_often, LoadedStage),
    Case("21a", "kill -9 of nats-server, five times under load", ("S1", "S13", "L1", "L2"), killed_sometimes, LoadedStage, quick=True),
    Case("21b", "SIGSTOP of nats-server, shorter and longer than a lease", ("S1", "S2", "S13", "L1"), stopped, LoadedStage),
    Case("21c", "SIGSTOP of the managed nats-server for good", ("L1", "L2"), managed_stopped, managed),
    Case("24", "an operator deletes the journal's stream", ("S1", "S3"), journal_deleted, FleetStage, settles=False, quick=True),
    Case("24b", "an operator purges the journal", ("S1", "S3"), journal_purged, FleetStage, settles=False),
    Case("24c", "an operator deletes the stream of events and all consumers", ("L8",), other_streams_deleted, FleetStage),
    Case("26", "a flipped bit in the journal's file", ("S3",), flipped, FleetStage, settles=False),
]
