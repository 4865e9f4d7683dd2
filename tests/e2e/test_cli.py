"""The command line as scripts use it: exit codes, `--json` shapes, streams, files; and `amphi up` as an operator starts and ends it."""

import asyncio
import json
import os
import signal
import stat

from harness import *

GOOD = {"version": 1, "name": "good", "tasks": {"a": {"run": "echo hello"}, "b": {"needs": ["a"], "matrix": {"i": "1..3"}, "run": "true"}}}


def epic_of(result):
    return result.json["epic"]


async def test_run_wait_json_is_events_and_then_a_result(c):
    result = (await c.amphi("run", c.file(GOOD), "--wait", "--json")).exits(0)
    *events, last = result.lines
    same(last.keys(), {"type", "epic", "state", "duration_ms", "tasks"})
    same((last["type"], last["state"], last["tasks"]), ("result", "succeeded", {"succeeded": 4}))
    assert isinstance(last["duration_ms"], int), last
    assert all(event.keys() >= EVENT_KEYS and event["epic"] == last["epic"] for event in events), short(events)
    same(events[0]["type"], "epic.submitted")
    same(events[-1]["type"], "epic.succeeded")
    same([event["seq"] for event in events], sorted({event["seq"] for event in events}), "in order, none twice")
    # `epic events` tells the same from the journal.
    history = (await c.amphi("epic", "events", last["epic"], "--json")).exits(0).lines
    same(history, events)


async def test_run_follows_to_a_failure_with_1(c):
    result = (await c.amphi("run", c.file({"version": 1, "name": "bad", "tasks": {"a": {"run": "echo why >&2; exit 3"}}}), "--wait", "--json")).exits(1)
    same((result.lines[-1]["state"], result.lines[-1]["tasks"]), ("failed", {"failed": 1}))
    text = (await c.amphi("run", c.file({"version": 1, "name": "bad", "tasks": {"a": {"tool": "fail", "with": {"message": "no luck"}}}}), "--wait")).exits(1)
    assert "no luck" in text.out and "failed" in text.out, text.out


async def test_run_of_a_cancelled_epic_ends_with_1(c):
    epic = epic_of((await c.amphi("run", c.file({"version": 1, "name": "long", "tasks": {"a": {"run": "sleep 600"}}}), "--detach", "--json")).exits(0))
    watch = asyncio.create_task(c.amphi("epic", "watch", epic, "--json"))
    await Epic(c, epic).event("task.started", "a")
    (await c.amphi("epic", "cancel", epic, "--json")).exits(0)
    result = (await watch).exits(1)
    same((result.lines[-1]["type"], result.lines[-1]["state"], result.lines[-1]["tasks"]), ("result", "cancelled", {"cancelled": 1}))
    (await c.amphi("epic", "cancel", epic, "--json")).exits(5)


async def test_detach_answers_at_once_and_the_key_is_kept(c):
    path, key = c.file(GOOD), c.name("key")
    first = (await c.amphi("run", path, "--detach", "--json", "--id", key)).exits(0).json
    assert first.keys() >= {"epic", "duplicate"} and first["duplicate"] is False, first
    again = (await c.amphi("run", path, "--detach", "--json", "--id", key)).exits(0).json
    same((again["epic"], again["duplicate"]), (first["epic"], True))
    other = c.file({**GOOD, "tasks": {"z": {"run": "true"}}})
    conflict = (await c.amphi("run", other, "--detach", "--json", "--id", key)).exits(5).json
    same(conflict["error"]["code"], "submit.conflict")
    # Who waits on a known key sees its history.
    whole = (await c.amphi("run", path, "--wait", "--json", "--id", key)).exits(0).lines
    same((whole[0]["type"], whole[-1]["state"]), ("epic.submitted", "succeeded"))


async def test_run_reads_standard_input_and_inputs(c):
    document = "version: 1\nname: from-stdin\ninputs: { who: { type: string }, n: { type: integer, default: 1 } }\ntasks: { a: { run: 'echo \"said=${{ inputs.who }} ${{ inputs.n }}\" >> $AMPHI_OUTPUT' } }\n"
    result = (await c.amphi("run", "-", "-i", "who=the world", "-i", "n=4", "--wait", "--json", stdin=document)).exits(0)
    view = await Epic(c, result.lines[-1]["epic"]).get()
    same(view["inputs"], {"who": "the world", "n": 4})
    same(view["by_task"]["a"]["outputs"], {"said": "the world 4"})
    (await c.amphi("run", "-", "--wait", "--json", stdin=document)).exits(2)
    (await c.amphi("run", "-", "-i", "who=x", "-i", "n=many", "--wait", "--json", stdin=document)).exits(2)
    (await c.amphi("run", "-", "-i", "who", "--wait", "--json", stdin=document)).exits(2)


async def test_run_timeout_is_7_and_the_epic_runs_on(c):
    result = (await c.amphi("run", c.file({"version": 1, "name": "slow", "tasks": {"a": {"run": "sleep 600"}}}), "--wait", "--json", "--timeout", "3s")).exits(7)
    last = result.lines[-1]
    same((last["type"], last["state"]), ("result", "running"))
    same((await Epic(c, last["epic"]).task("a"))["state"], "running")
    (await c.amphi("epic", "watch", last["epic"], "--timeout", "500ms", "--json")).exits(7)
    await c.api("epic.cancel", {"epic": last["epic"]})
    await Epic(c, last["epic"]).end("cancelled")


async def test_ctrl_c_detaches_with_130(c):
    path = c.file({"version": 1, "name": "slow", "tasks": {"a": {"run": "sleep 600"}}})
    process = await asyncio.create_subprocess_exec(
        BIN, "run", path, "--wait", "--json", env=plain_environment(AMPHI_NATS_URL=c.up.url), stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        while True:
            line = json.loads(await asyncio.wait_for(process.stdout.readline(), DEADLINE))
            if line["type"] == "task.started":
                break
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), DEADLINE)
        same(process.returncode, 130)
    finally:
        if process.returncode is None:
            process.kill()
    epic = Epic(c, line["epic"])
    same((await epic.get())["state"], "running")
    await c.api("epic.cancel", {"epic": epic.id})
    await epic.end("cancelled")


async def test_a_person_is_needed_with_8_until_the_incident_is_resolved(c):
    def document(name):
        return c.file({"version": 1, "name": name, "tasks": {"once": {"retry": 0, "run": "sleep 600"}, "next": {"needs": ["once"], "run": "true"}}})

    async def lose(name):
        """Kills the guard of a running task that must not be started twice: nobody knows what it did."""
        watch = asyncio.create_task(c.amphi("run", document(name), "--wait", "--json"))
        started = await c.feed.until(
            lambda: next((e for _, _, e in c.feed.messages if e["type"] == "task.started" and e["epic"].startswith(f"{name}-") and e["task"] == "once"), None),
            lambda: f"{name}/once starts",
        )
        guard = stat_of(started["data"]["pid"])[0]
        assert "guard" in command_line(guard), command_line(guard)
        os.kill(guard, signal.SIGKILL)
        result = (await watch).exits(8)
        epic = Epic(c, started["epic"])
        same((result.lines[-1]["state"], (await epic.get())["state"]), ("waiting", "waiting"))
        same((await epic.task("once"))["state"], "unknown")
        opened = await epic.event("incident.opened", "once")
        return epic, opened["data"]["incident"]

    for outcome, state, code in [("succeeded", "succeeded", 0), ("failed", "failed", 1)]:
        epic, incident = await lose(c.name(f"unknown-{outcome}"))
        listed = [i for i in (await c.amphi("incident", "ls", "--json")).exits(0).json["incidents"] if i["incident"] == incident]
        same(len(listed), 1)
        assert listed[0].keys() >= {"incident", "state", "kind", "epic", "task", "opened_at", "summary"}, listed
        same((listed[0]["state"], listed[0]["epic"], listed[0]["task"]), ("open", epic.id, "once"))
        same((await c.amphi("incident", "show", incident, "--json")).exits(0).json["incident"], incident)
        (await c.amphi("incident", "resolve", incident, "--as", "maybe", "--json")).exits(2)
        (await c.amphi("incident", "resolve", incident, "--as", outcome, "--json")).exits(0)
        view = await epic.end(state)
        same(view["by_task"]["once"]["state"], outcome)
        same(len(epic.of("task.started", "once")), 1, "it is started once")
        (await c.amphi("epic", "watch", epic.id, "--json")).exits(code)
        (await c.amphi("incident", "resolve", incident, "--as", outcome, "--json")).exits(5)
    # `not_started`: it may begin again.
    epic, incident = await lose(c.name("unknown-again"))
    (await c.amphi("incident", "resolve", incident, "--as", "not_started", "--json")).exits(0)
    await epic.event("task.started", "once", count=2)
    await c.api("epic.cancel", {"epic": epic.id})
    await epic.end("cancelled")


async def test_files_are_judged_offline_with_2(c):
    nowhere = plain_environment(XDG_DATA_HOME=c.new_folder("empty"), HOME=c.new_folder("home"))
    good, bad = c.file(GOOD), c.file("version: 1\nname: bad\ntasks:\n  a: { run: x, needs: [b] }\n  c: { run: 'echo `${{ inputs.q }}`' }\n")
    same((await command("epic", "validate", good, "--json", env=nowhere)).exits(0).json, {"ok": True, "problems": [], "warnings": []})
    judged = (await command("epic", "validate", bad, "--json", env=nowhere)).exits(2).json
    same(judged["ok"], False)
    for problem in judged["problems"]:
        assert problem.keys() >= {"file", "line", "column", "code", "message", "hint"}, problem
        same(problem["file"], bad)
    assert {"epic.unknown_task"} <= {problem["code"] for problem in judged["problems"]}, judged
    text = (await command("epic", "validate", bad, env=nowhere)).exits(2)
    assert f"{bad}:4:" in text.out + text.err, text.out + text.err
    plan = (await command("epic", "plan", good, "--json", env=nowhere)).exits(0).json
    assert plan.keys() >= {"tasks", "runs", "edges", "phases", "critical_path", "locks"}, plan
    same((plan["tasks"], plan["runs"], plan["edges"], plan["critical_path"]), (2, 4, [["a", "b"]], ["a", "b"]))
    (await command("epic", "validate", c.new_folder() + "/absent.yaml", "--json", env=nowhere)).exits(2)
    # `--dry-run` submits nothing.
    dry = (await c.amphi("run", c.file({**GOOD, "name": "only-dry"}), "--dry-run", "--json")).exits(0).json
    same(dry["runs"], 4)
    (await c.amphi("run", bad, "--dry-run", "--json")).exits(2)
    same([e for e in (await c.amphi("epic", "ls", "--json", "--all")).exits(0).json["epics"] if e["name"] == "only-dry"], [])


async def test_a_refused_document_is_2_with_its_problems(c):
    refused = (await c.amphi("run", c.file("version: 1\nname: bad\ntasks: { a: { agent: Nobody, run: x } }\n"), "--detach", "--json")).exits(2).json
    same(refused["error"]["code"], "role.unknown")
    assert refused["error"]["problems"][0]["line"] == 3, refused
    (await c.amphi("run", c.file("version: 1\n  name: [\n"), "--detach", "--json")).exits(2)


async def test_usage_is_2_and_unknown_things_are_3(c):
    for arguments in [["frobnicate"], ["run"], ["run", "x.yaml", "--wait", "--detach"], ["epic", "show"], ["task", "show", "no-slash"], ["epic", "show", "a.b"], ["up", "--nodes", "0"], ["agent", "show", "a*"]]:
        result = (await c.amphi(*arguments, "--json")).exits(2)
        same(result.json["error"]["retryable"], False)
    for arguments in [
        ["epic", "show", "no-such"], ["epic", "events", "no-such"], ["epic", "verify", "no-such"], ["epic", "export", "no-such"], ["epic", "cancel", "no-such"],
        ["epic", "watch", "no-such"], ["task", "show", "no-such/a"], ["task", "logs", "no-such/a"], ["why", "no-such/a"], ["task", "retry", "no-such/a"],
        ["agent", "show", "nobody"], ["agent", "restart", "nobody"], ["node", "show", "node-9"], ["incident", "show", "i-9"], ["task", "ls", "no-such"],
    ]:
        error = (await c.amphi(*arguments, "--json")).exits(3).json["error"]
        assert error["code"].endswith(".not_found"), error
    (await c.amphi("--help")).exits(0)
    (await c.amphi("--version")).exits(0)


async def test_no_cluster_is_6(c):
    empty = c.new_folder("empty")
    nowhere = plain_environment(HOME=empty, XDG_DATA_HOME=empty)
    for arguments in [["epic", "ls"], ["run", c.file(GOOD), "--detach"], ["tree"], ["--nats", "nats://127.0.0.1:9", "epic", "ls"], ["--data", empty, "node", "ls"]]:
        error = (await command(*arguments, "--json", env=nowhere)).exits(6).json["error"]
        same((error["code"], error["retryable"]), ("cluster.unreachable", True))
        assert error["hint"], error
    (await command("--nats", "not a url", "epic", "ls", "--json", env=nowhere)).exits(2)
    # Wrong credentials are no cluster either, and are never shown.
    secret = c.up.url.split(":")[2].split("@")[0]
    wrong = await command("--nats", c.up.url.replace(secret, "wrong-password"), "epic", "ls", env=nowhere)
    wrong.exits(6)
    assert "wrong-password" not in wrong.out + wrong.err, wrong.err


async def test_the_data_folder_names_its_cluster(c):
    empty = c.new_folder("empty")
    nowhere = plain_environment(HOME=empty, XDG_DATA_HOME=empty)
    nodes = (await command("--data", c.up.data, "node", "ls", "--json", env=nowhere)).exits(0).json["nodes"]
    same([node["id"] for node in nodes], ["node-1"])


async def test_lists_and_shapes_of_each_noun(c):
    epic = epic_of((await c.amphi("run", c.file({"version": 1, "name": "nouns", "tasks": {"a": {"run": "echo to-out; echo to-err >&2"}, "b": {"needs": ["a"], "run": "sleep 600"}}}), "--detach", "--json")).exits(0))
    await Epic(c, epic).event("task.started", "b")
    show = (await c.amphi("epic", "show", epic, "--json")).exits(0).json
    same([(task["task"], task["state"]) for task in show["tasks"]], [("a", "succeeded"), ("b", "running")])
    assert all(task.keys() >= TASK_KEYS for task in show["tasks"])
    ls = (await c.amphi("epic", "ls", "--json")).exits(0).json
    assert epic in [e["epic"] for e in ls["epics"]] and "next" in ls
    tasks = (await c.amphi("task", "ls", epic, "--json")).exits(0).json
    same([task["task"] for task in tasks["tasks"]], ["a", "b"])
    assert "next" in tasks
    same([t["task"] for t in (await c.amphi("task", "ls", epic, "--state", "running", "--json")).exits(0).json["tasks"]], ["b"])
    same((await c.amphi("task", "show", f"{epic}/a", "--json")).exits(0).json["exit_code"], 0)
    why = (await c.amphi("why", f"{epic}/b", "--json")).exits(0).json
    same((why["state"], why["waits"]), ("running", []))
    await Epic(c, epic).log_has("a", "to-out")
    await Epic(c, epic).log_has("a", "to-err")
    logs = (await c.amphi("task", "logs", f"{epic}/a", "--json")).exits(0).lines
    same({(line["source"], line["text"]) for line in logs}, {("out", "to-out\n"), ("err", "to-err\n")})
    same(sorted((await c.amphi("task", "logs", f"{epic}/a")).exits(0).out.split()), ["to-err", "to-out"])
    node = (await c.amphi("node", "show", "node-1", "--json")).exits(0).json
    assert node["id"] == "node-1" and node["running"] >= 1, node
    agent = next(task["agent"] for task in show["tasks"] if task["task"] == "b")
    view = (await c.amphi("agent", "show", agent, "--json")).exits(0).json
    same((view["state"], view["epic"], view["task"]), ("busy", epic, "b"))
    assert any(a["agent"] == agent for a in (await c.amphi("agent", "ls", "--json")).exits(0).json["agents"])
    for arguments, key in [(["lock", "ls"], "locks"), (["queue", "ls"], "tasks"), (["incident", "ls"], "incidents"), (["role", "ls"], "roles"), (["tree"], "nodes")]:
        assert isinstance((await c.amphi(*arguments, "--json")).exits(0).json[key], list), arguments
        assert (await c.amphi(*arguments)).exits(0).out.strip(), arguments
    events = (await c.amphi("events", "--epic", epic, "--json")).exits(0).lines
    same([event["type"] for event in events][:2], ["epic.submitted", "task.ready"])
    (await c.amphi("task", "cancel", f"{epic}/b", "--json")).exits(0)
    await Epic(c, epic).end()
    version = (await c.amphi("version", "--json")).exits(0).json
    same(version.keys() >= {"version", "commit", "protocol"}, True, version)


async def test_task_logs_follow_to_the_end(c):
    folder = c.new_folder()
    epic = await c.submit({"a": {"run": f"echo first; while [ ! -e {folder}/go ]; do sleep 0.05; done; echo last"}})
    await epic.event("task.started", "a")
    follow = asyncio.create_task(c.amphi("task", "logs", "-f", f"{epic.id}/a"))
    await epic.log_has("a", "first")
    open(f"{folder}/go", "w").close()
    same((await follow).exits(0).out, "first\nlast\n")
    await epic.end("succeeded")


async def test_verify_offline_from_an_export_finds_what_the_cluster_finds(c):
    epic, _ = await c.run({"a": {"run": "true"}, "b": {"needs": ["a"], "locks": {"write": [c.name("env/x")]}, "run": "exit 1", "retry": 2}}, "failed")
    path = os.path.join(c.new_folder(), "journal.ndjson")
    (await c.amphi("epic", "export", epic.id, "-o", path)).exits(0)
    text = (await c.amphi("epic", "export", epic.id)).exits(0).out
    assert len(text.splitlines()) >= 3 and all(json.loads(line) for line in text.splitlines())
    alone = plain_environment(HOME=c.new_folder(), XDG_DATA_HOME=c.new_folder())
    verdict = (await command("epic", "verify", "--journal", path, "--json", env=alone)).exits(0).json
    same(verdict["ok"], True)
    live = (await c.amphi("epic", "verify", epic.id, "--json")).exits(0).json
    online_only = {"S3"}
    results = lambda v: {law["law"]: law["result"] for law in v["laws"] if law["law"] not in online_only}
    same(results(verdict), results(live))
    same((await command("epic", "verify", epic.id, "--journal", "-", "--json", env=alone, stdin=text)).exits(0).json["epic"], epic.id)
    # A journal that somebody touched does not pass.
    lines = open(path, encoding="utf-8").read().splitlines()
    at = next(n for n, line in enumerate(lines) if "task" in line and n > 2)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines[:at] + lines[at + 1:]) + "\n")
    touched = await command("epic", "verify", "--journal", path, "--json", env=alone)
    assert touched.code in (1, 2, 6), touched.out
    assert touched.code != 1 or touched.json["ok"] is False, touched.out


async def test_schemas_are_json(c):
    for what in ["epic", "config", "event"]:
        schema = (await command("schema", "print", what)).exits(0).json
        assert schema["$schema"].startswith("https://json-schema.org/"), what
    types = (await command("schema", "print", "event")).exits(0).json["properties"]["type"]["enum"]
    seen = {event["type"] for _, _, event in c.feed.messages}
    assert seen <= set(types), seen - set(types)


async def test_doctor_finds_nothing_wrong_here(c):
    found = (await c.amphi("doctor", "--json")).exits(0).json
    assert found["checks"] and all(check["result"] in ("ok", "warn") for check in found["checks"]), found
    (await command("doctor", "--local", "--json", env=plain_environment(HOME=c.new_folder(), XDG_DATA_HOME=c.new_folder()))).exits(0)


async def test_progress_works_in_a_task_only(c):
    (await c.amphi("progress", "50", "--json")).exits(2)
    epic, _ = await c.run({"a": {"run": f"{BIN} progress 40 -m 'nearly half' && {BIN} progress 100"}}, "succeeded")
    told = [event["data"] for event in epic.of("task.progress", "a")]
    assert any(data.get("percent") == 100 for data in told), told


# --- `amphi up` ----------------------------------------------------------------------------------------------------------------------


async def test_a_second_up_on_the_same_data_is_5(c):
    result = (await command("up", "--data", c.up.data, "--json")).exits(5)
    assert c.up.data in result.out + result.err or "lock" in result.out + result.err, result.out + result.err
    same((await c.amphi("node", "ls", "--json")).exits(0).json["nodes"][0]["state"], "alive", "the first one is not disturbed")


async def test_the_ready_file_is_private_and_complete(c):
    ready = c.up.ready
    same(ready.keys(), {"nats", "http", "nats_pid", "nodes"})
    same((ready["http"], [node.keys() for node in ready["nodes"]]), (None, [{"id", "pid"}]))
    same(stat.S_IMODE(os.stat(c.up.ready_file).st_mode), 0o600)
    assert alive(ready["nats_pid"]) and alive(ready["nodes"][0]["pid"])
    with open(os.path.join(c.folder, "up.out"), encoding="utf-8") as file:
        lines = [line for line in file.read().splitlines() if line.startswith("ready ")]
    same([json.loads(line[6:]) for line in lines], [ready])
    same(stat.S_IMODE(os.stat(c.up.data).st_mode) & 0o077, 0, "the data folder is private")


async def test_sigterm_lets_running_tasks_finish_and_the_next_up_goes_on(c):
    async def work(own):
        starts, go = f"{own.folder}/starts", f"{own.folder}/go"
        wait = f"echo $AMPHI_TASK >> {starts}; while [ ! -e {go} ]; do sleep 0.05; done"
        epic = await own.submit({"a": {"run": wait}, "b": {"needs": ["a"], "run": f"echo $AMPHI_TASK >> {starts}"}})
        pid = (await epic.event("task.started", "a"))["data"]["pid"]
        below = descendants(own.up.process.pid)
        assert pid in below, (pid, below)
        await own.connection.close()
        own.connection = None
        own.up.process.send_signal(signal.SIGTERM)
        await within(lambda: "stopping" in own.up.log() or None, "up says that it stops")
        open(go, "w").close()
        same(await asyncio.to_thread(own.up.process.wait, 60), 0, "exit code after SIGTERM")
        await within(lambda: not [p for p in below if alive(p)] or None, "everything below up is gone")
        await own.start()
        await Epic(own, epic.id).end("succeeded")
        with open(starts, encoding="utf-8") as file:
            same(file.read().split(), ["a", "b"], "each task was started once")
        verdict = await own.api("epic.verify", {"epic": epic.id})
        same(verdict["ok"], True, verdict)

    await in_its_own(c, work)


async def test_a_second_sigterm_ends_at_once_and_leaves_no_process(c):
    async def work(own):
        epic = await own.submit({"a": {"run": "trap '' TERM; (setsid sleep 600 &) ; sleep 600"}})
        await epic.event("task.started", "a")
        below = await within(lambda: (found := descendants(own.up.process.pid)) and sum("sleep 600" in command_line(p) for p in found) >= 2 and found, "both sleeps")
        await own.connection.close()
        own.connection = None
        own.up.process.send_signal(signal.SIGTERM)
        await within(lambda: "stopping" in own.up.log() or None, "up says that it stops")
        own.up.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(own.up.process.wait, 15)
        assert code in (0, 130), f"exit code {code} after the second SIGTERM: neither ended nor interrupted"
        await within(lambda: not [p for p in below if alive(p)] or None, "everything below up is gone", 10)

    await in_its_own(c, work)


async def test_a_dead_nats_server_and_a_dead_node_come_back(c):
    async def work(own):
        epic = await own.submit({"a": {"run": "true"}})
        await epic.end("succeeded")
        os.kill(own.up.ready["nats_pid"], signal.SIGKILL)
        second = await within(lambda: accepted(own, "after-nats"), "a submission is accepted again")
        await within(lambda: ended(own, second), "it ends")
        os.kill(own.up.ready["nodes"][0]["pid"], signal.SIGKILL)
        third = await within(lambda: accepted(own, "after-node"), "a submission is accepted again")
        await within(lambda: ended(own, third), "it ends")
        for id in [epic.id, second, third]:
            same((await own.api("epic.verify", {"epic": id}))["ok"], True, id)

    await in_its_own(c, work)


async def test_two_nodes_share_the_work(c):
    async def work(own):
        same([node["id"] for node in own.up.ready["nodes"]], ["node-1", "node-2"])
        epic = await own.submit({"m": {"matrix": {"i": "1..8"}, "run": f"touch {own.folder}/$AMPHI_TASK; while [ $(ls {own.folder} | grep -c '^m') -lt 8 ]; do sleep 0.05; done"}})
        view = await epic.end("succeeded")
        same({task["node"] for task in view["tasks"]}, {"node-1", "node-2"})
        same(len([task for task in view["tasks"] if task["node"] == "node-1"]), 4, "each node runs as many as it can")
        same({node["node"] for node in (await own.api("tree.get"))["nodes"] if node["root"]}, {"node-1", "node-2"})

    await in_its_own(c, work, ["--nodes", "2"])


if __name__ == "__main__":
    main(__name__)
