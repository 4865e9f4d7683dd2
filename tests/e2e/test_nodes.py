"""Nodes: several of one `up`, and machines that join a running cluster; labels, deaths, ids that are taken, URLs that do not work."""

import os
import tempfile

from harness import *


async def nodes_of(c):
    return {node["id"]: node for node in (await c.api("node.list"))["nodes"]}


def second(c, *arguments, url=None):
    """Another `amphi up` that joins; its own data folder."""
    folder = tempfile.mkdtemp(prefix="joins-", dir=c.folder)
    return Up(folder, ["--nats", url or c.up.url, "--capacity", "1", *arguments])


async def fails(up, code):
    """`up` must end by itself with this code; gives what it said."""
    try:
        await up.start()
    except AssertionError:
        pass
    same(up.process.wait(30), code, f"exit code of a second `up`: {up.log()}")
    return up.log()


def sleeps(count, seconds=2):
    return {"each": {"matrix": {"i": f"1..{count}"}, "run": f"sleep {seconds}"}}


async def test_each_node_runs_one_sleep_at_the_same_time_and_the_traffic_is_seen(c):
    seen = set()
    plain = await nats.connect(c.up.url)

    async def note(message):
        seen.add(".".join(message.subject.split(".")[:3]))

    await plain.subscribe("amphi.>", cb=note)
    await plain.flush()
    epic = await c.submit(sleeps(3, 3))
    await within(lambda: len(epic.of("task.started")) == 3 or None, "three sleeps have started")
    started = epic.of("task.started")
    same(sorted(event["node"] for event in started), ["node-1", "node-2", "node-3"], "capacity 1: one on each node")
    pids = {node: view["pid"] for node, view in (await nodes_of(c)).items()}
    parents = set()
    for event in started:
        pid = event["data"]["pid"]
        # The task hangs on its guard, the guard on its node.
        parents.add(stat_of(stat_of(pid)[0])[0])
    same(parents, set(pids.values()), "the tasks' own ancestors are the three node processes")
    await epic.end("succeeded")
    ends, starts = min(milliseconds(e["ts"]) for e in epic.of("task.succeeded")), max(milliseconds(e["ts"]) for e in epic.of("task.started"))
    assert starts < ends, "all three ran at once"
    assert {"amphi.int.node", "amphi.int.from"} <= {subject for subject in seen}, seen
    await plain.close()


async def test_a_client_listens_to_nodes_and_may_not_speak_there(c):
    try:
        await c.connection.request("amphi.int.from.node-1.shard.0.input", b'{"inputs":[]}', timeout=1)
        raise AssertionError("a client spoke to the leader as a node would")
    except nats.errors.TimeoutError:
        pass
    except nats.errors.NoRespondersError:
        raise AssertionError("the server knows no leader's subject") from None


@alone
async def test_machines_join_with_the_urls_that_they_have_and_leave_again(c):
    same(os.stat(os.path.join(c.up.data, "node-url")).st_mode & 0o777, 0o600)
    one, two = second(c, "--nodes", "2", "--label", "zone=b"), second(c, "--node-prefix", "far-", url=c.up.node_url)
    await one.start()
    await two.start()
    same([node["id"] for node in two.ready["nodes"]], ["far-node-1"])
    same((one.ready["nats"], one.ready["nats_pid"]), (c.up.url, None))
    ids = [node["id"] for node in one.ready["nodes"]]
    assert all(id.endswith(("-node-1", "-node-2")) and id != "node-1" for id in ids), ids
    known = await nodes_of(c)
    same({id: known[id]["labels"] for id in ids}, {id: {"zone": "b"} for id in ids})
    leads = [id for id, node in known.items() if node["leads"]]
    assert len(leads) == 1 and leads[0] in ("node-1", "node-2", "node-3"), f"who joins takes no seat: {leads}"
    listed = (await c.amphi("node", "ls", "--label", "zone=b", "--json")).exits(0).json
    same(sorted(node["id"] for node in listed["nodes"]), sorted(ids))
    epic = await c.submit(sleeps(6))
    await within(lambda: len({event["node"] for event in epic.of("task.started")}) == 6 or None, "six nodes work")
    await epic.end("succeeded")
    output = await c.submit({"a": {"run": "echo from-afar; echo k=v >> $AMPHI_OUTPUT", "outputs": {"k": "string"}}})
    await output.end("succeeded")
    for up in (one, two):
        same(await up.stop(), 0)
    # The second life of a machine has the ids of the first.
    await one.start()
    same([node["id"] for node in one.ready["nodes"]], ids)
    await within(lambda: one.process.poll() is None or None, "it runs")
    same(await one.stop(), 0)


async def test_a_joined_node_waits_for_a_cluster_that_is_gone_for_a_while(c):
    async def work(own):
        far = second(own, "--node-prefix", "far")
        await far.start()
        begun = await own.submit({"a": {"matrix": {"i": "1..8"}, "run": "sleep 3"}})
        await within(lambda: any(e["node"] == "far-node-1" for e in begun.of("task.started")) or None, "the far node works")
        # Manager and NATS go, in order; what the far node has to tell waits for them.
        own.up.process.send_signal(signal.SIGKILL)
        own.up.process.wait()
        await own.up.start()

        async def over():
            try:
                return (await own.api("epic.get", {"epic": begun.id}, deadline=5))["state"] == "succeeded"
            except (AssertionError, Refused, nats.errors.Error, OSError):
                return None

        await within(over, "the epic ends well")
        attempts = (await own.api("epic.events", {"epic": begun.id, "limit": 1000}))["events"]
        far_tasks = {e["task"] for e in attempts if e["type"] == "task.started" and e["node"] == "far-node-1" and e["attempt"] == 1}
        again = {e["task"] for e in attempts if e["type"] == "task.retrying" and e["task"] in far_tasks}
        assert far_tasks and not again, f"{again} of the far node was begun again"
        same((await nodes_of(own))["far-node-1"]["pid"], far.ready["nodes"][0]["pid"])
        same(await far.stop(), 0)

    await in_its_own(c, work)


@alone
async def test_a_taken_id_and_wrong_urls_end_with_their_codes(c):
    first = second(c, "--node-prefix", "twin")
    await first.start()
    said = await fails(second(c, "--node-prefix", "twin"), 5)
    assert "--node-prefix" in said and "twin-node-1" in said, said
    same((await nodes_of(c))["twin-node-1"]["pid"], first.ready["nodes"][0]["pid"], "the living node was not disturbed")
    same(await first.stop(), 0)
    said = await fails(second(c, url="nats://127.0.0.1:1"), 6)
    assert "--nats" in said, said
    said = await fails(second(c, url=c.up.url.replace("admin:", "admin:not")), 6)
    assert "authorization" in said.lower() or "credentials" in said, said
    await fails(second(c, url="nats://[bad"), 6)


@alone
async def test_a_killed_node_is_known_dead_at_once_and_its_task_runs_elsewhere(c):
    epic = await c.submit({"a": {"run": "sleep 4"}})
    started = await epic.event("task.started")
    if (await nodes_of(c))[started["node"]]["leads"]:
        # The Manager lives there: its death is another test's affair.
        other = await c.submit({"a": {"run": "sleep 6"}})
        epic, started = other, await other.event("task.started")
    node, pid = started["node"], (await nodes_of(c))[started["node"]]["pid"]
    os.kill(pid, signal.SIGKILL)
    again = await epic.event("task.started", count=2)
    assert again["node"] != node, "the next attempt is on another node"
    lost = next(body for _, _, body in c.feed.messages if body["type"] == "node.lost" and body["node"] == node)
    same(lost["data"]["cause"], "killed by signal 9")
    took = milliseconds(again["ts"]) - milliseconds(started["ts"])
    assert took < 14_000, f"nobody waited for silence, but it took {took} ms"

    async def back():
        entry = next(entry for entry in (await c.api("tree.get"))["nodes"] if entry["node"] == node)
        return entry if entry["state"] == "alive" and entry["root"] and entry["restarts"] else None

    entry = await within(back, "the node is back in the tree")
    same((entry["last_exit"], entry["pid"] == pid), ("killed by signal 9", False))
    await epic.end("succeeded")


if __name__ == "__main__":
    main(__name__, ["--capacity", "1", "--nodes", "3"])
