"""Who gets the next agent: fairness between epics, agents and nodes that are held, overlapping locks, pins. Through the real program."""

import asyncio

from harness import *


def sleeps(count, ms=100):
    return {"t": {"tool": "sleep", "with": {"ms": ms}, "matrix": {"n": f"1..{count}"}}}


async def test_an_epic_of_200_tasks_does_not_starve_one_of_three(c):
    large = await c.submit(sleeps(200))
    await within(lambda: len(large.of("task.assigned")) >= 20 or None, "the large epic is at work")
    small, _ = await c.run(sleeps(3), "succeeded")
    since = small.of("epic.submitted")[0]["seq"]
    until = small.of("task.assigned")[-1]["seq"]
    meanwhile = [event for event in large.of("task.assigned") if since < event["seq"] < until]
    assert len(meanwhile) <= 4, f"{len(meanwhile)} assignments of the large epic came before the three of the small one"
    await large.end("succeeded")
    assert large.of("task.assigned")[-1]["seq"] > until, "the large epic had nothing left to ask for: nothing was shown"


async def state_of(c, node):
    return (await c.api("node.get", {"node": node}))["state"]


async def in_two_nodes(c, work):
    await in_its_own(c, work, ["--nodes", "2", "--capacity", "2"])


async def in_its_own(c, work, arguments):
    """Gives `work` a cluster of its own, and ends that."""
    cluster = Cluster(c.new_folder("own"), arguments)
    try:
        await cluster.start()
        await work(cluster)
        await cluster.everything_holds()
    except Exception as error:
        raise AssertionError(f"{error}\n--- log of its own cluster\n{cluster.up.log(20)}") from error
    finally:
        await cluster.stop()


async def running_on(epic, task):
    """The node and agent of a task, once it has started."""
    started = await epic.event("task.started", task)
    return started["node"], started["agent"]


def other(node):
    return {"node-1": "node-2", "node-2": "node-1"}[node]


async def test_a_node_is_drained_without_a_failure(c):
    async def work(own):
        folder = own.new_folder("drain")
        wait = f"while [ ! -e {folder}/go ]; do sleep 0.1; done"
        long = await own.submit({"t": {"run": f'echo "$AMPHI_ATTEMPT" >> {folder}/tries; [ "$AMPHI_ATTEMPT" != 1 ] || {wait}'}})
        node, _ = await running_on(long, "t")
        done = await own.amphi("node", "drain", node, "--grace", "200ms", "--timeout", "60s")
        done.exits(0)
        assert f"{node} is drained" in done.out and "draining" in done.err, (done.out, done.err)
        await long.end("succeeded")
        retrying = long.of("task.retrying")
        same([event["data"]["cause"] for event in retrying], ["drain"])
        same([event["node"] for event in long.of("task.started")], [node, other(node)])
        same(len(long.of("task.reassigned")), 1)
        same(long.of("task.failed"), [])
        view = await long.task("t")
        same((view["state"], view["error"], view["attempt"]), ("succeeded", None, 2))
        same(await state_of(own, node), "drained")
        tree = await own.api("tree.get")
        same({entry["node"]: entry["state"] for entry in tree["nodes"]}[node], "drained")
        # Nothing runs there any more, and everything does again when it is taken back.
        _, after = await own.run({"t": {"tool": "noop", "matrix": {"n": "1..6"}}}, "succeeded")
        same({task["node"] for task in after["tasks"]}, {other(node)})
        (await own.amphi("node", "drain", node, "--off")).exits(0)
        same(await state_of(own, node), "alive")

    await in_two_nodes(c, work)


async def test_a_drain_waits_for_what_must_not_be_tried_again(c):
    async def work(own):
        go = f"{own.new_folder('once')}/go"
        once = await own.submit({"t": {"run": f"while [ ! -e {go} ]; do sleep 0.1; done", "retry": 0}})
        node, _ = await running_on(once, "t")
        waited = await own.amphi("node", "drain", node, "--grace", "0s", "--timeout", "1s")
        waited.exits(7)
        assert "must not be tried again" in waited.err, waited.err
        view = await own.api("node.get", {"node": node})
        same([(wait["epic"], wait["task"], wait["why"]) for wait in view["drain"]["waits_for"]], [(once.id, "t", "retry_0")])
        shown = await own.amphi("node", "show", node)
        assert f"{once.id}/t must not be tried again" in shown.out, shown.out
        open(go, "w").close()
        await once.end("succeeded")
        same(len(once.of("task.started")), 1)
        (await own.amphi("node", "drain", node)).exits(0)
        same(await state_of(own, node), "drained")

    await in_two_nodes(c, work)


async def test_an_agent_is_paused_and_resumed(c):
    # The tests run side by side: no other one holds or frees the agents of this role.
    agents = [agent["agent"] for agent in (await c.api("agent.list"))["agents"] if agent["role"] == "MonitoringSentinel"]
    for agent in agents:
        (await c.amphi("agent", "pause", agent)).exits(0)
    epic = await c.submit({"t": {"tool": "noop", "agent": "MonitoringSentinel"}})
    waiting = await epic.event("task.waiting", "t")
    same(waiting["data"]["reason"], "no_agent")
    why = await c.api("task.why", {"epic": epic.id, "task": "t"})
    assert "is paused" in why["waits"][-1]["on"], why
    same((await c.api("agent.get", {"agent": agents[0]}))["state"], "paused")
    (await c.amphi("agent", "resume", agents[0])).exits(0)
    await epic.end("succeeded")
    same(epic.of("task.assigned")[0]["agent"], agents[0])
    for agent in agents[1:]:
        await c.api("agent.resume", {"agent": agent})


async def test_a_drained_agent_hands_its_work_over(c):
    folder = c.new_folder("handed")
    epic = await c.submit({"t": {"agent": "BackupKeeper", "run": f'[ "$AMPHI_ATTEMPT" != 1 ] || while [ ! -e {folder}/go ]; do sleep 0.1; done'}})
    _, agent = await running_on(epic, "t")
    drained = await c.api("agent.drain", {"agent": agent, "timeout_ms": 100})
    same((drained["agent"], drained["duty"], drained["state"]), (agent, "draining", "busy"))
    await epic.end("succeeded")
    same([event["data"]["cause"] for event in epic.of("task.retrying")], ["drain"])
    assert epic.of("task.started")[1]["agent"] != agent
    same((await c.api("agent.get", {"agent": agent}))["state"], "drained")
    same((await c.api("agent.resume", {"agent": agent}))["duty"], "active")


async def test_locks_on_globs_exclude_each_other_in_order_of_arrival(c):
    folder = c.new_folder("globs")
    note = f"note() {{ echo $1 >> {folder}/log; }}; note"
    wait = f"while [ ! -e {folder}/go ]; do sleep 0.1; done"
    lock = lambda name: {"locks": {"write": [name]}}
    top = {"workspace": {"path": folder}}
    first = await c.submit({"t": {"run": f"{wait}; {note} glob", **lock("file/src/*.rs")}}, **top)
    await first.event("task.started", "t")
    second = await c.submit({"t": {"run": f"{note} plain", **lock("file/src/lib.rs")}}, **top)
    third = await c.submit({"t": {"run": f"{note} deep", **lock("file/**")}}, **top)
    apart, _ = await c.run({"t": {"run": "true", **lock("file/src/*.toml")}}, "succeeded", workspace={"path": c.new_folder("apart")})
    for epic in (second, third):
        same((await epic.event("task.waiting", "t"))["data"]["reason"], "lock")
    why = await c.api("task.why", {"epic": second.id, "task": "t"})
    same(why["waits"][0]["on"], "file/src/lib.rs (overlaps file/src/*.rs)")
    same(why["waits"][0]["holder"]["epic"], first.id)
    listed = {lock["resource"]: lock for lock in (await c.api("lock.list"))["locks"] if lock["folder"] == folder}
    same(sorted(listed["file/src/*.rs"]["overlaps"]), ["file/**", "file/src/lib.rs"])
    assert "(overlaps" in (await c.amphi("lock", "ls")).out
    open(f"{folder}/go", "w").close()
    for epic in (first, second, third):
        await epic.end("succeeded")
    with open(f"{folder}/log", encoding="utf-8") as log:
        same(log.read().split(), ["glob", "plain", "deep"])


async def test_a_glob_that_cannot_be_read_is_refused_with_its_place(c):
    for name in ("db/*", "file/[", "file/[]x", "file/../*"):
        refused = await c.refused("epic.submit", {"version": 1, "name": "bad", "tasks": {"t": {"run": "true", "locks": {"write": [name]}}}}, "epic.type", 400)
        assert refused is not None


async def test_an_operator_says_who_has_the_next_attempt(c):
    folder = c.new_folder("assigned")
    agents = sorted(agent["agent"] for agent in (await c.api("agent.list"))["agents"] if agent["role"] == "TestGuardian")
    first = {"run": f"while [ ! -e {folder}/go ]; do sleep 0.1; done", "agent": "TestGuardian"}
    then = {"tool": "noop", "agent": "TestGuardian", "needs": ["first"]}
    epic = await c.submit({"first": first, "then": then})
    _, busy = await running_on(epic, "first")
    chosen = [agent for agent in agents if agent != busy][-1]
    done = await c.amphi("task", "assign", f"{epic.id}/then", chosen)
    done.exits(0)
    assert f"waits for {chosen}" in done.out, done.out
    same((await epic.task("then"))["pinned_to"], chosen)
    assert chosen in (await c.amphi("task", "show", f"{epic.id}/then")).out
    # A paused agent can be waited for; a drained one cannot.
    await c.api("agent.pause", {"agent": chosen})
    open(f"{folder}/go", "w").close()
    same((await epic.event("task.waiting", "then"))["data"]["reason"], "no_agent")
    why = (await c.amphi("why", f"{epic.id}/then")).out
    assert f"agent {chosen}: assigned by operator" in why and "is paused" in why, why
    await c.api("agent.resume", {"agent": chosen})
    await epic.end("succeeded")
    same(epic.of("task.assigned")[-1]["agent"], chosen)
    same([event["data"]["agent"] for event in epic.of("task.pinned")], [chosen])


async def test_nothing_waits_for_an_agent_that_is_drained(c):
    folder = c.new_folder("unpinned")
    agents = sorted(agent["agent"] for agent in (await c.api("agent.list"))["agents"] if agent["role"] == "DeployCommander")
    first = {"run": f"while [ ! -e {folder}/go ]; do sleep 0.1; done", "agent": "DeployCommander"}
    epic = await c.submit({"first": first, "then": {"tool": "noop", "agent": "DeployCommander", "needs": ["first"]}})
    _, busy = await running_on(epic, "first")
    chosen = [agent for agent in agents if agent != busy][0]
    await c.api("task.assign", {"epic": epic.id, "task": "then", "agent": chosen})
    await c.api("agent.drain", {"agent": chosen})
    same((await epic.event("task.unpinned", "then"))["data"]["cause"], "it is drained")
    refused = await c.refused("task.assign", {"epic": epic.id, "task": "then", "agent": chosen}, "state.conflict", 409)
    assert "drained" in refused.error["message"], refused
    open(f"{folder}/go", "w").close()
    await epic.end("succeeded")
    assert epic.of("task.assigned")[-1]["agent"] != chosen
    await c.api("agent.resume", {"agent": chosen})


async def test_what_cannot_be_assigned_says_why(c):
    folder = c.new_folder("unassignable")
    epic = await c.submit({"t": {"run": f"while [ ! -e {folder}/go ]; do sleep 0.1; done"}, "u": {"tool": "noop", "agent": "TestGuardian", "needs": ["t"]}})
    _, busy = await running_on(epic, "t")
    ask = lambda task, agent: {"epic": epic.id, "task": task, "agent": agent}
    runs = await c.refused("task.assign", ask("t", busy), "state.conflict", 409)
    assert "task cancel" in runs.error["hint"], runs
    unknown = await c.refused("task.assign", ask("u", "node-1-TestGuardain-1"), "agent.not_found", 404)
    assert "TestGuardian-1" in unknown.error["hint"], unknown
    others = [agent["agent"] for agent in (await c.api("agent.list"))["agents"] if agent["role"] != "TestGuardian"]
    wrong = await c.refused("task.assign", ask("u", others[0]), "state.conflict", 409)
    assert "role TestGuardian" in wrong.error["message"], wrong
    await c.refused("task.assign", ask("zzz", busy), "task.not_found", 404)
    await c.refused("task.assign", {**ask("u", busy), "epic": "nobody-0000"}, "epic.not_found", 404)
    await c.refused("task.assign", {"epic": epic.id, "task": "u"}, "request.invalid", 400)
    await c.refused("task.assign", ask("u", 7), "request.invalid", 400)
    (await c.amphi("task", "assign", f"{epic.id}/u", "node-1-TestGuardain-1")).exits(3)
    (await c.amphi("task", "assign", f"{epic.id}/u")).exits(2)
    (await c.amphi("task", "assign", f"{epic.id}/t", busy)).exits(5)
    open(f"{folder}/go", "w").close()
    await epic.end("succeeded")
    await c.refused("task.assign", ask("u", busy), "state.conflict", 409)


async def test_holding_what_is_not_there_is_refused(c):
    await c.refused("node.drain", {"node": "node-99"}, "node.not_found", 404)
    await c.refused("agent.pause", {"agent": "node-99-Nobody-1"}, "agent.not_found", 404)
    await c.refused("agent.drain", {"agent": "node-99-Nobody-1", "timeout_ms": -1}, "request.invalid", 400)
    await c.refused("node.drain", {"node": "node-1", "timeout_ms": 1e12}, "request.invalid", 400)
    await c.refused("node.drain", {"node": "a b"}, "request.invalid", 400)
    await c.refused("agent.resume", {}, "request.invalid", 400)
    (await c.amphi("node", "drain", "node-99")).exits(3)
    (await c.amphi("agent", "pause", "node-99-Nobody-1")).exits(3)
    (await c.amphi("node", "drain", "node-1", "--off", "--detach")).exits(2)


if __name__ == "__main__":
    main(__name__)
