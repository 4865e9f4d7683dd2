"""Sub-epics: a task that is an epic itself, inline or in a file. It opens with its task, ends with it, and is never left alone."""

import pathlib

from harness import *


async def opened(epic, task="part", run=1):
    """The sub-epic that a task has opened, as an Epic of its own."""
    event = await epic.event("task.waiting", task, count=run, reason="epic")
    return Epic(epic.cluster, event["data"]["epic"])


def written(folder, **files):
    """Epic files in a folder; double underscores are folders."""
    for name, text in files.items():
        path = pathlib.Path(folder, name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


async def test_an_inline_sub_epic_runs_and_ends_with_its_task(c):
    """By plain NATS. Whoever needs the task waits for all of it; both ends of the link are to be seen; each can be judged by itself."""
    inner = {"inputs": {"who": ""}, "tasks": {"a": {"run": "echo for ${{ inputs.who }}"}, "b": {"needs": ["a"], "run": "sleep 0.3"}}}
    tasks = {
        "part": {"epic": inner, "with": {"who": "${{ inputs.name }}"}},
        "after": {"needs": ["part"], "run": 'echo "after $P"', "env": {"P": "${{ tasks.part.outputs.epic }}"}},
    }
    document = {"version": 1, "name": c.name("around"), "inputs": {"name": "dana"}, "priority": 1, "tasks": tasks}
    epic = Epic(c, (await c.api("epic.submit", {"document": document}))["epic"])
    child = await opened(epic)
    view = await epic.end("succeeded")
    part = view["by_task"]["part"]
    same((part["kind"], part["child"], part["outputs"], part["agent"]), ("epic", child.id, {"epic": child.id}, None))
    inside = await child.end("succeeded")
    same((inside["parent"], inside["inputs"], inside["priority"]), ({"epic": epic.id, "task": "part", "run": 1}, {"who": "dana"}, 1))
    assert inside["ended_at"] <= view["by_task"]["after"]["started_at"], (inside, view)
    await child.log_has("a", "for dana")
    await epic.log_has("after", f"after {child.id}")
    listed = {row["epic"]: row.get("parent") for row in (await c.api("epic.list", {}))["epics"]}
    same((listed[child.id]["epic"], listed[epic.id]), (epic.id, None))
    for one in (epic, child):
        assert (await c.api("epic.verify", {"epic": one.id}))["ok"]
        assert (await c.api("epic.report", {"epic": one.id}))["state"] == "succeeded"


async def test_files_are_brought_along_by_the_command_line(c):
    """Beside the file that names them, two levels deep, with a matrix of their own values."""
    with tempfile.TemporaryDirectory() as folder:
        written(
            folder,
            outer="version: 1\nname: outer\ntasks:\n  part:\n    matrix: { region: [eu, us] }\n    epic: sub/middle.yaml\n    with: { region: '${{ matrix.region }}' }\n",
            sub__middle="version: 1\nname: middle\ninputs: { region: }\ntasks:\n  deep: { epic: leaf.yaml }\n  own: { run: 'echo in ${{ inputs.region }}' }\n",
            sub__leaf="version: 1\nname: leaf\nworkspace: { path: . }\ntasks: { x: { run: 'pwd; ls' } }\n",
        )
        (await command("epic", "validate", f"{folder}/outer.yaml")).exits(0)
        plan = (await command("epic", "plan", f"{folder}/outer.yaml", "--json")).exits(0).json
        same((plan["tasks"], plan["runs"]), (1, 2))
        assert "part" in (await command("epic", "graph", f"{folder}/outer.yaml")).exits(0).out
        result = await c.amphi("run", f"{folder}/outer.yaml", "--wait", "--json")
        same(result.exits(0).lines[-1]["state"], "succeeded")
        epic = Epic(c, result.lines[-1]["epic"])
        view = await epic.get()
        for region in ("eu", "us"):
            middle = Epic(c, view["by_task"][f"part[{region}]"]["child"])
            assert f"in {region}" in await middle.log_has("own", "in ")
            leaf = Epic(c, (await middle.task("deep"))["child"])
            text = await leaf.log_has("x", "leaf.yaml")
            assert os.path.realpath(f"{folder}/sub") in text, text
        shown = (await c.amphi("epic", "show", epic.id)).exits(0).out
        assert view["by_task"]["part[eu]"]["child"] in shown, shown


async def test_what_is_wrong_in_a_file_is_told_with_file_and_line(c):
    """All files at once, before anything is sent; a circle of files names them; a name says nothing over NATS."""
    with tempfile.TemporaryDirectory() as folder:
        written(
            folder,
            outer="version: 1\nname: outer\ntasks:\n  a: { epic: bad.yaml }\n  b: { epic: gone.yaml }\n  c: { epic: ring.yaml }\n  d: { epic: . }\n",
            bad="version: 1\nname: bad\ntasks:\n  x: { rum: 'true' }\n",
            ring="version: 1\nname: ring\ntasks: { r: { epic: sub/round.yaml } }\n",
            sub__round="version: 1\nname: round\ntasks: { r: { epic: ../ring.yaml } }\n",
        )
        refused = await c.amphi("run", "outer.yaml", "--detach", "--json", cwd=folder)
        problems = refused.exits(2).json["error"]["problems"]
        found = [(problem["file"], problem["line"], problem["code"]) for problem in problems]
        for wanted in [("bad.yaml", 4, "epic.unknown_key"), ("outer.yaml", 5, "epic.type"), ("sub/round.yaml", 3, "epic.cycle"), ("outer.yaml", 7, "epic.type")]:
            assert wanted in found, (wanted, problems)
        circle = next(problem["message"] for problem in problems if problem["code"] == "epic.cycle")
        assert "ring.yaml -> sub/round.yaml -> ring.yaml" in circle, circle
        text = (await command("epic", "validate", "outer.yaml", cwd=folder)).exits(2).err
        assert "bad.yaml:4:" in text and "rum: 'true'" in text, text
    with_name = {"version": 1, "name": c.name("named"), "tasks": {"t": {"epic": "some/file.yaml"}}}
    refusal = await c.refused("epic.submit", with_name, "epic.type")
    assert "amphi run" in refusal.error["hint"], refusal.error
    keys = {"version": 1, "name": c.name("keys"), "tasks": {"t": {"epic": {"tasks": {"a": {"run": "true"}}}, "locks": {"write": ["db"]}, "retry": 2}}}
    refusal = await c.refused("epic.submit", keys, "epic.type")
    same([problem["code"] for problem in refusal.problems], ["epic.type", "epic.type"])


async def test_a_cancel_goes_down_and_an_end_comes_up(c):
    """Of the epic, of the task, and of the sub-epic itself."""
    async def running():
        inner = {"tasks": {"s": {"tool": "sleep", "with": {"ms": 600000}}}}
        epic = await c.submit({"part": {"epic": {"tasks": {"deep": {"epic": inner}}}}, "after": {"needs": ["part"], "run": "true"}})
        child = await opened(epic)
        deep = await opened(child, "deep")
        await deep.event("task.started", "s")
        return epic, child, deep

    epic, child, deep = await running()
    why = await c.api("task.why", {"epic": epic.id, "task": "after"})
    same([(wait["reason"], wait["on"]) for wait in why["waits"]], [("needs", f"{epic.id}/part"), ("epic", child.id), ("epic", deep.id)])
    await c.api("epic.cancel", {"epic": epic.id})
    for one in (epic, child, deep):
        await one.end("cancelled")
    epic, child, deep = await running()
    await c.api("task.cancel", {"epic": epic.id, "task": "part"})
    same([(await one.end(state))["state"] for one, state in ((deep, "cancelled"), (child, "cancelled"), (epic, "failed"))][-1], "failed")
    same((await epic.task("part"))["state"], "cancelled")
    epic, child, deep = await running()
    await c.api("epic.pause", {"epic": epic.id})
    same([(await one.get())["state"] for one in (epic, child, deep)], ["paused"] * 3)
    await c.api("epic.resume", {"epic": epic.id})
    same([(await one.get())["state"] for one in (epic, child, deep)], ["running"] * 3)
    await c.api("epic.cancel", {"epic": deep.id})
    for one in (child, epic):
        await one.end("failed")
    same((await child.task("deep"))["state"], "cancelled")


async def test_a_failure_is_the_tasks_and_a_retry_opens_a_new_one(c):
    with tempfile.TemporaryDirectory() as folder:
        flag = os.path.join(folder, "flag")
        inner = {"tasks": {"ok": {"run": "true"}, "breaks": {"needs": ["ok"], "run": f"test -e {flag}"}}}
        epic = await c.submit({"part": {"epic": inner}, "after": {"needs": ["part"], "run": "true"}})
        view = await epic.end("failed")
        part = view["by_task"]["part"]
        child = Epic(c, part["child"])
        same((part["state"], part["error"]), ("failed", f"epic {child.id} failed: breaks"))
        for verb, body in [("epic.retry", {"epic": child.id}), ("task.retry", {"epic": child.id, "task": "breaks"})]:
            refusal = await c.refused(verb, body, "state.conflict")
            assert f"amphi task retry {epic.id}/" in refusal.error["hint"], refusal.error
        open(flag, "w").close()
        await c.api("task.retry", {"epic": epic.id, "task": "part"})
        view = await within(lambda: ended_well(epic), "the retry succeeds")
        again = view["by_task"]["part"]
        assert again["run"] == 2 and again["child"] != child.id, again
        same((await child.get())["state"], "failed")


async def ended_well(epic):
    view = await epic.get()
    return view if view["state"] == "succeeded" else None


async def test_too_late_too_wide_and_left_out(c):
    """`timeout` ends the sub-epic and fails the task; one failed of a matrix ends the others; what has not begun can be skipped."""
    slow = {"tasks": {"s": {"tool": "sleep", "with": {"ms": 600000}}}}
    epic = await c.submit({"part": {"epic": slow, "timeout": "500ms"}, "then": {"needs": ["part"], "if": "always()", "run": "true"}})
    view = await epic.end("failed")
    failed = await epic.event("task.failed", "part")
    same((failed["data"]["cause"], view["by_task"]["then"]["state"]), ("timeout", "succeeded"))
    await Epic(c, view["by_task"]["part"]["child"]).end("cancelled")
    inner = {"inputs": {"i": ""}, "tasks": {"s": {"run": 'test "$I" = slow && sleep 600; exit 1', "env": {"I": "${{ inputs.i }}"}}}}
    matrix = {"matrix": {"i": ["slow", "bad"]}, "with": {"i": "${{ matrix.i }}"}, "fail_fast": True, "optional": True, "epic": inner}
    epic = await c.submit({"part": matrix, "gate": {"wait": {"event": "e2e.never"}}, "later": {"needs": ["gate"], "epic": slow}})
    await epic.event("task.cancelled", "part[slow]")
    await c.api("task.skip", {"epic": epic.id, "task": "later"})
    await c.api("task.skip", {"epic": epic.id, "task": "gate"})
    await within(lambda: over(epic), "the epic ends")
    same((await epic.task("later"))["state"], "skipped")


async def over(epic):
    return (await epic.get())["state"] in ENDED


async def test_what_a_sub_epic_did_is_undone_with_the_rest(c):
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        step = lambda name: {"run": f"echo do {name} >> {log}", "undo": {"run": f"echo undo {name} >> {log}"}}
        inner = {"tasks": {"a": step("a"), "b": {**step("b"), "needs": ["a"]}}}
        tasks = {"first": step("first"), "part": {"needs": ["first"], "epic": inner}, "bad": {"needs": ["part"], "run": "exit 1"}}
        document = {"version": 1, "name": c.name("undo"), "on_failure": "undo", "tasks": tasks}
        epic = Epic(c, (await c.api("epic.submit", {"document": document}))["epic"])
        view = await epic.end("failed")
        same({key: view["by_task"][key]["state"] for key in tasks}, {"first": "undone", "part": "undone", "bad": "failed"})
        with open(log) as file:
            same(file.read().split("\n")[:-1], ["do first", "do a", "do b", "undo b", "undo a", "undo first"])
        child = Epic(c, view["by_task"]["part"]["child"])
        same({task["state"] for task in (await child.end("cancelled"))["tasks"]}, {"undone"})


async def test_a_person_who_is_needed_inside_is_needed_outside(c):
    """A lost `retry: 0` task in a sub-epic: the epic around it waits too, says so, and goes on with the answer."""
    epic = await c.submit({"part": {"epic": {"tasks": {"s": {"run": "kill -9 $PPID; sleep 600", "retry": 0}}}}})
    child = await opened(epic)
    await child.event("incident.opened", "s")
    await within(lambda: is_in(epic, "waiting"), "the epic around it waits for a person")
    same((await child.get())["state"], "waiting")
    [incident] = [row for row in (await c.api("incident.list", {}))["incidents"] if row["epic"] == child.id]
    await c.api("incident.resolve", {"incident": incident["incident"], "as": "succeeded"})
    await epic.end("succeeded")


async def is_in(epic, state):
    return (await epic.get())["state"] == state


@alone
async def test_a_sub_epic_outlives_its_manager(c):
    """kill -9 of the node that leads, in the middle of a sub-epic of a sub-epic: each goes on, and each exists once."""
    inner = {"tasks": {"s": {"wait": {"event": "e2e.go.on"}}, "t": {"needs": ["s"], "run": "true"}}}
    epic = await c.submit({"part": {"matrix": {"i": ["a", "b"]}, "epic": {"tasks": {"deep": {"epic": inner}}}}})
    children = [Epic(c, (await epic.event("task.waiting", f"part[{i}]", reason="epic"))["data"]["epic"]) for i in "ab"]
    deep = [await opened(child, "deep") for child in children]
    for one in deep:
        await one.event("task.waiting", "s", reason="event")
    leader = next(node for node in (await c.api("node.list"))["nodes"] if node["leads"])
    os.kill(leader["pid"], signal.SIGKILL)

    async def taken():
        try:
            return json.loads((await c.connection.request("e2e.go.on", b"1", timeout=5)).data).get("taken")
        except (NoRespondersError, nats.errors.TimeoutError):
            return None

    await within(taken, "the message is taken")
    await epic.end("succeeded")
    for one in children + deep:
        await one.end("succeeded")
        same(len(one.of("epic.submitted")), 1)
    listed = [row["parent"]["epic"] for row in (await c.api("epic.list", {}))["epics"] if row.get("parent")]
    same(sorted(name for name in listed if name in {epic.id, *(child.id for child in children)}), sorted([epic.id] * 2 + [child.id for child in children]))


async def test_a_sub_epic_outlives_the_whole_program(c):
    """kill -9 of `up` in the middle, and a second one on the same data: the same sub-epic goes on and ends with its task."""

    async def work(own):
        epic = await own.submit({"part": {"epic": {"tasks": {"s": {"tool": "sleep", "with": {"ms": 2000}}, "t": {"needs": ["s"], "run": "true"}}}}})
        child = await opened(epic)
        await child.event("task.started", "s")
        own.up.process.send_signal(signal.SIGKILL)
        own.up.process.wait()
        await own.up.start()

        async def ended():
            try:
                return (await own.api("epic.get", {"epic": epic.id}, deadline=5))["state"] == "succeeded"
            except (AssertionError, Refused, nats.errors.Error, OSError):
                return None

        await within(ended, "the epic ends well")
        same([(row["epic"], row["state"]) for row in (await own.api("epic.list", {}))["epics"] if row.get("parent")], [(child.id, "succeeded")])
        for one in (epic, child):
            assert (await own.api("epic.verify", {"epic": one.id}))["ok"]

    await in_its_own(c, work)


if __name__ == "__main__":
    main(__name__)
