"""The flow of an epic beyond plain needs: conditions in CEL, runs after a change."""

import os

from harness import *


# --- conditions --------------------------------------------------------------------------------------------------------------------


async def test_conditions_read_inputs_outputs_and_states(c):
    """A condition decides whether a task runs; the decision is on record, and what it names without always() implies success()."""
    tasks = {
        "build": {"run": "echo kind=app >> $AMPHI_OUTPUT; echo n=3 >> $AMPHI_OUTPUT", "outputs": {"kind": "string", "n": "integer"}},
        "flaky": {"run": "exit 1", "optional": True},
        "yes": {"needs": ["build"], "run": "true", "if": "tasks.build.outputs.kind == 'app' && inputs.env == 'prod' && tasks.build.outputs.n > 2"},
        "no": {"needs": ["build"], "run": "true", "if": "inputs.env == 'test'"},
        "after_no": {"needs": ["no"], "run": "true", "if": "tasks.no.state == 'skipped'"},
        "seen": {"needs": ["flaky"], "run": "true", "if": "always() && tasks.flaky.state == 'failed'"},
        "matrix": {"needs": ["build"], "matrix": {"i": "1..3"}, "run": "true", "if": "'prod' in ['prod', 'test'] && success()"},
    }
    epic = await declared(c, tasks, inputs={"env": "prod"})
    view = await epic.end("succeeded")
    states = {key: task["state"] for key, task in view["by_task"].items()}
    wanted = {"build": "succeeded", "flaky": "failed", "yes": "succeeded", "no": "skipped", "after_no": "succeeded", "seen": "succeeded"}
    same({key: states[key] for key in wanted}, wanted)
    same([states[f"matrix[{i}]"] for i in (1, 2, 3)], ["succeeded"] * 3)
    await epic.event("task.skipped", "no")


async def declared(c, tasks, **top):
    """Submits a document whose own `inputs` have defaults."""
    document = {"version": 1, "name": c.name("flow"), **top, "tasks": tasks}
    return Epic(c, (await c.api("epic.submit", {"document": document}))["epic"])


async def test_what_nobody_can_decide_fails_the_task(c):
    """A missing output, a wrong type or no boolean is a failed task with a clear error, for every run of a matrix."""
    tasks = {
        "a": {"run": "true"},
        "missing": {"needs": ["a"], "run": "true", "if": "tasks.a.outputs.nope == 'x'"},
        "number": {"needs": ["a"], "run": "true", "if": "1 + 1", "matrix": {"i": [1, 2]}},
        "cleanup": {"needs": ["missing"], "run": "true", "if": "always()"},
    }
    epic, view = await c.run(tasks, "failed")
    for key, part in [("missing", "nope"), ("number[1]", "not true or false"), ("number[2]", "not true or false")]:
        task = view["by_task"][key]
        same((task["state"], part in task["error"]), ("failed", True), task)
    same(view["by_task"]["cleanup"]["state"], "succeeded")
    failed = await epic.event("task.failed", "missing")
    same(failed["data"]["cause"], "condition")


async def test_a_failed_condition_can_be_tried_again(c):
    """A retry by hand asks again."""
    tasks = {"a": {"run": "true"}, "b": {"needs": ["a"], "run": "true", "if": "tasks.a.outputs.nope == 'x'"}}
    epic, _ = await c.run(tasks, "failed")
    await c.api("task.retry", {"epic": epic.id, "task": "b"})
    await epic.event("task.failed", "b", count=2)


async def test_bad_conditions_are_refused_with_their_place(c):
    text = """version: 1
name: bad
tasks:
  a: { run: "true" }
  b: { run: "true", if: inputs.nope == 1 }
  c: { run: "true", if: tasks.a.outputs.x == 'y' }
  d: { run: "true", needs: [a], if: tasks.a.state == 'failed' && }
  e: { run: "true", if: "now() > 3" }
  f: { run: "true", if: "%s" }
  g: { run: "true", if: "%s" }
""" % ("(" * 900 + ")" * 90, "a" * 2000)
    path = c.file(text)
    result = (await c.amphi("epic", "validate", path, "--json")).exits(2)
    found = {(problem["line"], problem["column"]) for problem in result.json["problems"]}
    same(found >= {(5, 25), (6, 25)}, True, found)
    same({line for line, _ in found}, {5, 6, 7, 8, 9, 10})
    assert all(problem["hint"] for problem in result.json["problems"]), result.json
    refused = await c.refused("epic.submit", text, "epic.type")
    assert len(refused.problems) >= 6


# --- on_change ---------------------------------------------------------------------------------------------------------------------


async def test_a_change_runs_what_listens_again(c):
    """What had ended runs once more, what has not begun sees the change anyhow, and who ended is not run again unless listed."""
    folder = c.new_folder("change")
    note = f"echo $AMPHI_TASK-$AMPHI_RUN >> {folder}/order"
    tasks = {
        "seed": {"run": note},
        "reader": {"needs": ["seed"], "run": note},
        "migrate": {"needs": ["reader"], "run": note, "locks": {"write": ["db"]}},
        "check": {"needs": ["migrate", "seed"], "run": note},
        "late": {"needs": ["check"], "run": note},
    }
    epic, view = await c.run(tasks, "succeeded", resources={"db": {"on_change": ["seed", "late"]}})
    with open(os.path.join(folder, "order"), encoding="utf-8") as file:
        same(file.read().split(), ["seed-1", "reader-1", "migrate-1", "seed-2", "check-1", "late-1"])
    changed = await epic.event("resource.changed", "migrate")
    same({key: changed["data"][key] for key in ("resource", "task", "runs", "later")},
         {"resource": "db", "task": "migrate", "runs": [{"task": "seed", "run": 2}], "later": []})
    same(view["by_task"]["seed"]["run"], 2)


async def test_a_task_under_way_runs_once_more_after_the_last_change(c):
    """Two changes while it runs become one new run; the epic does not end before it has; that run changes nothing further."""
    folder = c.new_folder("change")
    tasks = {
        "watch": {
            "run": f"echo $AMPHI_RUN >> {folder}/runs; if [ $AMPHI_RUN = 1 ]; then while [ ! -e {folder}/go ]; do sleep 0.05; done; fi",
            "locks": {"write": ["log"]},
        },
        "write": {"matrix": {"i": [1, 2]}, "run": "true", "locks": {"write": ["db"]}, "max_parallel": 1},
        "after": {"needs": ["write"], "run": f"touch {folder}/go"},
    }
    resources = {"db": {"on_change": ["watch"]}, "log": {"on_change": ["after"]}}
    # The writers must not be done before `watch` is under way.
    tasks["write"]["run"] = f"while [ ! -e {folder}/runs ]; do sleep 0.05; done"
    epic, view = await c.run(tasks, "succeeded", resources=resources)
    with open(os.path.join(folder, "runs"), encoding="utf-8") as file:
        same(file.read().split(), ["1", "2"])
    changes = epic.of("resource.changed")
    same([change["data"]["later"] for change in changes if change["data"]["resource"] == "db"], [["watch"], []])
    same(view["by_task"]["after"]["run"], 2, "`after` ran again for the one write of `watch` that was no consequence of a change")


async def test_the_locked_package_file_of_the_brief(c):
    """S4.18: BuildMaster holds package.json and changes it; TestGuardian tests again, DeployCommander rebuilds the containers."""
    folder = c.new_folder("package")
    with open(os.path.join(folder, "package.json"), "w", encoding="utf-8") as file:
        file.write("1")
    seen = 'echo "$AMPHI_TASK saw $(cat package.json)" >> seen'
    tasks = {
        "run_tests": {"agent": "TestGuardian", "locks": {"read": ["file/package.json"]}, "run": seen},
        "build_containers": {"agent": "DeployCommander", "needs": ["run_tests"], "locks": {"read": ["file/package.json"]}, "run": seen},
        "raise_dependency": {
            "agent": "BuildMaster", "needs": ["build_containers"], "locks": {"write": ["file/package.json"]},
            "run": "echo 2 > package.json",
        },
    }
    resources = {"file/package.json": {"lease": "5m", "on_change": ["run_tests", "build_containers"]}}
    epic, view = await c.run(tasks, "succeeded", workspace={"path": folder}, resources=resources)
    with open(os.path.join(folder, "seen"), encoding="utf-8") as file:
        same(file.read().splitlines(), ["run_tests saw 1", "build_containers saw 1", "run_tests saw 2", "build_containers saw 2"])
    agents = {task: (await epic.event("task.assigned", task))["agent"] for task in tasks}
    for task, role in (("run_tests", "TestGuardian"), ("build_containers", "DeployCommander"), ("raise_dependency", "BuildMaster")):
        assert role in agents[task], agents
    same(view["by_task"]["raise_dependency"]["run"], 1)


async def test_a_failing_run_after_a_change_fails_the_epic(c):
    tasks = {
        "seed": {"run": "test $AMPHI_RUN = 1"},
        "migrate": {"needs": ["seed"], "run": "true", "locks": {"write": ["db"]}},
    }
    _, view = await c.run(tasks, "failed", resources={"db": {"on_change": ["seed"]}})
    same((view["by_task"]["seed"]["state"], view["by_task"]["seed"]["run"]), ("failed", 2))


async def test_on_change_names_known_tasks(c):
    body = {"version": 1, "name": "x", "resources": {"db": {"on_change": ["sede"]}}, "tasks": {"seed": {"run": "true"}}}
    refused = await c.refused("epic.submit", {"document": body}, "epic.unknown_task")
    assert "seed" in refused.problems[0]["hint"], refused.problems


if __name__ == "__main__":
    main(__name__)
