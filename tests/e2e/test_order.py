"""What runs when: phases, needs, conditions, matrices, retries, timeouts, cancels, locks, priorities. On real processes; what ran and when is
read from files that the tasks write, not from what the system says of itself.
"""

import asyncio
import json
import os
import re
import time

from harness import *


class Spans:
    """A file in which tasks note when they begin and end."""

    def __init__(self, c):
        self.path = os.path.join(c.new_folder("spans"), "log")

    def around(self, body="sleep 0.2", name='"$AMPHI_TASK"'):
        note = f'note() {{ echo "$1 {name} $(date +%s%N)" >> {self.path}; }}'.replace('{name}', name)
        return f'{note}; note begin; {body}; code=$?; note end; exit $code'

    def read(self):
        try:
            with open(self.path, encoding="utf-8") as file:
                return [(line.split()[0], line.split()[1], int(line.split()[2])) for line in file if line.strip()]
        except FileNotFoundError:
            return []

    def begun(self):
        return [name for kind, name, _ in sorted(self.read(), key=lambda entry: entry[2]) if kind == "begin"]

    def intervals(self):
        """(name, begin, end) in the order of their beginnings."""
        open_, done = {}, []
        for kind, name, at in sorted(self.read(), key=lambda entry: entry[2]):
            if kind == "begin":
                open_[name] = at
            else:
                done.append((name, open_.pop(name), at))
        assert not open_, f"begun and not ended: {open_}"
        return sorted(done, key=lambda interval: interval[1])

    def at_once(self):
        """How many ran at the same time, at most."""
        now = most = 0
        for kind, _, _ in sorted(self.read(), key=lambda entry: (entry[2], entry[0] == "begin")):
            now += 1 if kind == "begin" else -1
            most = max(most, now)
        return most


def states(view):
    return {task["task"]: task["state"] for task in view["tasks"]}


async def test_phases_are_walls_and_needs_are_doors(c):
    spans = Spans(c)
    # a1 ends only when b2 and c1 have begun: they cannot be waiting for it.
    meet = f"while ! grep -q 'begin b2' {spans.path} || ! grep -q 'begin c1' {spans.path}; do sleep 0.05; done"
    epic, _ = await c.run({
        "a1": {"phase": "one", "run": spans.around(meet)}, "a2": {"run": spans.around()},
        "b1": {"phase": "two", "run": spans.around()}, "b2": {"phase": "two", "needs": ["a2"], "run": spans.around()},
        "c1": {"phase": "three", "needs": [], "run": spans.around()}, "c2": {"phase": "three", "run": spans.around()},
    }, "succeeded", phases=["one", "two", "three"])
    at = {name: (begin, end) for name, begin, end in spans.intervals()}
    assert at["b1"][0] >= max(at["a1"][1], at["a2"][1]), "no `needs`: after all of the phase before"
    assert at["b2"][0] >= at["a2"][1], "with `needs`: after exactly those"
    assert at["c2"][0] >= max(at["b1"][1], at["b2"][1])
    same(len(epic.of("task.started")), 6)


async def test_a_failure_stops_what_needs_it_and_nothing_starts_any_more(c):
    spans = Spans(c)
    _, view = await c.run({
        "bad": {"run": "exit 7"}, "after": {"needs": ["bad"], "run": spans.around()}, "later": {"needs": ["after"], "run": spans.around()},
        "clean_up": {"needs": ["bad", "later"], "if": "always()", "run": spans.around()},
        "report": {"needs": ["bad"], "if": "failure()", "run": spans.around()},
        "only_then": {"needs": ["fine"], "if": "failure()", "run": spans.around()}, "fine": {"run": "true"},
    }, "failed")
    found = states(view)
    same((found["bad"], found["after"], found["later"]), ("failed", "cancelled", "cancelled"))
    same((found["clean_up"], found["report"]), ("succeeded", "succeeded"))
    assert found["only_then"] in ("skipped", "cancelled"), found
    same(sorted(spans.begun()), ["clean_up", "report"])
    same((view["by_task"]["bad"]["exit_code"], view["by_task"]["bad"]["attempt"]), (7, 1))


async def test_failure_is_false_when_all_is_well(c):
    _, view = await c.run({"a": {"run": "true"}, "f": {"needs": ["a"], "if": "failure()", "run": "exit 1"}, "al": {"needs": ["a"], "if": "always()", "run": "true"},
                           "z": {"needs": ["f"], "run": "true"}}, "succeeded")
    same(states(view), {"a": "succeeded", "f": "skipped", "al": "succeeded", "z": "succeeded"})


async def test_an_optional_task_may_fail(c):
    _, view = await c.run({"maybe": {"optional": True, "run": "exit 1"}, "next": {"needs": ["maybe"], "run": "true"}}, "succeeded")
    same(states(view), {"maybe": "failed", "next": "succeeded"})


async def test_max_parallel_is_reached_and_never_exceeded(c):
    spans = Spans(c)
    meet = f"while [ $(grep -c begin {spans.path}) -lt 2 ]; do sleep 0.05; done; sleep 0.2"
    _, view = await c.run({"m": {"matrix": {"i": "1..6"}, "max_parallel": 2, "run": spans.around(meet)}}, "succeeded")
    same(len(spans.intervals()), 6)
    same(spans.at_once(), 2, "observed at the same time")
    same(states(view), {f"m[{i}]": "succeeded" for i in range(1, 7)})


async def test_a_matrix_expands_over_its_axes_without_the_excluded(c):
    spans = Spans(c)
    epic, view = await c.run({
        "m": {"matrix": {"db": ["pg16", "pg17"], "i": "1..3"}, "exclude": [{"db": "pg17", "i": 3}], "run": spans.around('test "$AMPHI_TASK" = "m[${{ matrix.db }},${{ matrix.i }}]"')},
        "done": {"needs": ["m"], "run": "true"},
    }, "succeeded")
    same(sorted(name for name in states(view)), ["done", "m[pg16,1]", "m[pg16,2]", "m[pg16,3]", "m[pg17,1]", "m[pg17,2]"])
    same(sorted(spans.begun()), ["m[pg16,1]", "m[pg16,2]", "m[pg16,3]", "m[pg17,1]", "m[pg17,2]"])
    last = max(task["ended_at"] for task in view["tasks"] if task["task"] != "done")
    assert view["by_task"]["done"]["started_at"] >= last, "a task is done when all its runs are"


async def test_fail_fast_ends_the_other_runs(c):
    epic, view = await c.run({"m": {"matrix": {"i": "1..4"}, "fail_fast": True, "run": 'if [ "${{ matrix.i }}" = 2 ]; then exit 1; else sleep 600; fi'}}, "failed")
    found = states(view)
    same(found["m[2]"], "failed")
    same({found[f"m[{i}]"] for i in (1, 3, 4)}, {"cancelled"})


async def test_each_failed_attempt_that_is_tried_again_is_one_retrying(c):
    folder = c.new_folder()
    epic, view = await c.run({"flaky": {
        "retry": {"attempts": 4, "backoff": "300ms", "max": "1s"},
        "run": f'echo "$AMPHI_ATTEMPT $AMPHI_RUN $AMPHI_IDEMPOTENCY_KEY $(date +%s%N)" >> {folder}/log; [ "$AMPHI_ATTEMPT" = 3 ] || exit 9',
    }}, "succeeded")
    with open(f"{folder}/log", encoding="utf-8") as file:
        lines = [line.split() for line in file]
    same([(a, r) for a, r, _, _ in lines], [("1", "1"), ("2", "1"), ("3", "1")])
    same(len({key for _, _, key, _ in lines}), 1, "the idempotency key is the same over the attempts")
    retrying = epic.of("task.retrying")
    same([event["attempt"] for event in retrying], [1, 2])
    for event in retrying:
        same(event["data"]["cause"], "exit")
        assert TIME.fullmatch(event["data"]["next_at"]) and event["data"]["next_at"] > event["ts"], event
    pauses = [(int(b[3]) - int(a[3])) / 1e6 for a, b in zip(lines, lines[1:])]
    assert pauses[0] >= 300 and pauses[1] >= 600, f"backoff doubles: {pauses}"
    same((len(epic.of("task.failed")), len(epic.of("task.succeeded"))), (0, 1))
    same(view["by_task"]["flaky"]["attempt"], 3)


async def test_a_command_that_fails_by_itself_is_not_repeated_unless_asked(c):
    folder = c.new_folder()
    tasks = {
        "default": {"run": f"echo x >> {folder}/default; exit 1", "optional": True},
        "two_more": {"run": f"echo x >> {folder}/two_more; exit 1", "retry": 2, "optional": True},
        "zero": {"run": f"echo x >> {folder}/zero; exit 1", "retry": 0, "optional": True},
        "only_timeouts": {"run": f"echo x >> {folder}/only_timeouts; exit 1", "retry": {"attempts": 3, "on": ["timeout"]}, "optional": True},
        "other_agents": {"run": f"echo x >> {folder}/other_agents; exit 1", "retry": {"attempts": 3}, "optional": True},
    }
    epic, view = await c.run(tasks, "succeeded")
    counts = {name: len(open(f"{folder}/{name}", encoding="utf-8").readlines()) for name in tasks}
    same(counts, {"default": 1, "two_more": 3, "zero": 1, "only_timeouts": 1, "other_agents": 3})
    for name, count in counts.items():
        same((len(epic.of("task.retrying", name)), len(epic.of("task.failed", name))), (count - 1, 1), name)
    agents = [event["agent"] for event in epic.of("task.assigned", "other_agents")]
    same(all(a != b for a, b in zip(agents, agents[1:])), True, f"the next attempt goes to another agent: {agents}")


async def test_a_timeout_is_term_then_5_s_then_kill_of_the_whole_tree(c):
    folder = c.new_folder()
    epic, view = await c.run({
        "polite": {"timeout": "700ms", "optional": True, "run": f"trap 'date +%s%N > {folder}/term; exit 0' TERM; sleep 600 & wait"},
        "deaf": {"timeout": "700ms", "optional": True, "run": f"trap 'date +%s%N > {folder}/deaf' TERM; (setsid sh -c 'trap \"\" TERM; echo $$ > {folder}/pid; while :; do sleep 1; done' &); while :; do sleep 0.1; done"},
    }, "succeeded")
    same(states(view), {"polite": "failed", "deaf": "failed"})
    assert os.path.exists(f"{folder}/term") and os.path.exists(f"{folder}/deaf"), "both were asked to end"
    took = {key: milliseconds(view["by_task"][key]["ended_at"]) - milliseconds(view["by_task"][key]["started_at"]) for key in ("polite", "deaf")}
    assert took["polite"] >= 700 and took["deaf"] >= 5700, took
    same((view["by_task"]["polite"]["exit_code"], view["by_task"]["deaf"]["exit_code"]), (0, 137), "one ended by itself, the other was killed")
    with open(f"{folder}/pid", encoding="utf-8") as file:
        assert not alive(int(file.read())), "what left its session lives on"
    same(epic.of("task.failed", "deaf")[0]["data"]["cause"], "timeout")


async def test_a_timeout_is_tried_again_where_the_policy_says_so(c):
    epic, _ = await c.run({"slow": {"timeout": "300ms", "retry": {"attempts": 2, "on": ["timeout"]}, "run": "sleep 600"}}, "failed")
    same([event["data"]["cause"] for event in epic.of("task.retrying")], ["timeout"])


async def test_a_silent_task_is_stuck_and_a_busy_one_is_not(c):
    epic, view = await c.run({
        "silent": {"stuck_after": "4s", "retry": {"attempts": 2}, "optional": True, "run": "sleep 600"},
        "talks": {"stuck_after": "4s", "run": "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done"},
        "works": {"stuck_after": "4s", "run": "end=$(($(date +%s) + 8)); while [ $(date +%s) -lt $end ]; do :; done"},
        "says": {"stuck_after": "4s", "run": f"for i in 1 2 3 4 5 6 7 8; do {BIN} progress $((i * 10)) > /dev/null; sleep 1; done"},
    }, "succeeded")
    same(states(view), {"silent": "failed", "talks": "succeeded", "works": "succeeded", "says": "succeeded"})
    same({event["task"] for event in epic.of("task.stuck")}, {"silent"})
    same([event["data"]["cause"] for event in epic.of("task.retrying")], ["stuck"])
    took = milliseconds(epic.of("task.retrying", "silent")[0]["ts"]) - milliseconds(epic.of("task.started", "silent")[0]["ts"])
    assert 4000 <= took < 4000 + 10_000 + 5000, f"replaced after {took} ms"


async def test_cancel_of_an_epic_ends_all_its_processes_in_10_s(c):
    folder = c.new_folder()
    stubborn = f"trap '' TERM; echo $$ >> {folder}/pids; (setsid sh -c 'echo $$ >> {folder}/pids; exec sleep 600' &); (sh -c 'sh -c \"echo \\$\\$ >> {folder}/pids; exec sleep 600\" &'); sleep 600"
    epic = await c.submit({"m": {"matrix": {"i": "1..2"}, "run": stubborn}, "never": {"needs": ["m"], "if": "always()", "run": f"touch {folder}/never"}})
    await within(lambda: (os.path.exists(f"{folder}/pids") and len(open(f"{folder}/pids", encoding="utf-8").readlines()) == 6) or None, "six processes")
    pids = [int(line) for line in open(f"{folder}/pids", encoding="utf-8")]
    began = time.monotonic()
    await c.api("epic.cancel", {"epic": epic.id})
    await within(lambda: not [pid for pid in pids if alive(pid)] or None, "all processes are gone", 20)
    took = time.monotonic() - began
    view = await epic.end("cancelled")
    assert took <= 10, f"they lived for {took:.1f} s"
    same(set(states(view).values()), {"cancelled"})
    assert not os.path.exists(f"{folder}/never")


async def test_cancel_of_a_task_leaves_the_others_alone(c):
    folder = c.new_folder()
    epic = await c.submit({
        "a": {"run": f"echo $$ > {folder}/pid; sleep 600"}, "b": {"run": f"while [ ! -e {folder}/go ]; do sleep 0.05; done"}, "after_a": {"needs": ["a"], "run": "true"},
    }, on_failure="stop")
    await epic.event("task.started", "a")
    await epic.event("task.started", "b")
    pid = await within(lambda: (open(f"{folder}/pid", encoding="utf-8").read().strip() if os.path.exists(f"{folder}/pid") else None) or None, "a pid")
    reply = await c.api("task.cancel", {"epic": epic.id, "task": "a"})
    same((reply["epic"], reply["task"]), (epic.id, "a"))
    await epic.event("task.cancelled", "a")
    await within(lambda: not alive(int(pid)) or None, "its process is gone", 10)
    open(f"{folder}/go", "w").close()
    view = await epic.end()
    same((states(view)["a"], states(view)["after_a"]), ("cancelled", "cancelled"))
    assert states(view)["b"] in ("succeeded", "cancelled"), states(view)


async def test_cancel_of_what_waits_never_starts_it(c):
    folder, resource = c.new_folder(), c.name("env/w")
    epic = await c.submit({"holds": {"locks": {"write": [resource]}, "run": f"while [ ! -e {folder}/go ]; do sleep 0.05; done"}, "waits": {"locks": {"write": [resource]}, "run": f"touch {folder}/ran"}})
    started = await c.feed.until(lambda: next(iter(epic.of("task.started")), None), lambda: "one starts")
    other = {"holds": "waits", "waits": "holds"}[started["task"]]
    await c.api("task.cancel", {"epic": epic.id, "task": other})
    await epic.event("task.cancelled", other)
    open(f"{folder}/go", "w").close()
    view = await epic.end()
    same(len(epic.of("task.started")), 1)
    same(states(view)[started["task"]] in ("succeeded", "cancelled"), True, states(view))


async def test_an_operators_retry_is_a_new_run(c):
    folder = c.new_folder()
    epic = await c.submit({
        "a": {"run": f'echo "$AMPHI_RUN $AMPHI_ATTEMPT $AMPHI_IDEMPOTENCY_KEY" >> {folder}/a; [ -e {folder}/fixed ]'},
        "b": {"needs": ["a"], "run": f"echo $AMPHI_RUN >> {folder}/b"},
    })
    await epic.end("failed")
    open(f"{folder}/fixed", "w").close()
    await c.api("task.retry", {"epic": epic.id, "task": "a"})
    await epic.event("epic.succeeded")
    view = await epic.get()
    same((view["state"], states(view)), ("succeeded", {"a": "succeeded", "b": "succeeded"}))
    lines = [line.split() for line in open(f"{folder}/a", encoding="utf-8")]
    same([line[:2] for line in lines], [["1", "1"], ["2", "1"]])
    assert lines[0][2] != lines[1][2], "a new run has a new idempotency key"
    same((view["by_task"]["a"]["run"], view["by_task"]["b"]["started_at"] is not None), (2, True))
    same(len(epic.of("epic.resumed")), 1)
    same((await c.api("epic.verify", {"epic": epic.id}))["ok"], True)


# --- locks ---------------------------------------------------------------------------------------------------------------------------


async def test_writers_of_one_resource_never_overlap(c):
    spans, project = Spans(c), c.name("p")
    resource = c.name("file/shared")
    tasks = {"w": {"matrix": {"i": "1..4"}, "locks": {"write": [resource]}, "run": spans.around("sleep 0.15", '"$AMPHI_EPIC/$AMPHI_TASK"')}}
    epics = [await c.submit(tasks, project=project) for _ in range(2)]
    for epic in epics:
        await epic.end("succeeded")
    same(len(spans.intervals()), 8)
    same(spans.at_once(), 1, "writers at the same time")
    tokens = [event["data"]["token"] for _, _, event in c.feed.messages if event["type"] == "lock.granted" and event["epic"] in {e.id for e in epics}]
    same(tokens, sorted(set(tokens)), "fencing tokens grow")
    # Another project's resource of the same name is another resource.
    apart = [await c.submit({"w": {"locks": {"write": [resource]}, "run": f"touch {spans.path}-{p}; while [ ! -e {spans.path}-x -o ! -e {spans.path}-y ]; do sleep 0.05; done"}}, project=f"{project}-{p}") for p in "xy"]
    for epic in apart:
        await epic.end("succeeded")


async def test_readers_share_and_exclude_writers(c):
    spans, resource, folder = Spans(c), c.name("db/s"), c.new_folder()
    # The readers meet: they end only when all three are there.
    meet = f'touch {folder}/"$AMPHI_TASK"; while [ $(ls {folder} | wc -l) -lt 3 ]; do sleep 0.05; done'
    await c.run({
        "r": {"matrix": {"i": "1..3"}, "locks": {"read": [resource]}, "run": spans.around(meet)}, "w": {"locks": {"write": [resource]}, "run": spans.around()},
    }, "succeeded", project=c.name("p"))
    same(spans.at_once(), 3)
    at = {name: (begin, end) for name, begin, end in spans.intervals()}
    for name, (begin, end) in at.items():
        assert name == "w" or end <= at["w"][0] or begin >= at["w"][1], f"{name} beside the writer: {at}"


async def test_a_lock_queue_is_served_in_the_order_of_arrival(c):
    spans, resource, folder, project = Spans(c), c.name("env/fifo"), c.new_folder(), c.name("p")
    first = await c.submit({"hold": {"locks": {"write": [resource]}, "run": f"while [ ! -e {folder}/go ]; do sleep 0.05; done"}}, project=project)
    await first.event("task.started", "hold")
    epics = []
    # Priority never overtakes in a lock queue, and readers never overtake a waiting writer.
    for name, mode, priority in [("one", "write", 4), ("two", "read", 3), ("three", "write", 0), ("four", "read", 0), ("five", "write", 2)]:
        epic = await c.submit({name: {"locks": {mode: [resource]}, "priority": priority, "run": spans.around("sleep 0.05")}}, project=project)
        await epic.event("task.waiting", name, reason="lock")
        epics.append(epic)
    lock = next(lock for lock in (await c.api("lock.list"))["locks"] if lock["resource"] == resource)
    same([waiter["task"] for waiter in lock["queue"]], ["one", "two", "three", "four", "five"])
    same((await c.api("task.why", {"epic": epics[4].id, "task": "five"}))["waits"][0]["place"], 5)
    open(f"{folder}/go", "w").close()
    for epic in epics:
        await epic.end("succeeded")
    same(spans.begun(), ["one", "two", "three", "four", "five"])


async def test_a_set_of_locks_is_granted_all_together(c):
    """Many tasks that want overlapping sets in every order: no deadlock, no overlap."""
    a, b, d = (c.name("env/set") for _ in range(3))
    spans, project = {name: Spans(c) for name in (a, b, d)}, c.name("p")
    tasks = {}
    for n, wanted in enumerate([[a, b], [b, a], [b, d], [d, a], [a, b, d], [d, b], [a, d], [d, b, a]]):
        body = "sleep 0.05"
        for resource in wanted:
            body = f"( {spans[resource].around(body)} )"
        tasks[f"t{n}"] = {"locks": {"write": wanted}, "run": body}
    epic, _ = await c.run(tasks, "succeeded", project=project)
    for resource in (a, b, d):
        same(spans[resource].at_once(), 1, resource)
    for event in epic.of("task.assigned"):
        granted = [e["data"]["token"] for e in epic.of("lock.granted", event["task"])]
        same(set(granted), {event["data"]["token"]}, "one token for the set")


async def test_files_of_one_workspace_are_one_resource(c):
    folder, spans = c.new_folder("ws"), Spans(c)
    tasks = {"w": {"matrix": {"i": "1..3"}, "locks": {"write": ["file/package.json"]}, "run": spans.around("sleep 0.1", '"$AMPHI_EPIC/$AMPHI_TASK"')}}
    epics = [await c.submit(tasks, workspace={"path": folder}) for _ in range(2)]
    for epic in epics:
        await epic.end("succeeded")
    same((len(spans.intervals()), spans.at_once()), (6, 1))


async def test_locks_of_an_ended_attempt_are_free_at_once(c):
    resource, project = c.name("env/free"), c.name("p")
    epic, _ = await c.run({"a": {"locks": {"write": [resource]}, "run": "exit 1", "retry": 2}, "b": {"locks": {"write": [resource]}, "run": "true"}}, "failed", project=project)
    same(len(epic.of("lock.granted")), len(epic.of("lock.released")))
    assert all(lock["resource"] != resource for lock in (await c.api("lock.list"))["locks"])


# --- who gets what first: these need all agents of the cluster ----------------------------------------------------------------------------


@alone
async def test_priority_goes_first_when_agents_are_scarce(c):
    folder, spans = c.new_folder(), Spans(c)
    capacity = (await c.api("node.list"))["nodes"][0]["capacity"]
    full = await c.submit({"f": {"matrix": {"i": f"1..{capacity}"}, "run": f"while [ ! -e {folder}/go ]; do sleep 0.05; done"}})
    for i in range(1, capacity + 1):
        await full.event("task.started", f"f[{i}]")
    waiting = []
    for name, priority in [("four", 4), ("two", 2), ("zero", 0), ("three", 3), ("one", 1)]:
        epic = await c.submit({name: {"run": spans.around("true")}}, priority=priority)
        await epic.event("task.waiting", name, reason="capacity")
        waiting.append(epic)
    queue = [task["task"] for task in (await c.api("queue.list"))["tasks"]]
    same(queue, ["zero", "one", "two", "three", "four"])
    same((await c.api("task.why", {"epic": waiting[0].id, "task": "four"}))["waits"][0]["reason"], "capacity")
    # One place only becomes free, so that they begin one after the other.
    await c.api("task.cancel", {"epic": full.id, "task": "f[1]"})
    for epic in waiting:
        await epic.end("succeeded")
    assigned = [event["task"] for _, _, event in c.feed.messages if event["type"] == "task.assigned" and event["epic"] in {e.id for e in waiting}]
    same(assigned, ["zero", "one", "two", "three", "four"])
    open(f"{folder}/go", "w").close()
    await full.end()


@alone
async def test_capacity_is_used_and_never_exceeded(c):
    spans = Spans(c)
    capacity = (await c.api("node.list"))["nodes"][0]["capacity"]
    meet = f"while [ $(grep -c begin {spans.path}) -lt {capacity} ]; do sleep 0.05; done; sleep 0.2"
    await c.run({"m": {"matrix": {"i": f"1..{capacity * 2}"}, "run": spans.around(meet)}}, "succeeded")
    same((len(spans.intervals()), spans.at_once()), (capacity * 2, capacity))


if __name__ == "__main__":
    main(__name__)
