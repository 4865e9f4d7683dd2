"""Messages between agents (S4.14, S4.15, S4.23): who is told what, that it is stored, delivered and acknowledged, and that garbage stops nothing."""

import asyncio
import json

from harness import *

KEYS = {"from", "to", "type", "payload", "beadsTaskId"}


class Ear:
    """A plain NATS subscriber on what is said to one role."""

    def __init__(self, to):
        self.to, self.heard = to, []

    async def open(self, connection):
        async def take(message):
            self.heard.append((json.loads(message.data), dict(message.headers or {})))

        await connection.subscribe(f"amphi.msg.{self.to}", cb=take)
        await connection.flush()
        return self

    async def message(self, what, **wanted):
        def found():
            fitting = [said for said in self.heard if all(said[0].get(key.rstrip("_")) == value for key, value in wanted.items())]
            return fitting[0] if fitting else None

        return await within(found, what)


async def agents_of(c, role):
    listed = (await c.amphi("agent", "ls", "--json")).exits(0).json["agents"]
    return [agent["agent"] for agent in listed if agent["role"] == role]


async def told(c, agent, **wanted):
    """The first of an agent's last messages that has all these fields, or None."""
    shown = (await c.amphi("agent", "show", agent, "--json")).exits(0).json
    fitting = [said for said in shown["messages"] or [] if all(said.get(key.rstrip("_")) == value for key, value in wanted.items())]
    return fitting[0] if fitting else None


async def test_the_requirement_s_example_is_said_seen_and_heard(c):
    ear = await Ear("DeployCommander").open(c.connection)
    outputs = "printf 'migration=add_pgvector_extension\\nstatus=success\\nnewSchemaHash=a3f9c2d1\\n' > \"$AMPHI_OUTPUT\""
    epic = await c.submit({
        "migrate": {"agent": "DatabaseArchitect", "ref": "bd:ved-9d0", "run": outputs},
        "deploy": {"agent": "DeployCommander", "needs": ["migrate"], "tool": "noop"},
    })
    await epic.end("succeeded")
    said, headers = await ear.message("the migration is announced", beadsTaskId="ved-9d0")
    wanted = json.load(open(f"{ROOT}/protocol/samples/message/task_complete.json", encoding="utf-8"))
    same(said, wanted, "it is the golden sample")
    same((headers["Amphi-Epic"], headers["Amphi-Task"], headers["Amphi-Run"]), (epic.id, "migrate", "1"))
    for agent in await agents_of(c, "DeployCommander"):
        kept = await within(lambda agent=agent: told(c, agent, beadsTaskId="ved-9d0"), f"{agent} has it")
        same({key: kept[key] for key in KEYS}, wanted)
        same(kept["about"]["epic"], epic.id)
    text = (await c.amphi("agent", "show", (await agents_of(c, "DeployCommander"))[0])).exits(0).out
    assert "task_complete" in text and "add_pgvector_extension" in text, text
    assert not await told(c, (await agents_of(c, "DatabaseArchitect"))[0], beadsTaskId="ved-9d0"), "another role hears nothing of it"


async def test_failures_and_progress_are_told_to_those_who_wait(c):
    ear = await Ear("TestGuardian").open(c.connection)
    epic = await c.submit({
        "build": {"agent": "BuildMaster", "ref": "gh:77", "run": f"{BIN} progress 40 --message half; echo broken >&2; exit 2"},
        "test": {"agent": "TestGuardian", "needs": ["build"], "tool": "noop"},
    })
    await epic.end("failed")
    said, _ = await ear.message("the failure is told", beadsTaskId="77", type_="error")
    same((said["from"], said["to"], said["payload"]["task"]), ("BuildMaster", "TestGuardian", "build"))
    assert "broken" in said["payload"]["message"], said
    told, _ = await ear.message("its progress was told", type_="status_update")
    same((told["payload"], told["beadsTaskId"]), ({"percent": 40, "message": "half"}, "77"))


async def test_an_emergency_reaches_every_agent(c):
    ear = await Ear("broadcast").open(c.connection)
    epic = await c.submit({"alarm": {
        "agent": "MonitoringSentinel", "tool": "message.send", "with": {"to": "broadcast", "type": "emergency", "payload": {"alert": "disk", "severity": "P0"}},
    }})
    await epic.end("succeeded")
    said, headers = await ear.message("the emergency is seen", from_="MonitoringSentinel")
    same((said["type"], said["payload"]), ("emergency", {"alert": "disk", "severity": "P0"}))
    same(headers["Amphi-Task"], "alarm")
    for role in ["BuildMaster", "BackupKeeper", "MonitoringSentinel"]:
        agent = (await agents_of(c, role))[0]
        await within(lambda agent=agent: told(c, agent, type_="emergency", from_="MonitoringSentinel"), f"{agent} has it")


async def test_plain_nats_says_something_to_a_role(c):
    said = {"from": "MonitoringSentinel", "to": "BackupKeeper", "type": "status_update", "payload": [1, {"deep": None}]}
    stream = c.connection.jetstream()
    ack = await stream.publish("amphi.msg.BackupKeeper", json.dumps(said).encode(), headers={"Nats-Msg-Id": c.name("hello")})
    same(ack.stream, "AMPHI_MESSAGES")
    agent = (await agents_of(c, "BackupKeeper"))[0]
    kept = await within(lambda: told(c, agent, payload=[1, {"deep": None}]), "the agent has it")
    same((kept["from"], kept["live"], kept.get("about")), ("MonitoringSentinel", False, None))


async def test_help_is_asked_of_one_agent_and_answered(c):
    epic = await c.submit({
        "ask": {
            "agent": "DeployCommander", "tool": "message.send", "outputs": {"answered_by": "string", "answer": "string"},
            "with": {"to": "BackupKeeper", "type": "request_help", "payload": {"need": "a snapshot"}},
        },
    })
    view = await epic.end("succeeded")
    outputs = view["by_task"]["ask"]["outputs"]
    answer = json.loads(outputs["answer"]) if isinstance(outputs["answer"], str) else outputs["answer"]
    same((answer["agent"], answer["state"]), (outputs["answered_by"], "idle"))
    assert outputs["answered_by"] in await agents_of(c, "BackupKeeper"), outputs
    kept = await within(lambda: told(c, outputs["answered_by"], live=True), "who answered has the request")
    same(kept["payload"], {"need": "a snapshot"})
    nobody = await c.submit({"ask": {"agent": "DeployCommander", "tool": "message.send", "with": {"to": "NobodyHome", "type": "request_help"}}})
    view = await nobody.end("failed")
    assert "no agent of role NobodyHome" in view["by_task"]["ask"]["error"], view["by_task"]["ask"]


async def test_garbage_is_dropped_and_what_follows_arrives(c):
    stream = c.connection.jetstream()
    valid = {"from": "A", "to": "TestGuardian", "type": "error", "payload": None}
    for body in [b"", b"garbage", b"{}", b"\xff" * 4096, json.dumps({**valid, "type": "shout"}).encode(), json.dumps({**valid, "to": "BuildMaster"}).encode(),
                 json.dumps({**valid, "payload": "x" * 300_000}).encode(), b"[" * 100_000]:
        await stream.publish("amphi.msg.TestGuardian", body)
    await stream.publish("amphi.msg.TestGuardian", json.dumps(valid).encode(), headers={"Amphi-Codec": "bincode/9"})
    await stream.publish("amphi.msg.TestGuardian.more", json.dumps(valid).encode())
    await c.connection.publish("amphi.int.role.TestGuardian.ask", b"garbage", reply="nowhere")
    mark = c.name("after")
    await stream.publish("amphi.msg.TestGuardian", json.dumps({**valid, "payload": mark}).encode())
    agent = (await agents_of(c, "TestGuardian"))[0]
    await within(lambda: told(c, agent, payload=mark), "what follows arrives")
    info = await within(lambda: settled(stream), "the node has acknowledged everything")
    same((info.num_ack_pending, info.num_pending), (0, 0))


async def settled(stream):
    info = await stream.consumer_info("AMPHI_MESSAGES", "node-node-1")
    return info if info.num_ack_pending == 0 and info.num_pending == 0 else None


async def test_wrong_arguments_are_refused_with_their_place(c):
    for with_, word in [({"to": "A B", "type": "error"}, "neither a role"), ({"to": "BuildMaster", "type": "shout"}, "must be one of"), ({"type": "error"}, "`to` is missing")]:
        epic = await c.submit({"say": {"agent": "BuildMaster", "tool": "message.send", "with": with_}})
        view = await epic.end("failed")
        assert word in view["by_task"]["say"]["error"], view["by_task"]["say"]


if __name__ == "__main__":
    main(__name__)
