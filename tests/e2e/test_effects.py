"""The effect ledger: a tool's effect outside happens once per key, whoever is killed between the intent and the report.

The server counts what reaches it by `Idempotency-Key`, holds its answers back on demand, and can be asked what it has done.
"""

import http.server
import socket
import threading

from harness import *

TWO = ["--nodes", "2"]


class Shop:
    """POST /do counts by key; GET /check?key=K says whether it was done. Requests whose path has a word of `hold` are answered later."""

    def __init__(self):
        self.done, self.tokens, self.bodies, self.asked = {}, {}, {}, []
        self.release, self.arrived, self.lock = threading.Event(), threading.Event(), threading.Lock()
        shop = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                key, token = self.headers["Idempotency-Key"], self.headers["Amphi-Fencing-Token"]
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                code = int(self.path.rsplit("/", 1)[1]) if self.path.rsplit("/", 1)[1].isdigit() else 201
                with shop.lock:
                    if code < 400:
                        shop.done[key] = shop.done.get(key, 0) + 1
                    shop.tokens.setdefault(key, []).append(int(token))
                    shop.bodies[key] = (body, self.headers.get("Content-Type"), self.headers.get("X-Team"))
                shop.arrived.set()
                if self.path.startswith("/held"):
                    shop.release.wait(60)
                self.answer(code, b'{"order": 7}')

            def do_GET(self):
                key = self.headers["Idempotency-Key"]
                with shop.lock:
                    shop.asked.append((key, self.path))
                    code = 200 if shop.done.get(key) else 404
                self.answer(code, b'"found"')

            def answer(self, code, body):
                try:
                    self.send_response(code)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    def post(self, path, check=True, retry=None, **more):
        """A task that posts there."""
        given = {"url": f"{self.url}{path}", "body": {"order": 7}, **({"check": f"{self.url}/check?key={{key}}"} if check else {}), **more}
        return {"t": {"tool": "http.post", "with": given, "outputs": {"status": "integer", "body": "string"}, **({} if retry is None else {"retry": retry})}}


class Unreachable:
    """An address whose connections are never taken: a request to it is not sent before somebody opens it."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.fillers = []
        while True:
            filler = socket.socket()
            filler.settimeout(0.3)
            try:
                filler.connect(self.socket.getsockname())
            except (socket.timeout, OSError):
                filler.close()
                break
            self.fillers.append(filler)

    def close(self):
        for filler in [*self.fillers, self.socket]:
            filler.close()


def with_shop(test):
    async def run(*arguments):
        shop = Shop()
        try:
            await test(*arguments, shop)
        finally:
            shop.close()

    run.__name__ = test.__name__
    return run


def key_of(epic, run=1):
    return f"{epic.id}/t/{run}"


async def kill(cluster, node):
    pid = next(view["pid"] for view in (await cluster.api("node.list"))["nodes"] if view["id"] == node)
    os.kill(pid, signal.SIGKILL)


async def arrives(shop):
    assert await asyncio.to_thread(shop.arrived.wait, 30), "the request reaches the server"
    shop.arrived.clear()


async def incident_of(cluster, epic):
    opened = await epic.event("incident.opened", "t", deadline=60)
    shown = await cluster.api("incident.get", {"incident": opened["data"]["incident"]})
    same((shown["state"], shown["kind"]), ("open", "unknown_outcome"))
    return opened["data"]["incident"], shown


async def laws_hold(cluster, epic):
    verdict = await cluster.api("epic.verify", {"epic": epic.id})
    assert verdict["ok"], short([law for law in verdict["laws"] if law["result"] == "violated"])
    return {law["law"]: law["result"] for law in verdict["laws"]}


@with_shop
async def test_it_happens_once_and_both_sides_know_the_key(c, shop):
    epic = await c.submit(shop.post("/do", headers={"X-Team": "blue"}))
    view = await epic.end("succeeded")
    same(view["by_task"]["t"]["outputs"], {"status": 201, "body": '{"order": 7}'})
    key = key_of(epic)
    same((shop.done[key], shop.tokens[key], shop.asked), (1, [view["by_task"]["t"]["token"]], []))
    same(shop.bodies[key], ('{"order":7}', "application/json", "blue"))
    told = [(event["type"], event["data"]["key"]) for event in epic.events if event["type"].startswith("effect.")]
    same(told, [("effect.intended", key), ("effect.done", key)])
    order = [event["type"] for event in epic.events]
    assert order.index("effect.intended") < order.index("effect.done") < order.index("task.succeeded"), order
    same((await laws_hold(c, epic))["S9"], "holds")


@with_shop
async def test_what_was_refused_did_not_happen_and_what_broke_is_a_question(c, shop):
    refused = await c.submit(shop.post("/do/422", retry=0))
    broken = await c.submit(shop.post("/do/503", check=False, retry={"attempts": 3, "backoff": "10ms"}))
    asked = await c.submit(shop.post("/do/500", retry={"attempts": 2, "backoff": "10ms"}))
    # The server may be at work on it.
    pending = await c.submit(shop.post("/do/409", check=False, retry=0))
    waiting, _ = await incident_of(c, pending)
    same(len(shop.tokens[key_of(pending)]), 1)
    await c.api("incident.resolve", {"incident": waiting, "as": "failed"})
    await pending.end("failed")
    same((await refused.end("failed"))["by_task"]["t"]["state"], "failed")
    same([event["type"] for event in refused.events if event["type"].startswith("effect.")], ["effect.intended", "effect.not_done"])
    incident, shown = await incident_of(c, broken)
    assert "http.post" in shown["summary"] and key_of(broken) in shown["summary"], shown
    same(len(shop.tokens[key_of(broken)]), 1, "it is not sent again on a guess, whatever `retry` says")
    acked = (await c.amphi("incident", "ack", incident, "-m", "looking at the log", "--json")).exits(0).json
    assert acked["acked_by"], acked
    same((await broken.event("incident.acked", "t"))["data"]["note"], "looking at the log")
    await c.refused("incident.ack", {"incident": incident}, "state.conflict", 409)
    shown = await c.api("incident.get", {"incident": incident})
    same((shown["state"], shown["acked_by"], shown["note"], bool(shown["acked_at"])), ("acked", acked["acked_by"], "looking at the log", True))
    assert "looking at the log" in (await c.amphi("incident", "show", incident)).exits(0).out
    (await c.amphi("incident", "resolve", incident, "--as", "failed")).exits(0)
    await c.refused("incident.ack", {"incident": incident}, "state.conflict", 409)
    await broken.event("effect.not_done", "t")
    await broken.end("failed")
    # The server says that the broken one did not happen, so it is tried again, and fails again.
    await asked.end("failed")
    same((len(shop.tokens[key_of(asked)]), shop.done.get(key_of(asked))), (2, None))
    for epic in (refused, broken, asked):
        await laws_hold(c, epic)


async def test_wrong_arguments_fail_the_task_before_anything_is_intended(c):
    wrong = [{}, {"url": "ftp://x"}, {"url": "http://x", "headers": {"Idempotency-Key": "1"}}, {"url": "http://x", "headers": {"a b": "1"}},
             {"url": "http://x", "headers": ["x"]}, {"url": "http://x", "check": "x"}, {"url": "http://x", "nope": 1}]
    tasks = {f"t{i}": {"tool": "http.post", "with": given, "optional": True} for i, given in enumerate(wrong)}
    epic, view = await c.run(tasks, "succeeded")
    same({task["state"] for task in view["tasks"]}, {"failed"})
    assert all("http.post" in task["error"] for task in view["tasks"]), view["tasks"]
    same([event for event in epic.events if event["type"].startswith("effect.")], [])
    await c.refused("incident.ack", {"incident": "nobody"}, "incident.not_found", 404)


@with_shop
async def test_killed_after_the_effect_the_next_attempt_asks_and_does_not_repeat_it(c, shop):
    async def work(own):
        epic = await own.submit(shop.post("/held"))
        await arrives(shop)
        await kill(own, (await epic.event("effect.intended", "t"))["node"])
        view = await epic.end("succeeded", deadline=60)
        same((shop.done[key_of(epic)], len(shop.tokens[key_of(epic)]), view["by_task"]["t"]["attempt"]), (1, 1, 2))
        same([event["type"] for event in epic.events if event["type"].startswith("effect.")], ["effect.intended", "effect.unknown", "effect.done"])
        assert shop.asked and shop.asked[0] == (key_of(epic), f"/check?key={key_of(epic).replace('/', '%2F')}"), shop.asked
        await laws_hold(own, epic)

    await in_its_own(c, work, TWO)


@with_shop
async def test_killed_after_the_effect_where_nobody_can_be_asked_a_person_is(c, shop):
    async def work(own):
        epic = await own.submit({**shop.post("/held", check=False), "after": {"needs": ["t"], "run": "true"}})
        await arrives(shop)
        await kill(own, (await epic.event("effect.intended", "t"))["node"])
        incident, _ = await incident_of(own, epic)
        await epic.event("epic.waiting")
        same((shop.done[key_of(epic)], len(epic.of("task.assigned", "t"))), (1, 1))
        await own.api("incident.ack", {"incident": incident})
        await own.api("incident.resolve", {"incident": incident, "as": "succeeded"})
        view = await epic.end("succeeded")
        same((view["by_task"]["after"]["state"], shop.done, view["by_task"]["t"]["run"]), ("succeeded", {key_of(epic): 1}, 1))
        await laws_hold(own, epic)

    await in_its_own(c, work, TWO)


@with_shop
async def test_killed_between_intent_and_effect_the_next_attempt_asks_and_does_it(c, shop):
    async def work(own):
        # It waits for a connection that nobody takes, so nothing has been sent when its node dies.
        nobody = Unreachable()
        tasks = shop.post("/do")
        tasks["t"]["with"]["url"] = f"{nobody.url}/do"
        try:
            epic = await own.submit(tasks)
            intended = await epic.event("effect.intended", "t")
            await kill(own, intended["node"])
            again = await epic.event("task.assigned", "t", count=2, deadline=60)
            assert again["data"]["token"] > intended["data"]["token"]
            # It asked, heard that nothing happened, and says so before it tries.
            await epic.event("effect.not_done", "t", deadline=60)
            await epic.event("effect.intended", "t", count=2, deadline=60)
        finally:
            nobody.close()
        same((shop.done, [key for key, _ in shop.asked][:1]), ({}, [key_of(epic)]))
        # What it waits for is gone: it fails, and certainly nothing happened.
        await epic.end("failed", deadline=60)
        types = [event["type"] for event in epic.events if event["type"].startswith("effect.")]
        same(types, ["effect.intended", "effect.unknown", "effect.not_done", "effect.intended", "effect.not_done"])
        await laws_hold(own, epic)

    await in_its_own(c, work, TWO)


@with_shop
async def test_not_started_by_a_persons_word_is_a_new_run_with_a_new_key(c, shop):
    async def work(own):
        nobody = Unreachable()
        try:
            tasks = shop.post("/do", check=False, retry=0)
            tasks["t"]["with"]["url"] = "${{ inputs.url }}/do"
            document = {"version": 1, "name": own.name("again"), "inputs": {"url": {"type": "string"}}, "tasks": tasks}
            epic = Epic(own, (await own.api("epic.submit", {"document": document, "inputs": {"url": nobody.url}}))["epic"])
            await kill(own, (await epic.event("effect.intended", "t"))["node"])
            incident, _ = await incident_of(own, epic)
        finally:
            nobody.close()
        await own.api("incident.resolve", {"incident": incident, "as": "not_started"})
        second = await epic.event("effect.intended", "t", count=2)
        same((second["run"], second["data"]["key"]), (2, key_of(epic, 2)))
        await epic.end("failed")
        await laws_hold(own, epic)

    await in_its_own(c, work, TWO)


@with_shop
async def test_the_manager_dies_in_the_middle_of_an_effect(c, shop):
    """Another node does the work: the report waits for the next Manager, nothing is done again."""

    async def work(own):
        leader = next(node["id"] for node in (await own.api("node.list"))["nodes"] if node["leads"])
        worker = "node-2" if leader == "node-1" else "node-1"
        agent = next(agent["agent"] for agent in (await own.api("agent.list"))["agents"] if agent["node"] == worker and agent["role"] == "BuildMaster")
        tasks = {"first": {"run": "sleep 1"}, "t": {**shop.post("/held")["t"], "needs": ["first"]}}
        epic = await own.submit(tasks)
        await own.api("task.assign", {"epic": epic.id, "task": "t", "agent": agent})
        await arrives(shop)
        same((await epic.event("effect.intended", "t"))["node"], worker)
        await kill(own, leader)
        shop.release.set()
        view = await epic.end("succeeded", deadline=60)
        same((shop.done, len(shop.tokens[key_of(epic)]), view["by_task"]["t"]["attempt"]), ({key_of(epic): 1}, 1, 1))
        await laws_hold(own, epic)

    await in_its_own(c, work, TWO)


async def test_a_tag_stands_in_the_ledger(c):
    folder = c.new_folder("tagged")
    script = "git init -q . && git config user.email a@b && git config user.name a && echo 1 > f && git add f && git commit -qm one"
    tasks = {
        "make": {"run": script},
        "tag": {"needs": ["make"], "tool": "git.tag", "with": {"path": ".", "name": "v1", "message": "first"}, "outputs": {"created": "boolean"}},
        "again": {"needs": ["tag"], "tool": "git.tag", "with": {"path": ".", "name": "v1"}, "outputs": {"created": "boolean"}},
    }
    epic, view = await c.run(tasks, "succeeded", workspace={"path": folder})
    same([view["by_task"][task]["outputs"]["created"] for task in ("tag", "again")], [True, False])
    same([(event["type"], event["task"]) for event in epic.events if event["type"].startswith("effect.")], [("effect.intended", "tag"), ("effect.done", "tag")])
    await laws_hold(c, epic)


if __name__ == "__main__":
    main(__name__)
