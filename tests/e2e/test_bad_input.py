"""Whatever comes in: an error with its code and place, or a bounded wait. The node stays up, nothing accepted is lost.

Chance is seeded, and the seed is printed with a failure; AMPHI_E2E_SEED plays it again.
"""

import asyncio
import json
import os
import random
import socket
import time
import urllib.parse

from harness import *

SEED = int(os.environ.get("AMPHI_E2E_SEED", "20261121"))
VERBS = """
epic.submit epic.get epic.list epic.cancel epic.events epic.verify epic.validate epic.plan epic.export task.get task.list task.retry task.cancel
task.why task.logs queue.list lock.list lock.acquire lock.renew lock.release agent.list agent.get agent.restart node.list node.get role.list tree.get incident.list incident.get
incident.ack incident.resolve
""".split()
DOCUMENTS = ("epic.submit", "epic.validate", "epic.plan")


def document(tasks, **top):
    return {"version": 1, "name": "bad", **top, "tasks": tasks}


async def judged(c, body, codes, place=True, deadline=20):
    """`submit` refuses it with one of these codes and a place, `validate` says the same and runs nothing; neither takes long."""
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    began = time.monotonic()
    try:
        answer = await c.api("epic.submit", data, deadline=deadline)
    except Refused as error:
        refused = error
        found = {problem["code"] for problem in refused.problems} | {refused.code}
        assert found & set(codes), f"refused with {found}, wanted one of {codes}: {refused}"
        assert int(refused.status) in (400, 413), refused
        if place:
            # After 200 problems, the last one tells how many more there are.
            assert refused.problems and all(problem["line"] >= 1 and problem["column"] >= 1 for problem in refused.problems[:200]), short(refused.error)
        assert len(json.dumps(refused.error)) < 200_000, "the error itself is too large"
    else:
        raise AssertionError(f"it was accepted as {answer}: {short(data, 300)}")
    assert time.monotonic() - began < deadline
    if not isinstance(body, bytes):
        same((await c.api("epic.validate", data, deadline=deadline))["ok"], False)
    return refused


# --- documents -------------------------------------------------------------------------------------------------------------------------


async def test_malformed_documents(c):
    for text in [
        "", "   \n", "\n---\n", "hello", "- a\n- b\n", "42", "null", "version: 1\n  name: [", "version: 1\nname: 'x\n", "version: 1\n\tname: x\n", "{", '{"version": 1', '{"version": 1,}', "[1, 2", "version: 1\nversion: 1\nname: x\ntasks: {a: {run: x}}\n",
        "version: 1\nname: x\ntasks:\n  a: { run: x }\n  a: { run: y }\n", "version: 1\nname: x\ntasks: { a: { run: x } }\n---\nversion: 1\nname: y\ntasks: { a: { run: x } }\n", "%YAML 9.9\n---\nx", "version: 1\nname: x\ntasks: *nobody\n", "? [a]\n: b\n", "version: 1\nname: x\ntasks: { a: { run: \"\\xZZ\" } }\n",
    ]:
        await judged(c, text, ["epic.syntax", "epic.type", "epic.limit", "epic.unknown_key"], place=False)
    for data in [b"\xff\xfe\x00", b"version: 1\nname: \xc3\x28\n", bytes(range(256)), b"\x00" * 100, b"version: 1\nname: x\x00y\ntasks: {a: {run: x}}\n"]:
        await judged(c, data, ["epic.syntax", "epic.type"], place=False)
    refused = await judged(c, "version: 1\nname: x\ntasks:\n  a: { run: x\n  b: [\n", ["epic.syntax"])
    assert refused.problems[0]["line"] >= 4, refused.problems


async def test_wrong_shapes_are_all_reported_with_their_places(c):
    refused = await judged(c, 'version: 2\nname: "Not A Name"\npriority: 9\nnonsense: 1\nphases: x\ntasks:\n  a: { run: 7, needs: b, retry: -1, timeout: soon }\n  b: []\n  c: { run: x, tool: noop }\n  d: {}\n', ["epic.type", "epic.unknown_key"])
    lines = {problem["line"] for problem in refused.problems}
    assert {1, 2, 3, 4, 5, 7, 8, 9, 10} <= lines, refused.problems
    for tasks in [{}, [], None, "x", 3, {"a": None}, {"a": "run"}, {"a": {"run": None}}, {"a": {"run": ["x"]}}, {"a": {"tool": {}}}, {"a": {"tool": "noop", "with": 3}}, {"a": {"run": "x", "matrix": {"i": []}}}, {"a": {"run": "x", "matrix": {"i": "5..1"}}}, {"a": {"run": "x", "matrix": {"i": ["bad value"]}}}, {"a": {"run": "x", "locks": ["env"]}}, {"a": {"run": "x", "env": {"A=B": "x"}}}]:
        await judged(c, document(tasks), ["epic.type", "epic.limit", "epic.unknown_key", "tool.unknown"])
    for kind in [{"prompt": "think"}, {"approve": {"by": ["user:x"]}}, {"ask": [{"id": "q", "text": "?", "type": "string"}]}]:
        await judged(c, document({"a": kind}), ["epic.kind_unsupported"])
    for kind in [{"epic": "other.yaml"}, {"epic": 3}, {"epic": {}}, {"epic": {"tasks": {}}}, {"wait": "soon"}, {"wait": -1}, {"wait": {"event": "a b"}}, {"wait": {}}]:
        await judged(c, document({"a": kind}), ["epic.type", "epic.limit"])


async def test_cycles_are_named(c):
    for tasks in [{"a": {"run": "x", "needs": ["a"]}}, {"a": {"run": "x", "needs": ["b"]}, "b": {"run": "x", "needs": ["a"]}}, {f"t{n}": {"run": "x", "needs": [f"t{(n + 1) % 50}"]} for n in range(50)}]:
        refused = await judged(c, document(tasks), ["epic.cycle"])
        assert any(problem["code"] == "epic.cycle" and next(iter(tasks)) in problem["message"] or len(tasks) == 50 for problem in refused.problems), refused.problems
    # Through phases: the first phase needs somebody of the second, who waits for the first.
    await judged(c, document({"a": {"phase": "one", "needs": ["b"], "run": "x"}, "b": {"phase": "two", "run": "x"}}, phases=["one", "two"]), ["epic.cycle"])


async def test_unknown_names(c):
    await judged_by_submit(c, document({"a": {"agent": "Nobody", "run": "x"}}), "role.unknown")
    await judged_by_submit(c, document({"a": {"tool": "rm.rf"}}), "tool.unknown")
    await judged_by_submit(c, document({"a": {"tool": "panic"}}), "tool.unknown")
    await judged(c, document({"a": {"run": "x", "needs": ["b"]}}), ["epic.unknown_task"])
    await judged(c, document({"a": {"run": "echo ${{ tasks.b.outputs.x }} ${{ inputs.y }}"}}), ["epic.unknown_task", "epic.type"])


async def judged_by_submit(c, body, code):
    refused = await c.refused("epic.submit", body, code, 400)
    assert refused.problems[0]["line"] >= 1, refused


async def test_ids_with_characters_of_paths_and_subjects(c):
    hostile = ["../x", "a.b", "a*", "a>", "a b", "a/b", "", ".", "..", "A", "-a", "a\nb", "a\r\nb", "a\x00b", "ä", "x" * 65, "$(touch x)", "a;b", "%2e", "_INBOX.x", "a\u202eb"]
    codes = ["epic.type", "epic.limit", "epic.syntax"]
    for id in hostile:
        await judged(c, document({"a": {"run": "x"}}, name=id), codes)
        await judged(c, document({id: {"run": "x"}}), codes)
        if id not in ("-a", "A"):
            await judged(c, document({"a": {"run": "x", "phase": id}}, phases=[id]), codes)
    for id in [*hostile, "no-such"]:
        for verb in ["epic.get", "epic.cancel", "epic.events", "task.list"]:
            refused = await any_refusal(c, verb, {"epic": id})
            assert refused.code in ("request.invalid", "epic.not_found"), refused
        for verb in ["task.get", "task.why", "task.logs", "task.retry"]:
            refused = await any_refusal(c, verb, {"epic": id, "task": id})
            assert refused.code in ("request.invalid", "epic.not_found", "task.not_found"), refused
        for verb, key in [("agent.get", "agent"), ("agent.restart", "agent"), ("node.get", "node"), ("incident.get", "incident")]:
            refused = await any_refusal(c, verb, {key: id})
            assert refused.code == "request.invalid" or refused.code.endswith(".not_found"), refused
    for key in ["", "a b", "x" * 5000, "a\u0000b", "ä" * 200, "../../x"]:
        try:
            reply = await c.api("epic.submit", {"document": document({"a": {"tool": "noop"}}), "id": key})
            await Epic(c, reply["epic"]).end("succeeded")
        except Refused as refused:
            same(refused.code, "request.invalid", repr(key))
    for resource in ["", "file/../x", "file//x", "file/./x", "a\nb", "x" * 3000]:
        await judged(c, document({"a": {"run": "x", "locks": {"write": [resource]}}}), ["epic.type", "epic.limit"])


async def any_refusal(c, verb, body):
    try:
        answer = await c.api(verb, body)
    except Refused as refused:
        return refused
    raise AssertionError(f"{verb} {short(body)} answered {short(answer)}")


async def test_documents_that_are_too_much(c):
    await judged(c, "version: 1\nname: big\ntasks: { a: { run: 'true' } }\n# " + "x" * (4 * 1024 * 1024), ["epic.limit"], place=False)
    await judged(c, "version: 1\nname: big\nx-big: [" + "a, " * 1_600_000 + "a]\ntasks: { a: { run: x } }\n", ["epic.limit"], place=False)
    for deep in ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "version: 1\nname: x\nx-deep: " + "[" * 70 + "]" * 70 + "\ntasks: { a: { run: x } }\n", "".join("  " * n + "a:\n" for n in range(500)), "- " * 50_000 + "x", "? " * 20_000 + "x", "a: &a [" * 5000]:
        await judged(c, deep, ["epic.limit", "epic.syntax"], place=False)
    await judged(c, document({"a": {"run": "x", "matrix": {"i": "1..100001"}}}), ["epic.limit"])
    await judged(c, document({"a": {"run": "x", "matrix": {"i": "1..100000", "j": "1..100000", "k": "1..100000"}}}), ["epic.limit"])
    await judged(c, document({"a": {"run": "x", "matrix": {"i": "1..18446744073709551615"}}}), ["epic.limit", "epic.type"])
    await judged(c, document({"a": {"run": "x", "matrix": {"i": "1..99999999999999999999999999"}}}), ["epic.limit", "epic.type"])
    await judged(c, document({"a": {"run": "x", "timeout": "99999999999999999999d"}}), ["epic.type", "epic.limit"])
    await judged(c, document({f"t{n}": {"run": "x", "needs": ["nobody"]} for n in range(20_000)}), ["epic.unknown_task"])


async def test_alias_bombs(c):
    levels = "\n".join(f"x-{n}: &l{n} [" + ", ".join([f"*l{n - 1}"] * 10) + "]" for n in range(1, 12))
    await judged(c, f'version: 1\nname: bomb\nx-0: &l0 ["lol"]\n{levels}\ntasks: {{ a: {{ run: x }} }}\n', ["epic.limit", "epic.syntax"], place=False)
    maps = "\n".join(f"x-{n}: &m{n} {{" + ", ".join(f"k{i}: *m{n - 1}" for i in range(10)) + "}" for n in range(1, 12))
    await judged(c, f"version: 1\nname: bomb\nx-0: &m0 {{ a: b }}\n{maps}\ntasks: {{ a: {{ run: x }} }}\n", ["epic.limit", "epic.syntax"], place=False)
    await judged(c, "version: 1\nname: bomb\nx-a: &a [*a]\ntasks: { a: { run: x } }\n", ["epic.limit", "epic.syntax"], place=False)
    await judged(c, "version: 1\nname: bomb\nx-a: &a { <<: *a }\ntasks: { a: { run: x } }\n", ["epic.limit", "epic.syntax", "epic.type"], place=False)
    for tag in ["!!python/object/apply:os.system ['touch x']", "!!binary aGVsbG8=", "!<tag:x> y", "!!js/function 'x'"]:
        reply = await c.api("epic.validate", f"version: 1\nname: tag\ntasks: {{ a: {{ run: {tag} }} }}\n")
        assert isinstance(reply["ok"], bool)


async def test_a_value_that_is_too_long_for_its_place(c):
    big = "x" * 100_000
    for body in [{"document": document({"a": {"run": "echo ${{ inputs.v }}"}}, inputs={"v": {"type": "string"}}), "inputs": {"v": big}}, document({"a": {"run": "echo ${{ inputs.v }}"}}, inputs={"v": {"type": "string", "default": big}})]:
        refused = await any_refusal(c, "epic.submit", body)
        same((refused.code, refused.status), ("epic.limit", "413"))
    for inputs in [{"v": {"a": 1}}, {"v": [1]}, {"w": "x"}, {"v": None}, []]:
        refused = await any_refusal(c, "epic.submit", {"document": document({"a": {"run": "echo ${{ inputs.v }}"}}, inputs={"v": {"type": "string"}}), "inputs": inputs})
        assert refused.code in ("epic.type", "request.invalid"), refused
    for envelope in [{"document": 3}, {"document": None}, {"document": []}, {"document": "x", "id": 3}, {"document": "x", "unknown": 1}, {"document": "x", "workspace_base": "relative"}]:
        await any_refusal(c, "epic.submit", envelope)


# --- requests --------------------------------------------------------------------------------------------------------------------------


def garbage():
    chance = random.Random(SEED)
    yield from [b"", b"{", b"[]", b"null", b"true", b"1e999", b'"text"', b"{}", b'{"epic": null}', b'{"epic": {"epic": {}}}', b'{"epic": "x", "epic": "y"}', b"\xff" * 64, b"\x00" * 1000, b" " * 100_000]
    yield b'{"a":' * 50_000
    yield b"[" * 60_000
    yield json.dumps({"epic": "x" * 70_000, "task": "t"}).encode()
    yield json.dumps({"epic": "e", "task": "t[" + "1," * 500 + "1]", "after": "\u0000", "limit": 10**30}).encode()
    yield json.dumps({"epic": "e", "task": "t", "after": 1e300, "limit": 1, "run": -1, "attempt": 0.5}).encode()
    yield json.dumps({key: {"$gt": ""} for key in ("epic", "task", "agent", "node", "incident", "as", "state", "after")}).encode()
    for _ in range(12):
        yield chance.randbytes(chance.choice([1, 7, 64, 1024, 65_536]))


async def test_garbage_on_every_public_subject(c):
    first = c.up.ready["nodes"][0]["pid"]

    async def one(verb, data):
        reply = await c.ask(f"amphi.api.{verb}", data)
        answer = json.loads(reply.data)
        if "Nats-Service-Error-Code" in (reply.headers or {}):
            refused = Refused(verb, answer, reply.headers)
            assert refused.code != "internal" and int(refused.status) in (400, 404, 413), f"seed {SEED}, {short(data)}: {refused}"
            assert len(reply.data) < 300_000, f"{verb}: an error of {len(reply.data)} bytes"
        else:
            assert isinstance(answer, dict), f"{verb} answers {short(answer)}"
            # Without an epic the whole cluster is verified.
            assert verb in ("epic.validate", "epic.verify") or verb.split(".")[1] in ("list", "get"), f"{verb} took {short(data)}: {short(answer)}"

    for data in garbage():
        await asyncio.gather(*(one(verb, data) for verb in VERBS))
    # A subject that nobody serves is answered at once, too.
    for subject in ["amphi.api.epic.explode", "amphi.api.epic", "amphi.api.task.get.more"]:
        try:
            await c.ask(subject, b"{}", deadline=5)
            raise AssertionError(f"{subject} answered")
        except NoRespondersError:
            pass
    assert alive(first)


def mutations(chance, value):
    """Every number and text of a value replaced, one at a time."""
    if isinstance(value, dict):
        for key in value:
            for changed in mutations(chance, value[key]):
                yield {**value, key: changed}
            yield {k: v for k, v in value.items() if k != key}
    elif isinstance(value, list):
        for position, item in enumerate(value):
            for changed in mutations(chance, item):
                yield value[:position] + [changed] + value[position + 1:]
        yield value * 50
    elif isinstance(value, bool) or value is None:
        yield "x"
    elif isinstance(value, (int, float)):
        yield from (0, 2**32 - 1, 2**64 - 1, -1, 1.5)
    else:
        yield from ("", "a.b", "../..", "x" * 70_000, 7)


def not_here(value):
    """A golden sample with the names of somebody else's cluster: what it says must not be believed of this one."""
    return json.loads(json.dumps(value).replace("node-1", "ghost-1").replace("node-2", "ghost-2"))


async def test_garbage_on_the_internal_subjects(c):
    chance = random.Random(SEED)
    samples = {}
    for name in sorted(os.listdir(f"{ROOT}/protocol/samples/input")):
        with open(f"{ROOT}/protocol/samples/input/{name}", encoding="utf-8") as file:
            samples[name.split(".")[0]] = not_here(json.load(file))
    inputs = "amphi.int.from.ghost-1.shard.0.input"
    # As a node: clients may not even speak there.
    node = await c.up.as_node()

    async def ask(data):
        return json.loads((await node.request(inputs, data if isinstance(data, bytes) else data.encode(), timeout=DEADLINE)).data)

    # Shapes that are no request at all are refused as such.
    for data in [*garbage(), b'{"inputs": 3}', b'{"inputs": [3]}', b'{"inputs": [{"submit": {}}]}', b'{"inputs": [{"no_such": {}}]}', b'{"inputs": [' + b"{}," * 10_000 + b"{}]}"]:
        same((await ask(data)).get("error", {}).get("code"), "request.invalid", short(data, 200))
        await node.publish(inputs, data)
    # What looks right but is about epics and nodes that are not there is stale or refused, and changes nothing.
    for name in ("attempt", "agent", "cancel_epic", "cancel_task", "retry_task", "resolve_incident"):
        for changed in [samples[name], *mutations(chance, samples[name])]:
            reply = await ask(json.dumps({"inputs": [changed]}))
            assert "error" in reply or all("refused" in result for result in reply["results"]), f"{short(changed, 500)} → {reply}"
    # Nobody but the Manager itself says who leads, what time it is, who is silent or lost; and a submission comes by the front door.
    for name in ("lead", "tick", "lose_node", "silent", "submit"):
        reply = await ask(json.dumps({"inputs": [samples[name]]}))
        same(reply.get("error", {}).get("code"), "request.invalid", f"{name} from outside")
    for subject in ["amphi.int.from.ghost-1.shard.0.heartbeat", "amphi.int.from.ghost-1.shard.0.death", "amphi.int.from.node-1.shard.0.heartbeat", "amphi.int.from.node-1.shard.0.death", "amphi.int.node.node-1.command.0", "amphi.int.node.node-1.tree", "amphi.int.node.ghost.command.0", "amphi.int.from.ghost-1.shard.1.input"]:
        for data in [*garbage(), *(b"AM\x01\x01" + chance.randbytes(n) for n in (0, 1, 8, 64, 4096)), b"AM\x01\x01" + b"\xfd" + b"\xff" * 8 + b"x", b"AM\x01\x01" + b"\xff" * 200, b"AM\x02\x01x", b"AM\x01\x09x"]:
            await node.publish(subject, data)
            await c.connection.publish(subject, data)
    await node.flush()
    await node.close()
    await c.connection.flush()
    same((await c.api("node.list"))["nodes"][0]["leads"], [0])


# --- the wire --------------------------------------------------------------------------------------------------------------------------


class Wire:
    """A NATS connection by hand, for what a proper client would not send."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=20)
        self.buffer = b""
        self.line()
        login = {"verbose": False, "pedantic": False, "headers": True, "user": parts.username, "pass": urllib.parse.unquote(parts.password), "lang": "raw", "version": "0", "no_responders": True}
        self.send(b"CONNECT " + json.dumps(login).encode() + b"\r\nPING\r\n")
        answer = self.line()
        assert answer == b"PONG", answer

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        while b"\r\n" not in self.buffer:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("the server closed the connection")
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def message(self):
        """The next message: its headers as raw bytes, and its body."""
        while True:
            words = self.line().split()
            if words[:1] == [b"PING"]:
                self.send(b"PONG\r\n")
            elif words[:1] in ([b"MSG"], [b"HMSG"]):
                head = int(words[-2]) if words[0] == b"HMSG" else 0
                total = int(words[-1])
                while len(self.buffer) < total + 2:
                    self.buffer += self.socket.recv(65536)
                data, self.buffer = self.buffer[:total], self.buffer[total + 2:]
                return data[:head], data[head:]
            elif words[:1] == [b"-ERR"]:
                raise ConnectionError(b" ".join(words).decode())

    def ask(self, subject, headers, body):
        """`headers` are the raw bytes after the version line."""
        head = b"NATS/1.0\r\n" + headers + b"\r\n\r\n"
        self.send(b"SUB _INBOX.raw 1\r\nHPUB %s _INBOX.raw %d %d\r\n%s%s\r\n" % (subject.encode(), len(head), len(head) + len(body), head, body))
        answer = self.message()
        self.send(b"UNSUB 1\r\n")
        return answer

    def close(self):
        self.socket.close()


HEADERS = [
    b"Nats-Msg-Id: a\nb", b"Nats-Msg-Id: a\rb", b"Nats-Msg-Id: a\r\n folded", b"Nats-Msg-Id:", b"Nats-Msg-Id: ", b"Nats-Msg-Id: a\x00b", b"Nats-Msg-Id: \xff\xfe",
    b"Nats-Msg-Id: " + b"x" * 10_000, b"Nats-Msg-Id: one\r\nNats-Msg-Id: two", b"no colon at all", b": empty", b"Nats-Msg-Id: a\r\nNats-Service-Error-Code: 1", b"X\n: y",
    b"\r\n\r\nNats-Msg-Id: late", b"Nats-Msg-Id: \xe2\x80\xae",
]


async def test_nobody_but_the_nodes_writes_to_the_journal(c):
    """The record of everything: one foreign message in it, or one missing, and no Manager could lead again."""
    for body in [b"", b"garbage", b"{}", b"\xff" * 4096]:
        await c.connection.publish("amphi.journal.0", body)
    for verb in ["DELETE", "PURGE", "UPDATE", "MSG.DELETE"]:
        await c.connection.publish(f"$JS.API.STREAM.{verb}.AMPHI_JOURNAL_0", b'{"seq":1,"name":"AMPHI_JOURNAL_0"}')
    await c.connection.flush()
    epic, _ = await c.run({"a": {"tool": "noop"}}, "succeeded")
    same((await c.api("epic.verify", json.dumps({"epic": epic.id})))["ok"], True)


async def test_header_values_with_line_breaks(c):
    """Such a header costs its sender the answer; others are served on, and the node lives."""

    async def work(own):
        body = json.dumps({"version": 1, "name": "wire", "tasks": {"a": {"tool": "noop"}}}).encode()

        def ask(headers, text):
            wire = Wire(own.up.url)
            wire.socket.settimeout(1)
            try:
                return wire.ask("amphi.api.epic.submit", headers, text)
            except (ConnectionError, socket.timeout):
                return None
            finally:
                wire.close()

        pid = own.up.ready["nodes"][0]["pid"]
        beside = await own.submit({"a": {"run": "sleep 600"}})
        await beside.event("task.started", "a")
        for headers in HEADERS:
            answer = await asyncio.to_thread(ask, headers, body)
            if answer and answer[1]:
                reply = json.loads(answer[1])
                if "error" in reply:
                    assert reply["error"]["code"] in ("request.invalid", "submit.conflict"), (headers, reply)
                else:
                    await within(lambda: ended(own, reply["epic"]), f"what was accepted with {headers[:40]} ends")
            await within(lambda: answers(own), f"others are answered after {headers[:40]}", 15)
        # A document whose error text holds line breaks must not break the headers of the reply.
        for text in [b'version: 1\nname: "a\\r\\nInjected: yes"\ntasks: {a: {run: x}}\n', b'version: 1\nname: x\ntasks: { "a\\r\\n\\r\\nbody": { run: x } }\n']:
            head, data = await asyncio.to_thread(ask, b"A: b", text)
            assert b"\r\nInjected" not in head and json.loads(data)["error"], (head, data)
        assert alive(pid), "the node lives"
        same((await beside.task("a"))["attempt"], 1, "what ran runs on")
        await own.api("epic.cancel", {"epic": beside.id})
        await beside.end("cancelled")

    await in_its_own(c, work)


async def test_a_malformed_header_of_a_client_on_an_internal_subject_reaches_nobody(c):
    async def work(own):
        done, _ = await own.run({"a": {"run": "true"}}, "succeeded")

        def attack():
            wire = Wire(own.up.url)
            head = b"NATS/1.0\r\nA: b\rc\r\n\r\n"
            wire.send(b"HPUB amphi.int.from.node-1.shard.0.input %d %d\r\n%sx\r\nPING\r\n" % (len(head), len(head) + 1, head))
            wire.line()
            wire.close()

        for _ in range(2):
            await asyncio.to_thread(attack)
            again = await within(lambda: accepted(own, own.name("after")), "a submission is accepted again", 45)
            await within(lambda: ended(own, again), "it ends", 45)
        same((await own.api("epic.get", {"epic": done.id}))["state"], "succeeded", "nothing accepted is lost")
        same((await own.api("node.list"))["nodes"][0]["pid"], own.up.ready["nodes"][0]["pid"], "the node lives on")

    await in_its_own(c, work)


async def answers(own):
    try:
        return (await own.api("node.list", deadline=1))["nodes"] and True
    except (AssertionError, Refused, nats.errors.Error, OSError):
        return None


async def test_a_client_that_never_reads_its_replies(c):
    big = await c.submit({"m": {"matrix": {"i": "1..600"}, "tool": "noop"}}, project=c.name("p"))
    await big.end("succeeded", deadline=120)
    wires = [Wire(c.up.url) for _ in range(4)]

    def flood(wire):
        wire.socket.settimeout(5)
        ask = json.dumps({"epic": big.id}).encode()
        one = b"PUB amphi.api.epic.get _INBOX.deaf %d\r\n%s\r\n" % (len(ask), ask)
        try:
            wire.send(b"SUB _INBOX.deaf 1\r\n")
            for _ in range(20):
                wire.send(one * 20)
        except OSError:
            pass

    began = time.monotonic()
    flooded = [asyncio.create_task(asyncio.to_thread(flood, wire)) for wire in wires]
    # Meanwhile, and after it, others are served.
    for _ in range(5):
        await c.run({"a": {"tool": "noop"}}, "succeeded")
    await asyncio.gather(*flooded)
    await c.run({"a": {"tool": "noop"}}, "succeeded")
    same((await c.api("epic.get", {"epic": big.id}))["state"], "succeeded")
    assert time.monotonic() - began < DEADLINE
    for wire in wires:
        wire.close()


async def test_a_payload_over_the_servers_limit_ends_that_connection_only(c):
    def work():
        wire = Wire(c.up.url)
        try:
            wire.send(b"PUB amphi.api.epic.submit _INBOX.big %d\r\n" % (9 * 1024 * 1024))
            wire.send(b"x" * (9 * 1024 * 1024) + b"\r\n")
            wire.message()
        except OSError as error:
            return repr(error)
        finally:
            wire.close()
        return "answered"

    assert await asyncio.to_thread(work) != "answered"
    await c.run({"a": {"tool": "noop"}}, "succeeded")


async def test_no_access_without_credentials(c):
    parts = urllib.parse.urlsplit(c.up.url)
    for url in [f"nats://{parts.hostname}:{parts.port}", f"nats://amphi:wrong@{parts.hostname}:{parts.port}"]:
        try:
            connection = await nats.connect(url, allow_reconnect=False, connect_timeout=5, error_cb=nothing_to_say)
        except Exception:
            continue
        await connection.close()
        raise AssertionError(f"{url} let us in")


# --- very large, and afterwards ----------------------------------------------------------------------------------------------------------


async def test_a_document_of_100_000_tasks(c):
    text = "version: 1\nname: huge\ntasks:\n" + "".join(f"  t{n}: {{tool: noop}}\n" for n in range(100_000))

    async def work(own):
        pid = own.up.ready["nodes"][0]["pid"]
        try:
            epic = Epic(own, (await own.api("epic.submit", text, deadline=120))["epic"])
        except Refused as refused:
            same((refused.code, refused.status), ("epic.limit", "413"))
        else:
            page = await own.api("epic.get", {"epic": epic.id, "limit": 10}, deadline=60)
            same((len(page["tasks"]), sum(page["counts"].values())), (10, 100_000))
            # Others are not starved by it.
            await own.run({"a": {"tool": "noop"}}, "succeeded", priority=0)
            await own.api("epic.cancel", {"epic": epic.id}, deadline=60)

            async def over():
                return (await own.api("epic.get", {"epic": epic.id, "limit": 1}, deadline=60))["state"] == "cancelled" or None

            await within(over, "it is cancelled", 120)
            same((await own.api("epic.verify", {"epic": epic.id}, deadline=120))["ok"], True)
        assert alive(pid), "the node stays up"
        await own.run({"a": {"run": "true"}}, "succeeded")

    await in_its_own(c, work)


@alone
async def test_the_node_still_works_and_nothing_broke_on_the_way(c):
    same(alive(c.up.ready["nodes"][0]["pid"]), True, "the node is the one that began")
    tree = (await c.api("tree.get"))["nodes"][0]["root"]
    broken = {child["name"]: (child["restarts"], child["last_exit"]) for child in tree["children"] if child["restarts"] or child["state"] != "running"}
    same(broken, {}, "what had to be started again")
    assert "panicked" not in c.up.log(100_000), [line for line in c.up.log(100_000).splitlines() if "panicked" in line][:5]
    _, view = await c.run({"a": {"run": "echo k=v >> $AMPHI_OUTPUT"}, "b": {"needs": ["a"], "run": "test ${{ tasks.a.outputs.k }} = v"}}, "succeeded")
    same(len(view["tasks"]), 2)


if __name__ == "__main__":
    main(__name__)
