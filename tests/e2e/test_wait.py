"""`wait`: a duration, or the first message on a NATS subject. No agent holds it, and no restart loses it."""

from harness import *


async def held(epic, key="w"):
    """The wait has begun, and the cluster listens."""
    return await epic.event("task.waiting", key, reason="event")


async def said(c, subject, body):
    """Sends a message with a reply subject until somebody takes it: right after a restart nobody listens yet."""

    async def taken():
        try:
            reply = json.loads((await c.connection.request(subject, body, timeout=5)).data)
        except (NoRespondersError, nats.errors.TimeoutError):
            return None
        return reply if reply.get("taken") else None

    return await within(taken, f"a message on {subject} is taken")


async def test_a_duration_needs_no_agent(c):
    """Nobody has the capacity for it, and it ends by the clock, never early."""
    epic = await c.submit({"w": {"wait": "1500ms"}, "after": {"needs": ["w"], "run": "true"}})
    waiting = await held(epic)
    task = await epic.task("w")
    same((task["state"], task["reason"], task["kind"], task["agent"], task["node"]), ("waiting", "event", "wait", None, None))
    view = await epic.end("succeeded")
    ended = await epic.event("task.succeeded", "w")
    assert milliseconds(ended["ts"]) - milliseconds(waiting["ts"]) >= 1500, (waiting, ended)
    same((view["by_task"]["w"]["agent"], view["by_task"]["w"]["outputs"]), (None, {}))
    same(epic.of("task.assigned", "w"), [])


async def test_an_event_brings_its_subject_and_data_to_dependents(c):
    """JSON is taken as JSON, anything else as text; a wildcard shows which subject it was; the sender hears of the commit."""
    tasks = {
        "w": {"wait": {"event": "e2e.${{ inputs.env }}.*"}},
        "text": {"wait": {"event": "e2e.text"}},
        "after": {
            "needs": ["w", "text"],
            "env": {"S": "${{ tasks.w.outputs.subject }}", "D": "${{ tasks.w.outputs.data }}", "T": "${{ tasks.text.outputs.data }}"},
            "run": 'echo "$S $D $T"',
        },
    }
    document = {"version": 1, "name": c.name("wait"), "inputs": {"env": "prod"}, "tasks": tasks}
    epic = Epic(c, (await c.api("epic.submit", {"document": document}))["epic"])
    await held(epic)
    await held(epic, "text")
    why = await c.api("task.why", {"epic": epic.id, "task": "w"})
    same([(wait["reason"], wait["on"]) for wait in why["waits"]], [("event", "a message on e2e.prod.*")])
    reply = await said(c, "e2e.prod.yes", b'{"by": "dana", "n": 3}')
    assert reply["index"] > 0 and reply["epoch"] > 0, reply
    await said(c, "e2e.text", b"plain words")
    view = await epic.end("succeeded")
    same(view["by_task"]["w"]["outputs"], {"subject": "e2e.prod.yes", "data": {"by": "dana", "n": 3}})
    written = await epic.log_has("after", "plain words")
    assert "e2e.prod.yes" in written and "dana" in written, written
    try:
        await c.connection.request("e2e.prod.yes", b"{}", timeout=5)
        raise AssertionError("somebody still listens")
    except NoRespondersError:
        pass


async def test_one_large_message_ends_all_that_wait_and_nothing_later(c):
    """Each keeps a copy, more than one commit can hold; the one that begins to wait after it hears the next one only."""
    tasks = {
        "w": {"matrix": {"i": "1..60"}, "wait": {"event": "e2e.many"}},
        "first": {"wait": {"event": "e2e.many"}},
        "second": {"needs": ["first"], "wait": {"event": "e2e.many"}},
    }
    epic = await c.submit(tasks)
    for key in ("w[1]", "w[60]", "first"):
        await held(epic, key)
    await said(c, "e2e.many", json.dumps("y" * 60_000).encode())
    await held(epic, "second")
    states = sorted(task["state"] for task in (await epic.get())["tasks"])
    same(states, ["succeeded"] * 61 + ["waiting"])
    await said(c, "e2e.many", b"2")
    view = await epic.end("succeeded")
    same(view["by_task"]["second"]["outputs"]["data"], 2)


async def test_too_large_a_message_is_refused_and_the_wait_goes_on(c):
    epic = await c.submit({"w": {"wait": {"event": "e2e.large"}}})
    await held(epic)

    async def refused():
        try:
            return json.loads((await c.connection.request("e2e.large", b"x" * 70_000, timeout=5)).data)["error"]
        except NoRespondersError:
            return None

    error = await within(refused, "the large message is refused")
    same((error["code"], (await epic.task("w"))["state"]), ("epic.limit", "waiting"))
    await said(c, "e2e.large", b"x" * 60_000)
    await epic.end("succeeded")


async def test_an_event_that_does_not_come_is_a_timeout(c):
    epic, view = await c.run({"w": {"wait": {"event": "e2e.never"}, "timeout": "300ms"}, "after": {"needs": ["w"], "run": "true"}}, "failed")
    same((await epic.event("task.failed", "w"))["data"]["cause"], "timeout")
    same((view["by_task"]["w"]["state"], "timeout" in view["by_task"]["w"]["error"]), ("failed", True))


async def test_a_wait_can_be_cancelled(c):
    epic = await c.submit({"w": {"wait": "1h"}, "e": {"wait": {"event": "e2e.cancelled"}}})
    await held(epic)
    await held(epic, "e")
    await c.api("epic.cancel", {"epic": epic.id})
    view = await epic.end("cancelled")
    same({task["state"] for task in view["tasks"]}, {"cancelled"})


async def test_what_cannot_be_awaited_is_refused_with_its_place(c):
    text = """version: 1
name: bad
tasks:
  a: { wait: { event: $SYS.x } }
  b: { wait: { event: amphi.x } }
  c: { wait: { event: a b } }
  d: { wait: { event: '>' } }
  e: { wait: {} }
  f: { wait: 5m, agent: BuildMaster }
  g: { wait: soon }
"""
    result = (await c.amphi("epic", "validate", c.file(text), "--json")).exits(2)
    same({problem["line"] for problem in result.json["problems"]}, set(range(4, 11)), result.json)
    assert all(problem["hint"] for problem in result.json["problems"]), result.json
    await c.refused("epic.submit", text, "epic.type")


@alone
async def test_a_wait_outlives_its_manager(c):
    """kill -9 of the node that leads, while tasks wait; the message comes afterwards."""
    epic = await c.submit({"w": {"wait": {"event": "e2e.late.>"}}, "d": {"wait": "2s"}, "after": {"needs": ["w", "d"], "run": "true"}})
    await held(epic)
    leader = next(node for node in (await c.api("node.list"))["nodes"] if node["leads"])
    os.kill(leader["pid"], signal.SIGKILL)
    reply = await said(c, "e2e.late.a.b", b"[1]")
    assert reply["index"] > 0, reply
    view = await epic.end("succeeded")
    same(view["by_task"]["w"]["outputs"], {"subject": "e2e.late.a.b", "data": [1]})
    same(len(epic.of("task.succeeded", "w")), 1)


if __name__ == "__main__":
    main(__name__)
