"""What succeeded is taken back: `undo`, `on_failure: undo` and `epic cancel --undo`, through the real program."""

import os
import signal

from harness import *


def note(folder, word):
    """A command that writes its word into the shared journal of the test."""
    return f"echo {word} $AMPHI_RUN >> {folder}/log"


def lines(folder):
    path = f"{folder}/log"
    return open(path, encoding="utf-8").read().splitlines() if os.path.exists(path) else []


async def test_a_failure_undoes_what_succeeded_in_reverse_order(c):
    folder = c.new_folder()
    tasks = {
        "first": {"run": note(folder, "first"), "undo": {"run": note(folder, "undo-first")}},
        "plain": {"run": note(folder, "plain"), "needs": ["first"]},
        "second": {"run": note(folder, "second"), "needs": ["plain"], "undo": {"run": note(folder, "undo-second")}},
        "bad": {"run": note(folder, "bad") + "; exit 3", "needs": ["second"], "undo": {"run": note(folder, "undo-bad")}},
        "never": {"run": note(folder, "never"), "needs": ["bad"], "undo": {"run": note(folder, "undo-never")}},
        "report": {"run": note(folder, "report"), "needs": ["bad"], "if": "always()", "undo": {"run": note(folder, "undo-report")}},
    }
    epic, view = await c.run(tasks, wanted="failed", on_failure="undo")
    same(lines(folder), ["first 1", "plain 1", "second 1", "bad 1", "report 1", "undo-report 2", "undo-second 2", "undo-first 2"], "what ran")
    states = {key: task["state"] for key, task in view["by_task"].items()}
    wanted = {"first": "undone", "plain": "succeeded", "second": "undone", "bad": "failed", "never": "cancelled", "report": "undone"}
    same(states, wanted, "states")
    same([event["task"] for event in epic.of("task.undone")], ["report", "second", "first"], "the order of task.undone")
    same(epic.events[-1]["type"], "epic.failed", "the last event")
    report = await c.api("epic.report", {"epic": epic.id})
    same(report["tasks"].get("undone"), 3, "undone tasks in the report")


async def test_an_undo_reads_outputs_has_its_own_key_and_holds_the_locks(c):
    folder = c.new_folder()
    say = 'echo "$1 id=$2 key=$AMPHI_IDEMPOTENCY_KEY token=$AMPHI_FENCING_TOKEN" >> %s/log' % folder
    tasks = {
        "before": {"run": "echo id=b-1 >> $AMPHI_OUTPUT; echo kept > $AMPHI_ARTIFACTS/file", "outputs": {"id": "string"}},
        "made": {
            "run": f"set -- made -; {say}; echo id=m-1 >> $AMPHI_OUTPUT; echo art > $AMPHI_ARTIFACTS/own",
            "needs": ["before"],
            "locks": {"write": ["thing"]},
            "undo": {
                "run": f"set -- undo \"${{{{ tasks.made.outputs.id }}}}/${{{{ tasks.before.outputs.id }}}}\"; {say}; "
                f"cat $AMPHI_INPUTS/made/own $AMPHI_INPUTS/before/file >> {folder}/log",
            },
        },
        "bad": {"run": "exit 1", "needs": ["made"]},
    }
    epic, view = await c.run(tasks, wanted="failed", on_failure="undo")
    log = lines(folder)
    same(log[1].split()[1], "id=m-1/b-1", "what the undo read")
    same(log[2:], ["art", "kept"], "the artifacts that the undo saw")
    keys = [line.split("key=")[1].split()[0] for line in log[:2]]
    assert keys[0] != keys[1] and all(keys), keys
    granted = [event for event in epic.of("lock.granted", "made")]
    same([event["run"] for event in granted], [1, 2], "runs that were granted the lock")
    assert granted[1]["data"]["token"] > granted[0]["data"]["token"], granted
    same(view["by_task"]["made"]["outputs"], {"id": "m-1"}, "outputs after the undo")


async def test_an_undo_that_fails_is_an_incident_and_the_others_go_on(c):
    folder = c.new_folder()
    tasks = {
        "one": {"run": "true", "undo": {"run": note(folder, "one")}},
        "two": {"run": "true", "needs": ["one"], "undo": {"run": note(folder, "two") + "; exit 9", "retry": 1}},
        "three": {"run": "exit 1", "needs": ["two"]},
    }
    epic, view = await c.run(tasks, wanted="failed", on_failure="undo")
    same(lines(folder), ["two 2", "two 2", "one 2"], "the undos")
    two = view["by_task"]["two"]
    assert two["state"] == "succeeded" and "undo failed" in two["error"] and two["undo"] is True, two
    incidents = [i for i in (await c.api("incident.list", {}))["incidents"] if i["epic"] == epic.id]
    same([(i["kind"], i["task"], i["state"]) for i in incidents], [("undo_failed", "two", "open")], "incidents")
    shown = await c.amphi("epic", "show", epic.id)
    assert "undo failed" in shown.out and "incident ls" in shown.out, shown.out
    await c.refused("incident.resolve", {"incident": incidents[0]["incident"], "as": "not_started"}, "state.conflict")
    await c.api("incident.resolve", {"incident": incidents[0]["incident"], "as": "succeeded"})
    same((await c.api("incident.get", {"incident": incidents[0]["incident"]}))["state"], "resolved", "the incident")
    same((await c.api("epic.report", {"epic": epic.id}))["tasks"].get("undo_failed"), 1, "in the report")


async def test_cancel_with_undo_ends_what_runs_and_undoes_the_rest(c):
    folder = c.new_folder()
    go = os.path.join(folder, "go")
    tasks = {
        "done": {"run": note(folder, "done"), "undo": {"run": f"{note(folder, 'undo-done')}; while [ ! -e {go} ]; do sleep 0.1; done"}},
        "early": {"run": note(folder, "early"), "needs": ["done"], "undo": {"run": note(folder, "undo-early")}},
        "long": {"run": "sleep 600", "needs": ["early"], "undo": {"run": note(folder, "undo-long")}},
        "later": {"run": "true", "needs": ["long"]},
    }
    epic = await c.submit(tasks)
    await epic.event("task.started", "long")
    answer = await c.amphi("epic", "cancel", "--undo", epic.id)
    same(answer.code, 0, "exit code")
    await epic.event("task.started", "done", count=2)
    view = await epic.get()
    assert view["state"] == "cancelling" and view["undoing"] is True, view["state"]
    refused = await c.refused("epic.cancel", {"epic": epic.id}, "state.conflict", 409)
    assert "undone" in str(refused) and "hint" in str(refused), refused
    await c.refused("epic.cancel", {"epic": epic.id, "undo": True}, "state.conflict")
    await c.refused("task.retry", {"epic": epic.id, "task": "long"}, "state.conflict")
    open(go, "w").close()
    view = await epic.end("cancelled")
    same(lines(folder), ["done 1", "early 1", "undo-early 2", "undo-done 2"], "what ran")
    same({key: task["state"] for key, task in view["by_task"].items()},
         {"done": "undone", "early": "undone", "long": "cancelled", "later": "cancelled"}, "states")
    refused = await c.refused("epic.cancel", {"epic": epic.id, "undo": True}, "state.conflict")
    assert "cannot be undone" in str(refused), refused


async def test_why_tells_what_an_undo_waits_for(c):
    folder = c.new_folder()
    go = os.path.join(folder, "go")
    wait = f"while [ ! -e {go} ]; do sleep 0.1; done"
    tasks = {
        "a": {"run": "true", "undo": {"run": "true"}},
        "b": {"run": "true", "needs": ["a"], "undo": {"run": wait}},
        "bad": {"run": "exit 1", "needs": ["b"]},
    }
    epic = await c.submit(tasks, on_failure="undo")
    await epic.event("task.started", "b", count=2)
    why = await c.api("task.why", {"epic": epic.id, "task": "a"})
    same([(wait["reason"], wait["on"], wait["place"]) for wait in why["waits"]], [("undo", f"{epic.id}/b", 1)], "why")
    same((await epic.task("b"))["state"], "running", "the undo of b")
    open(go, "w").close()
    await epic.end("failed")


async def test_what_was_undone_runs_again_with_a_retry(c):
    folder = c.new_folder()
    flag = os.path.join(folder, "good")
    tasks = {
        "base": {"run": note(folder, "base"), "undo": {"run": note(folder, "undo")}},
        "between": {"run": note(folder, "between"), "needs": ["base"]},
        "last": {"run": f"test -e {flag}", "needs": ["between"]},
    }
    epic, _ = await c.run(tasks, wanted="failed", on_failure="undo")
    open(flag, "w").close()
    await c.api("task.retry", {"epic": epic.id, "task": "last"})
    await epic.event("epic.succeeded")
    same(lines(folder), ["base 1", "between 1", "undo 2", "base 3", "between 2"], "what ran")
    await c.refused("epic.cancel", {"epic": epic.id, "undo": True}, "state.conflict")


async def test_a_task_cancel_ends_an_undo_that_hangs(c):
    tasks = {
        "a": {"run": "true", "undo": {"run": "true"}},
        "b": {"run": "true", "needs": ["a"], "undo": {"run": "sleep 600"}},
        "bad": {"run": "exit 1", "needs": ["b"]},
    }
    epic = await c.submit(tasks, on_failure="undo")
    await epic.event("task.started", "b", count=2)
    await c.api("task.cancel", {"epic": epic.id, "task": "b"})
    view = await epic.end("failed")
    same((view["by_task"]["a"]["state"], view["by_task"]["b"]["state"]), ("undone", "succeeded"), "states")
    assert "undo failed" in view["by_task"]["b"]["error"], view["by_task"]["b"]


@alone
async def test_a_kill_in_the_middle_of_an_undo_changes_nothing_about_its_order(c):
    async def work(own):
        folder = own.new_folder()
        slow = lambda word: f"echo {word} >> {folder}/log; sleep 3; echo {word}-done >> {folder}/log"
        tasks = {
            "a": {"run": "true", "undo": {"run": slow("a")}},
            "b": {"run": "true", "needs": ["a"], "undo": {"run": slow("b")}},
            "bad": {"run": "exit 1", "needs": ["b"]},
        }
        epic = await own.submit(tasks, on_failure="undo")
        await epic.event("task.started", "b", count=2)
        os.kill(own.up.ready["nodes"][0]["pid"], signal.SIGKILL)
        view = await epic.end("failed")
        same({key: task["state"] for key, task in view["by_task"].items()}, {"a": "undone", "b": "undone", "bad": "failed"}, "states")
        same([event["task"] for event in epic.of("task.undone")], ["b", "a"], "the order")
        log = lines(folder)
        same(log[-3:], ["b-done", "a", "a-done"], "a begins only after b is done")
        verdict = await own.api("epic.verify", {"epic": epic.id})
        assert verdict["ok"], verdict

    await in_its_own(c, work)


if __name__ == "__main__":
    main(__name__)
