"""People take a hand in a running epic: pause and resume, retry from a task, skip, through the real program."""

import os

from harness import *


def until(path):
    return f"while [ ! -e {path} ]; do sleep 0.1; done"


async def test_a_paused_epic_starts_nothing_and_goes_on_where_it_stood(c):
    folder = c.new_folder()
    go = os.path.join(folder, "go")
    epic = await c.submit({"a": {"run": until(go)}, "b": {"run": "true", "needs": ["a"]}, "c": {"run": "true", "needs": ["b"]}})
    await epic.event("task.started", "a")
    paused = await c.amphi("epic", "pause", epic.id)
    same(paused.code, 0, "exit code")
    same((await epic.get())["state"], "paused", "the state")
    refused = await c.amphi("epic", "pause", epic.id)
    same(refused.code, 5, "pausing twice")
    open(go, "w").close()
    await epic.event("task.succeeded", "a")
    await epic.event("task.waiting", "b", reason="paused")
    why = await c.api("task.why", {"epic": epic.id, "task": "c"})
    same([(wait["reason"], wait["on"]) for wait in why["waits"]], [("needs", f"{epic.id}/b"), ("paused", epic.id)], "why")
    b = await epic.task("b")
    same((b["state"], b["reason"]), ("waiting", "paused"), "b")
    same((await c.amphi("epic", "resume", epic.id)).code, 0, "exit code of resume")
    await epic.end("succeeded")
    kinds = [event["type"] for event in epic.events if event["task"] is None]
    same(kinds, ["epic.submitted", "epic.started", "epic.paused", "epic.resumed", "epic.succeeded"], "events of the epic")
    for verb in ["pause", "resume", "retry"]:
        await c.refused(f"epic.{verb}", {"epic": epic.id}, "state.conflict", 409)
    await c.refused("epic.pause", {"epic": "nobody"}, "epic.not_found")


async def test_a_paused_request_holds_up_nobody_and_keeps_its_order(c):
    folder, lock = c.new_folder(), c.name("lock")
    go, gone = os.path.join(folder, "go"), os.path.join(folder, "gone")
    locks = {"write": [lock]}
    holder = await c.submit({"h": {"run": until(go), "locks": locks}})
    await holder.event("task.started", "h")
    first = await c.submit({"x": {"run": f"echo first >> {folder}/log", "locks": locks}})
    await first.event("task.waiting", "x", reason="lock")
    second = await c.submit({"y": {"run": f"echo second >> {folder}/log; {until(gone)}", "locks": locks}})
    third = await c.submit({"z": {"run": f"echo third >> {folder}/log", "locks": locks}})
    await c.api("epic.pause", {"epic": first.id})
    open(go, "w").close()
    await second.event("task.started", "y")
    await c.api("epic.resume", {"epic": first.id})
    open(gone, "w").close()
    await third.end("succeeded")
    await first.end("succeeded")
    same(open(f"{folder}/log", encoding="utf-8").read().split(), ["second", "first", "third"], "the order")


async def test_a_paused_epic_can_be_cancelled_and_undone(c):
    folder = c.new_folder()
    go = os.path.join(folder, "go")
    tasks = {"a": {"run": "true", "undo": {"run": "true"}}, "b": {"run": until(go), "needs": ["a"]}, "c": {"run": "true", "needs": ["b"]}}
    epic = await c.submit(tasks)
    await epic.event("task.started", "b")
    await c.api("epic.pause", {"epic": epic.id})
    open(go, "w").close()
    await epic.event("task.waiting", "c", reason="paused")
    await c.api("epic.cancel", {"epic": epic.id, "undo": True})
    view = await epic.end("cancelled")
    same({key: task["state"] for key, task in view["by_task"].items()}, {"a": "undone", "b": "succeeded", "c": "cancelled"}, "states")


async def test_retry_runs_what_did_not_end_well_and_from_a_task_all_after_it(c):
    folder = c.new_folder()
    flag = os.path.join(folder, "good")
    tasks = {
        "a": {"run": "true"},
        "side": {"run": "true", "needs": ["a"]},
        "b": {"run": f"test -e {flag}", "needs": ["a"]},
        "c": {"run": "true", "needs": ["b"]},
    }
    epic, view = await c.run(tasks, wanted="failed")
    open(flag, "w").close()
    same((await c.amphi("epic", "retry", epic.id)).code, 0, "exit code")
    await epic.event("epic.succeeded")
    runs = lambda view: {key: task["run"] for key, task in view["by_task"].items()}
    same(runs(await epic.get()), {"a": 1, "side": 1, "b": 2, "c": 2}, "runs after retry")
    refused = await c.refused("epic.retry", {"epic": epic.id}, "state.conflict")
    assert "--from" in str(refused), refused
    same((await c.amphi("epic", "retry", "--from", "b", epic.id)).code, 0, "exit code of --from")
    await epic.event("epic.succeeded", count=2)
    same(runs(await epic.get()), {"a": 1, "side": 1, "b": 3, "c": 3}, "runs after retry --from b")
    await c.refused("epic.retry", {"epic": epic.id, "from": "zzz"}, "task.not_found", 404)
    await c.refused("epic.retry", {"epic": epic.id, "from": 3}, "request.invalid")


async def test_retry_is_for_epics_that_ended_or_stop(c):
    folder = c.new_folder()
    go = os.path.join(folder, "go")
    epic = await c.submit({"a": {"run": until(go)}, "b": {"run": "true", "needs": ["a"]}})
    await epic.event("task.started", "a")
    await c.refused("epic.retry", {"epic": epic.id}, "state.conflict")
    await c.refused("epic.retry", {"epic": epic.id, "from": "a"}, "state.conflict")
    open(go, "w").close()
    await epic.end("succeeded")


async def test_a_skipped_task_satisfies_what_needs_it(c):
    folder = c.new_folder()
    go = os.path.join(folder, "go")
    tasks = {
        "hold": {"run": until(go)},
        "not_this": {"run": "exit 1", "needs": ["hold"]},
        "after": {"run": "true", "needs": ["not_this"]},
        "many": {"matrix": {"i": "1..3"}, "run": "test ${{ matrix.i }} != 2", "needs": ["hold"]},
    }
    epic = await c.submit(tasks)
    await epic.event("task.started", "hold")
    refused = await c.refused("task.skip", {"epic": epic.id, "task": "hold"}, "state.conflict", 409)
    assert "task cancel" in str(refused), refused
    same((await c.amphi("task", "skip", f"{epic.id}/not_this")).code, 0, "exit code")
    await c.api("task.skip", {"epic": epic.id, "task": "many[2]"})
    open(go, "w").close()
    view = await epic.end("succeeded")
    states = {key: task["state"] for key, task in view["by_task"].items()}
    wanted = {"hold": "succeeded", "not_this": "skipped", "after": "succeeded", "many[1]": "succeeded", "many[2]": "skipped", "many[3]": "succeeded"}
    same(states, wanted, "states")
    await c.refused("task.skip", {"epic": epic.id, "task": "after"}, "state.conflict")
    await c.refused("task.skip", {"epic": epic.id, "task": "zzz"}, "task.not_found")


async def test_a_failed_task_can_be_skipped_and_the_epic_goes_on(c):
    tasks = {"a": {"run": "true"}, "b": {"run": "exit 1", "needs": ["a"]}, "c": {"run": "true", "needs": ["b"]}}
    epic, _ = await c.run(tasks, wanted="failed")
    await c.refused("task.skip", {"epic": epic.id, "task": "c"}, "state.conflict")
    await c.api("task.skip", {"epic": epic.id, "task": "b"})
    await epic.event("epic.succeeded")
    view = await epic.get()
    same({key: (task["state"], task["run"]) for key, task in view["by_task"].items()},
         {"a": ("succeeded", 1), "b": ("skipped", 2), "c": ("succeeded", 2)}, "states and runs")


if __name__ == "__main__":
    main(__name__)
