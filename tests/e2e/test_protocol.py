"""The NATS protocol as a stranger speaks it: subjects, bodies, headers, events, paging, errors (`interface.md` sections 4 and 5)."""

import asyncio
import json

from harness import *

EPIC_KEYS = {"epic", "name", "project", "priority", "state", "inputs", "submitted_by", "submitted_at", "ended_at"}
ENDPOINTS = """
epic.submit epic.get epic.list epic.cancel epic.events epic.verify epic.validate epic.plan epic.export task.get task.list task.retry task.cancel
task.why task.logs queue.list lock.list lock.acquire lock.renew lock.release agent.list agent.get agent.restart node.list node.get role.list tree.get incident.list incident.get
incident.ack incident.resolve
""".split()
LAWS = [f"S{n}" for n in range(1, 20)] + [f"L{n}" for n in range(1, 9)]

DOCUMENT = """
version: 1
name: {name}
title: A small release of ${{{{ inputs.tag }}}}
inputs: {{ tag: {{ type: string, default: v1 }}, count: {{ type: integer, default: 2 }} }}
phases: [build, check]
tasks:
  build: {{ phase: build, agent: BuildMaster, run: 'echo "built=${{{{ inputs.tag }}}}" >> "$AMPHI_OUTPUT"' }}
  unit: {{ phase: check, agent: TestGuardian, matrix: {{ db: [pg16, pg17], i: 1..2 }}, run: 'echo ${{{{ matrix.db }}}} ${{{{ matrix.i }}}}' }}
  write_it: {{ phase: check, locks: {{ write: [env/{name}], read: [db/{name}] }}, run: 'echo ${{{{ tasks.build.outputs.built }}}}' }}
"""


async def test_from_submit_to_the_last_event(c):
    name = c.name("release")
    reply = await c.api("epic.submit", DOCUMENT.format(name=name))
    same(reply["duplicate"], False)
    assert reply["epoch"] >= 1 and reply["index"] >= 1, reply
    epic = Epic(c, reply["epic"])
    assert epic.id.startswith(f"{name}-"), epic.id
    view = await epic.end("succeeded")
    events = epic.events
    same(events[0]["type"], "epic.submitted")
    same(events[-1]["type"], "epic.succeeded")
    for event in events:
        assert event.keys() >= EVENT_KEYS, event
        assert TIME.fullmatch(event["ts"]), event
        assert isinstance(event["data"], dict), event
        if event["task"] is None:
            assert event["run"] is None and event["attempt"] is None, event
        else:
            same(event["run"], 1, event)
    same(sorted(event["ts"] for event in events), [event["ts"] for event in events], "time never goes back")
    for task in ["build", "unit[pg16,1]", "unit[pg16,2]", "unit[pg17,1]", "unit[pg17,2]", "write_it"]:
        kinds = [event["type"] for event in epic.of(task=task)]
        wanted = ["task.ready", "task.assigned", "task.started", "task.succeeded"]
        same([kind for kind in kinds if kind in wanted], wanted, task)
        assigned = epic.of("task.assigned", task)[0]
        assert isinstance(assigned["data"]["token"], int) and assigned["attempt"] == 1, assigned
        assert assigned["agent"] and assigned["node"] == "node-1", assigned
    same([event["agent"].split("-")[2] for event in epic.of("task.assigned", "build")], ["BuildMaster"])
    granted, released = epic.of("lock.granted"), epic.of("lock.released")
    same({(event["data"]["resource"], event["data"]["mode"]) for event in granted}, {(f"env/{name}", "write"), (f"db/{name}", "read")})
    same({event["data"]["token"] for event in granted + released}, {epic.of("task.assigned", "write_it")[0]["data"]["token"]}, "one token for the set")
    same(len(released), 2)
    # The same from the journal.
    history = await c.api("epic.events", {"epic": epic.id})
    same(history["next"], None)
    same(history["events"], events, "the stream and the journal tell the same")
    # And the last word.
    same(view.keys() >= EPIC_KEYS | {"tasks"}, True, view.keys())
    same((view["name"], view["project"], view["priority"], view["submitted_by"]), (name, "default", 2, "admin"))
    same(view["inputs"], {"tag": "v1", "count": 2})
    assert TIME.fullmatch(view["submitted_at"]) and TIME.fullmatch(view["ended_at"]), view
    for task in view["tasks"]:
        assert task.keys() >= TASK_KEYS, task
        same((task["epic"], task["state"], task["run"], task["attempt"], task["exit_code"]), (epic.id, "succeeded", 1, 1, 0), task)
        same((task["error"], task["reason"], task["node"], task["kind"]), (None, None, "node-1", "run"), task)
        assert TIME.fullmatch(task["started_at"]) and task["started_at"] <= task["ended_at"], task
    same(view["by_task"]["build"]["outputs"], {"built": "v1"})
    same(view["by_task"]["build"]["needs"], [])
    assert view["by_task"]["unit[pg17,2]"]["started_at"] >= view["by_task"]["build"]["ended_at"], "a task waits for the phase before"


async def test_event_subjects_ids_and_numbers(c):
    epic, _ = await c.run({"sh_ard": {"matrix": {"db": ["a:b", "c.d"]}, "run": "true"}, "one": {"run": "true"}}, "succeeded")
    ordinals = {}
    for subject, headers, event in c.feed.messages:
        same(headers.get("Nats-Msg-Id"), f"{event['shard']}-{event['seq']}", subject)
        tokens = subject.split(".")
        same(len(tokens), 5, subject)
        same(tokens[:2], ["amphi", "evt"])
        same(tokens[2], event["epic"] or "_", subject)
        same(tokens[4], event["type"].replace(".", "-"), subject)
        if event["task"] is None:
            same(tokens[3], "_", subject)
        elif "[" not in event["task"]:
            same(tokens[3], event["task"], subject)
        else:
            base, ordinal = tokens[3].rsplit("-", 1)
            same(base, event["task"].split("[")[0], subject)
            assert ordinal.isdigit(), subject
            same(ordinals.setdefault((event["epic"], event["task"]), ordinal), ordinal, "the ordinal of a run never changes")
    found = {task: ordinal for (id, task), ordinal in ordinals.items() if id == epic.id}
    same(found.keys(), {"sh_ard[a:b]", "sh_ard[c.d]"})
    same(len(set(found.values())), 2)
    numbers = [event["seq"] for _, _, event in c.feed.messages]
    same(numbers, list(range(numbers[0], numbers[0] + len(numbers))), "`seq` is dense")
    same(numbers[0], 1)


async def test_submit_takes_yaml_json_and_an_envelope(c):
    name = c.name()
    text = f"version: 1\nname: {name}\nproject: apart\npriority: 0\ninputs: {{ n: {{ type: integer, default: 1 }} }}\ntasks: {{ a: {{ tool: noop }} }}\n"
    value = {"version": 1, "name": name, "project": "apart", "priority": 0, "inputs": {"n": {"type": "integer", "default": 1}}, "tasks": {"a": {"tool": "noop"}}}
    for body, n in [
        (text, 1), (json.dumps(value), 1), ({"document": text}, 1), ({"document": value}, 1),
        ({"document": text, "inputs": {"n": 7}}, 7), ({"document": value, "inputs": {"n": 7}, "id": f"{name}-x"}, 7),
    ]:
        epic = Epic(c, (await c.api("epic.submit", body))["epic"])
        view = await epic.end("succeeded")
        same((view["name"], view["project"], view["priority"], view["inputs"]), (name, "apart", 0, {"n": n}), body)
        same(view["by_task"]["a"]["kind"], "tool")


async def test_the_same_key_is_the_same_epic(c):
    name = c.name()
    document = {"version": 1, "name": name, "tasks": {"a": {"tool": "noop"}}}
    other = {"version": 1, "name": name, "tasks": {"b": {"tool": "noop"}}}
    key = f"{name}-key"
    first = await c.api("epic.submit", document, headers={"Nats-Msg-Id": key})
    same(first["duplicate"], False)
    again = await c.api("epic.submit", document, headers={"Nats-Msg-Id": key})
    same((again["epic"], again["duplicate"]), (first["epic"], True))
    refused = await c.refused("epic.submit", other, "submit.conflict", 409, headers={"Nats-Msg-Id": key})
    same(refused.error["retryable"], False)
    # A key is its project's own.
    apart = await c.api("epic.submit", {**document, "project": "elsewhere"}, headers={"Nats-Msg-Id": key})
    same(apart["duplicate"], False)
    assert apart["epic"] != first["epic"]
    # The body's `id` is the same key as the header.
    envelope = {"document": document, "id": f"{key}-2"}
    one = await c.api("epic.submit", envelope)
    two = await c.api("epic.submit", envelope, headers={"Nats-Msg-Id": f"{key}-2"})
    same((two["epic"], two["duplicate"]), (one["epic"], True))
    await c.refused("epic.submit", envelope, "request.invalid", 400, headers={"Nats-Msg-Id": "another"})
    # It holds after the end, too.
    await Epic(c, first["epic"]).end("succeeded")
    same((await c.api("epic.submit", document, headers={"Nats-Msg-Id": key}))["duplicate"], True)
    # And without a key, everything is new.
    assert (await c.api("epic.submit", document))["epic"] != (await c.api("epic.submit", document))["epic"]


async def test_twenty_senders_of_one_key_get_one_epic(c):
    document = {"version": 1, "name": c.name(), "tasks": {"a": {"tool": "noop"}}}
    key = c.name("key")
    replies = await asyncio.gather(*(c.api("epic.submit", document, headers={"Nats-Msg-Id": key}) for _ in range(20)))
    same(len({reply["epic"] for reply in replies}), 1)
    same(sorted(reply["duplicate"] for reply in replies), [False] + [True] * 19)
    await Epic(c, replies[0]["epic"]).end("succeeded")


async def test_the_micro_service_tells_about_itself(c):
    info = json.loads((await c.ask("$SRV.INFO.amphi")).data)
    same((info["type"], info["name"]), ("io.nats.micro.v1.info_response", "amphi"))
    found = {endpoint["name"]: endpoint["subject"] for endpoint in info["endpoints"]}
    for verb in ENDPOINTS:
        same(found.get(verb.replace(".", "-")), f"amphi.api.{verb}", verb)
    ping = json.loads((await c.ask("$SRV.PING.amphi")).data)
    same((ping["type"], ping["name"], ping["id"]), ("io.nats.micro.v1.ping_response", "amphi", info["id"]))
    same(json.loads((await c.ask("$SRV.PING")).data)["name"], "amphi")
    await c.api("node.list")
    stats = json.loads((await c.ask(f"$SRV.STATS.amphi.{info['id']}")).data)
    same(stats["type"], "io.nats.micro.v1.stats_response")
    by_name = {endpoint["name"]: endpoint for endpoint in stats["endpoints"]}
    assert by_name["node-list"]["num_requests"] >= 1, by_name["node-list"]


async def test_epics_are_listed_in_pages(c):
    mine = set()
    for _ in range(5):
        epic, _ = await c.run({"a": {"tool": "noop"}}, "succeeded", project="paging")
        mine.add(epic.id)
    seen, after, pages = [], None, 0
    while True:
        page = await c.api("epic.list", {"after": after, "limit": 2})
        assert len(page["epics"]) <= 2
        for epic in page["epics"]:
            assert epic.keys() >= EPIC_KEYS and "tasks" not in epic, epic.keys()
        seen += [epic["epic"] for epic in page["epics"]]
        pages, after = pages + 1, page["next"]
        if after is None:
            break
        same(len(page["epics"]), 2)
    same(len(seen), len(set(seen)), "no epic twice")
    assert mine <= set(seen) and pages >= 3, (mine, seen)
    await c.refused("epic.list", {"limit": 0}, "request.invalid", 400)
    await c.refused("epic.list", {"limit": -1}, "request.invalid", 400)
    await c.refused("epic.list", {"limit": "2"}, "request.invalid", 400)


async def test_tasks_and_events_are_read_in_pages(c):
    epic, view = await c.run({"m": {"matrix": {"i": "1..7"}, "tool": "noop"}, "z": {"needs": ["m"], "tool": "noop"}}, "succeeded")
    for verb, at in [("task.list", "tasks"), ("epic.get", "tasks")]:
        seen, after = [], None
        while True:
            page = await c.api(verb, {"epic": epic.id, "after": after, "limit": 3})
            seen += page[at]
            after = page.get("next")
            if after is None:
                break
            same(len(page[at]), 3, verb)
        same(seen, view["tasks"], verb)
    seen, after = [], 0
    while True:
        page = await c.api("epic.events", {"epic": epic.id, "after": after, "limit": 5})
        seen += page["events"]
        after = page["next"]
        if after is None:
            break
        same((len(page["events"]), after), (5, page["events"][-1]["seq"]))
    same(seen, epic.events)
    lines, after = [], None
    while True:
        page = await c.api("epic.export", {"epic": epic.id, "after": after, "limit": 4})
        lines += page["lines"]
        after = page["next"]
        if after is None:
            break
    whole = await c.api("epic.export", {"epic": epic.id})
    # Other tests go on writing, so the later one may be longer; what both have is the same.
    same(lines[:-1], whole["lines"][: len(lines) - 1], "an export in pages and one at once")


async def test_a_task_is_told_alone_and_explained(c):
    epic = await c.submit({"slow": {"run": "echo out; echo err >&2; sleep 600"}, "later": {"needs": ["slow"], "run": "true"}})
    await epic.event("task.started", "slow")
    task = await epic.task("slow")
    assert task.keys() >= TASK_KEYS, task.keys()
    same((task["state"], task["run"], task["attempt"], task["ended_at"], task["exit_code"]), ("running", 1, 1, None, None))
    same(task["token"], epic.of("task.assigned", "slow")[0]["data"]["token"])
    why = await c.api("task.why", {"epic": epic.id, "task": "later"})
    assert why.keys() >= {"epic", "task", "state", "waits"}, why
    same((why["epic"], why["task"], why["state"]), (epic.id, "later", "blocked"))
    same(why["waits"][0]["reason"], "needs")
    for wait in why["waits"]:
        assert wait.keys() >= {"reason", "on", "holder", "lease_left_ms", "place"}, wait
    same((await c.api("task.why", {"epic": epic.id, "task": "slow"}))["waits"], [])
    await epic.log_has("slow", "out")
    await epic.log_has("slow", "err")
    same((await epic.log("slow", "err")).strip(), "err")
    same((await c.api("task.list", {"epic": epic.id}))["tasks"], (await epic.get())["tasks"])
    reply = await c.api("epic.cancel", {"epic": epic.id})
    assert reply["epoch"] >= 1 and reply["index"] >= 1, reply
    view = await epic.end("cancelled")
    same({task["state"] for task in view["tasks"]}, {"cancelled"})


async def test_locks_queue_and_their_shapes(c):
    resource, project = c.name("env/shape"), c.name("p")
    holder = await c.submit({"hold": {"locks": {"write": [resource]}, "run": "sleep 600"}}, project=project)
    await holder.event("task.started", "hold")
    waiter = await c.submit({"reads": {"locks": {"read": [resource]}, "run": "true"}}, project=project)
    await waiter.event("task.waiting", "reads", reason="lock")
    lock = next(lock for lock in (await c.api("lock.list"))["locks"] if lock["resource"] == resource)
    assert lock.keys() >= {"resource", "mode", "holders", "queue"}, lock
    same(lock["mode"], "write")
    same(len(lock["holders"]), 1)
    held = lock["holders"][0]
    assert held.keys() >= {"epic", "task", "attempt", "token", "lease_left_ms"}, held
    same((held["epic"], held["task"], held["attempt"]), (holder.id, "hold", 1))
    same(held["token"], holder.of("lock.granted")[0]["data"]["token"])
    same([(w["epic"], w["task"], w["mode"]) for w in lock["queue"]], [(waiter.id, "reads", "read")])
    assert TIME.fullmatch(lock["queue"][0]["since"]), lock["queue"]
    why = await c.api("task.why", {"epic": waiter.id, "task": "reads"})
    same((why["state"], why["waits"][0]["reason"], why["waits"][0]["place"]), ("waiting", "lock", 1))
    same(why["waits"][0]["holder"]["epic"], holder.id)
    queue = await c.api("queue.list")
    mine = [task for task in queue["tasks"] if task["epic"] == waiter.id]
    same([(task["task"], task["state"], task["reason"]) for task in mine], [("reads", "waiting", "lock")])
    assert mine[0].keys() >= TASK_KEYS and "next" in queue
    same((await waiter.get())["state"] in ("running", "waiting"), True)
    await c.api("task.cancel", {"epic": holder.id, "task": "hold"})
    await waiter.end("succeeded")
    await holder.end()
    await within(lambda: gone_lock(c, resource), "a free lock is not listed")


async def gone_lock(c, resource):
    return all(lock["resource"] != resource for lock in (await c.api("lock.list"))["locks"]) or None


async def test_nodes_agents_roles_tree_and_incidents(c):
    nodes = (await c.api("node.list"))["nodes"]
    same([(node["id"], node["pid"], node["state"], node["leads"]) for node in nodes], [("node-1", c.up.ready["nodes"][0]["pid"], "alive", [0])])
    assert nodes[0].keys() >= {"id", "pid", "incarnation", "state", "leads", "running"}
    node = await c.api("node.get", {"node": "node-1"})
    same((node["id"], node["pid"], node["incarnation"]), ("node-1", nodes[0]["pid"], nodes[0]["incarnation"]))
    roles = (await c.api("role.list"))["roles"]
    names = {role["role"] for role in roles}
    assert {"BuildMaster", "TestGuardian", "DatabaseArchitect", "DeployCommander", "MonitoringSentinel", "BackupKeeper"} <= names, names
    agents = (await c.api("agent.list"))["agents"]
    for agent in agents:
        assert agent.keys() >= {"agent", "role", "skills", "node", "state", "epic", "task", "restarts"}, agent
        assert agent["node"] == "node-1" and agent["role"] in names and agent["restarts"] == 0, agent
    one = next(agent for agent in agents if agent["state"] == "idle")
    same((await c.api("agent.get", {"agent": one["agent"]}))["role"], one["role"])
    tree = (await c.api("tree.get"))["nodes"]
    same([(n["node"], n["pid"], n["state"]) for n in tree], [("node-1", nodes[0]["pid"], "alive")])
    assert "incarnation" in tree[0]
    seen = {}

    def walk(at):
        assert at.keys() >= {"name", "actor", "kind", "strategy", "restart", "restarts", "max", "within_ms", "state", "mailbox", "last_exit", "children"}, at
        assert at["kind"] in ("supervisor", "worker") and at["actor"] not in seen, at
        seen[at["actor"]] = at
        for child in at["children"]:
            walk(child)

    walk(tree[0]["root"])
    assert {agent["agent"] for agent in agents} <= {at["name"] for at in seen.values()}, "every agent is an actor of the tree"
    same((await c.api("incident.list"))["incidents"], [])


async def test_validate_and_plan_judge_without_running(c):
    name = c.name()
    good = DOCUMENT.format(name=name)
    same((await c.api("epic.validate", good))["ok"], True)
    same((await c.api("epic.validate", {"document": good, "inputs": {"count": 3}}))["problems"], [])
    bad = "version: 1\nname: bad\ntasks:\n  a: { run: 'true', needs: [nobody] }\n  b: { runn: 'true' }\n  c: { needs: [c2], run: x }\n  c2: { needs: [c], run: x }\n"
    reply = await c.api("epic.validate", bad)
    same(reply["ok"], False)
    codes = {problem["code"]: problem for problem in reply["problems"]}
    assert {"epic.unknown_task", "epic.unknown_key", "epic.cycle"} <= codes.keys(), reply
    same((codes["epic.unknown_task"]["line"], codes["epic.unknown_key"]["line"]), (4, 5))
    assert codes["epic.unknown_task"]["column"] > 1 and codes["epic.unknown_task"]["message"], reply
    refused = await c.refused("epic.submit", bad, reply["problems"][0]["code"], 400)
    same(refused.problems, reply["problems"], "submit reports all of them, too")
    plan = await c.api("epic.plan", good)
    assert plan.keys() >= {"tasks", "runs", "edges", "phases", "critical_path", "locks"}, plan
    same((plan["tasks"], plan["runs"], plan["phases"]), (3, 6, ["build", "check"]))
    same(sorted(plan["edges"]), [["build", "unit"], ["build", "write_it"]])
    same(plan["locks"].keys(), {f"env/{name}", f"db/{name}"})
    same([epic for epic in (await c.api("epic.list", {"limit": 10000}))["epics"] if epic["name"] == name], [], "nothing was submitted")
    # Unknown roles and tools: warnings to `validate` unless strict, errors to `submit`.
    lone = f"version: 1\nname: {name}\ntasks:\n  a: {{ agent: Nobody, run: 'true' }}\n  b: {{ tool: no.such }}\n"
    same((await c.api("epic.validate", lone))["ok"], True)
    strict = await c.api("epic.validate", {"document": lone, "strict": True})
    same({problem["code"] for problem in strict["problems"]}, {"role.unknown", "tool.unknown"})
    refused = await c.refused("epic.submit", lone, "role.unknown", 400)
    same({problem["code"] for problem in refused.problems}, {"role.unknown", "tool.unknown"})


async def test_verify_judges_every_law(c):
    epic, _ = await c.run({"a": {"locks": {"write": [c.name("env/v")]}, "run": "true"}}, "succeeded")
    verdict = await c.api("epic.verify", {"epic": epic.id})
    assert verdict.keys() >= {"epic", "ok", "from", "to", "hash", "laws"}, verdict
    same((verdict["epic"], verdict["ok"]), (epic.id, True))
    same([law["law"] for law in verdict["laws"]], LAWS)
    for law in verdict["laws"]:
        assert law.keys() >= {"law", "result", "checked", "evidence"} and law["result"] in ("holds", "not_exercised", "not_checkable"), law
    holds = {law["law"] for law in verdict["laws"] if law["result"] == "holds"}
    assert {"S1", "S2", "S3", "S4", "S5", "S7", "S10", "S13", "L2"} <= holds, holds


async def test_what_does_not_exist_is_404(c):
    epic, _ = await c.run({"a": {"tool": "noop"}}, "succeeded")
    for verb in "epic.get epic.cancel epic.events epic.verify epic.export task.list".split():
        await c.refused(verb, {"epic": "no-such-epic"}, "epic.not_found", 404)
    for verb in "task.get task.retry task.cancel task.why task.logs".split():
        await c.refused(verb, {"epic": "no-such-epic", "task": "a"}, "epic.not_found", 404)
        await c.refused(verb, {"epic": epic.id, "task": "b"}, "task.not_found", 404)
        await c.refused(verb, {"epic": epic.id, "task": "a[1]"}, "task.not_found", 404)
    await c.refused("agent.get", {"agent": "nobody"}, "agent.not_found", 404)
    await c.refused("agent.restart", {"agent": "nobody"}, "agent.not_found", 404)
    await c.refused("node.get", {"node": "node-77"}, "node.not_found", 404)
    await c.refused("incident.get", {"incident": "i-77"}, "incident.not_found", 404)
    await c.refused("incident.resolve", {"incident": "i-77", "as": "failed"}, "incident.not_found", 404)


async def test_what_cannot_be_now_is_409(c):
    epic, _ = await c.run({"a": {"tool": "noop"}}, "succeeded")
    refused = await c.refused("epic.cancel", {"epic": epic.id}, "state.conflict", 409)
    same(refused.error["retryable"], False)
    await c.refused("task.cancel", {"epic": epic.id, "task": "a"}, "state.conflict", 409)
    running = await c.submit({"a": {"run": "sleep 600"}})
    await running.event("task.started", "a")
    await c.refused("task.retry", {"epic": running.id, "task": "a"}, "state.conflict", 409)
    await c.api("epic.cancel", {"epic": running.id})
    await running.end("cancelled")


async def test_a_verb_without_its_fields_is_400(c):
    for verb in "epic.get epic.cancel epic.events epic.export task.get task.list task.retry task.cancel task.why task.logs agent.get agent.restart node.get incident.get incident.resolve".split():
        refused = await c.refused(verb, b"", "request.invalid", 400)
        assert "`" in refused.error["message"], refused
        await c.refused(verb, {"epic": 7, "task": [], "agent": {}, "node": 1.5, "incident": True}, "request.invalid", 400)


if __name__ == "__main__":
    main(__name__)
