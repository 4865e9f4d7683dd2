"""Each agent is its own actor: what breaks one leaves the others alone, and a crash loop ends. Seen through `amphi tree`, `agent ls` and events.

Each test breaks agents of a role of its own, so that they can run side by side and still tell who was hit.
"""

import os
import time

from harness import *




def prepare(folder):
    with open(os.path.join(folder, "amphi.yaml"), "w", encoding="utf-8") as file:
        # One agent that breaks again and again must be given up; with a single one of its role it is always the same.
        file.write("version: 1\nroles:\n  BuildMaster: { replicas: 1 }\n  BackupKeeper: { replicas: 1 }\n")


async def actors(c):
    """All actors of node-1's tree by name."""
    found = {}

    def walk(at):
        found[at["name"]] = at
        for child in at["children"]:
            walk(child)

    tree = (await c.amphi("tree", "--json")).exits(0).json
    same([node["node"] for node in tree["nodes"]], ["node-1"])
    walk(tree["nodes"][0]["root"])
    return found


async def agent(c, id):
    return await c.api("agent.get", {"agent": id})


async def test_a_panic_raises_only_that_agents_restarts(c):
    epic = await c.submit({"boom": {"agent": "TestGuardian", "tool": "panic", "retry": {"attempts": 3, "on": ["agent_lost"]}}, "calm": {"agent": "TestGuardian", "run": "sleep 1"}})
    view = await epic.end("failed")
    hit = [event["agent"] for event in epic.of("task.assigned", "boom")]
    same((len(hit), len(set(hit))), (3, 3), f"three attempts on different agents: {hit}")
    same([event["data"]["cause"] for event in epic.of("task.retrying", "boom")], ["agent_lost", "agent_lost"])
    same(epic.of("task.failed", "boom")[0]["data"]["cause"], "agent_lost")
    assert view["by_task"]["boom"]["state"] == "failed" and "panic" in view["by_task"]["boom"]["error"], view["by_task"]["boom"]

    async def restarted():
        found = await actors(c)
        return found if all(found[id]["restarts"] == 1 and found[id]["state"] == "running" for id in hit) else None

    found = await within(restarted, "each of them was started again once")
    for name, at in found.items():
        role = name.split("-")[2] if name.startswith("node-1-") else None
        if role == "TestGuardian":
            same((at["restarts"], at["state"]), (1 if name in hit else 0, "running"), name)
        elif role in ("DatabaseArchitect", None):
            same((at["restarts"], at["state"]), (0, "running"), name)
        if name in hit:
            assert "panic" in at["last_exit"], at
            same((at["restart"], at["kind"], at["max"], at["within_ms"]), ("permanent", "worker", 5, 60000))
    pool = found["pool-TestGuardian"]
    same((pool["kind"], pool["strategy"], pool["restarts"]), ("supervisor", "one_for_one", 0))

    async def listed():
        listing = {a["agent"]: a for a in (await c.amphi("agent", "ls", "--json")).exits(0).json["agents"]}
        return all(listing[id]["restarts"] == 1 and listing[id]["state"] == "idle" for id in hit) or None

    await within(listed, "`agent ls` tells the same")
    types = [event["type"] for _, _, event in c.feed.messages if event["agent"] in hit and event["epic"] is None]
    same((types.count("agent.lost"), types.count("agent.restarted")), (3, 3), types)
    assert alive(c.up.ready["nodes"][0]["pid"]), "the node lives"


async def test_work_beside_a_panic_is_not_disturbed(c):
    folder = c.new_folder()
    quiet = await c.submit({"q": {"matrix": {"i": "1..3"}, "agent": "DatabaseArchitect", "run": f"while [ ! -e {folder}/go ]; do sleep 0.05; done"}})
    for i in (1, 2, 3):
        await quiet.event("task.started", f"q[{i}]")
    epic = await c.submit({"boom": {"agent": "MonitoringSentinel", "tool": "panic"}})
    await epic.end("failed")
    open(f"{folder}/go", "w").close()
    view = await quiet.end("succeeded")
    same({task["attempt"] for task in view["tasks"]}, {1})


async def test_a_hung_agent_delays_nobody_and_is_replaced(c):
    epic = await c.submit({"stuck": {"agent": "DeployCommander", "tool": "hang", "retry": {"attempts": 2, "on": ["agent_lost", "stuck"]}}})
    first = await epic.event("task.started", "stuck")
    # Others work on while it hangs, of its own role too.
    for _ in range(3):
        _, view = await c.run({"m": {"matrix": {"i": "1..3"}, "agent": "DeployCommander", "run": "true"}}, "succeeded")
        assert first["agent"] not in {task["agent"] for task in view["tasks"]}
    same((await agent(c, first["agent"]))["state"], "busy")
    same(epic.of("task.retrying"), [], "all of that while it hung")
    view = await epic.end("failed")
    hung = [event["agent"] for event in epic.of("task.assigned", "stuck")]
    same((len(hung), len(set(hung))), (2, 2), "the second attempt went to another agent")
    gone = epic.of("task.retrying", "stuck")[0]
    took = milliseconds(gone["ts"]) - milliseconds(first["ts"])
    assert took < 40_000, f"noticed after {took} ms"
    assert view["by_task"]["stuck"]["error"], view["by_task"]["stuck"]

    async def replaced():
        found = await actors(c)
        return found if all(found[id]["restarts"] == 1 and found[id]["state"] == "running" for id in hung) else None

    found = await within(replaced, "the hung agents are replaced")
    assert all(found[id]["last_exit"] for id in hung), found
    same({at["restarts"] for name, at in found.items() if "-DeployCommander-" in name and name not in hung}, {0})
    for id in hung:
        await within(lambda: idle(c, id), "it takes work again")


async def idle(c, id):
    return (await agent(c, id))["state"] == "idle" or None


async def test_a_cancelled_hang_is_replaced_within_10_s(c):
    epic = await c.submit({"stuck": {"agent": "BackupKeeper", "tool": "hang"}})
    hung = (await epic.event("task.started", "stuck"))["agent"]
    at = time.monotonic()
    await c.api("epic.cancel", {"epic": epic.id})
    await epic.end("cancelled")
    assert time.monotonic() - at <= 10, f"{time.monotonic() - at:.1f} s"
    await within(lambda: idle(c, hung), "it takes work again")
    await c.run({"a": {"agent": "BackupKeeper", "run": "true"}}, "succeeded")


async def test_a_crash_loop_ends_in_quarantine_and_restart_revives(c):
    id = "node-1-BuildMaster-1"
    epic = await c.submit({"loop": {"agent": "BuildMaster", "tool": "panic", "retry": {"attempts": 7, "on": ["agent_lost"]}}})
    # Five restarts in a minute are allowed; the sixth death is one too many.
    await epic.event("task.waiting", "loop", reason="no_agent")
    lost = await c.feed.until(lambda: next((e for _, _, e in c.feed.messages if e["type"] == "agent.quarantined" and e["agent"] == id), None), lambda: "agent.quarantined")
    assert lost["data"]["cause"], lost
    same((await agent(c, id))["state"], "quarantined")
    listing = (await c.amphi("agent", "ls", "--json")).exits(0).json["agents"]
    same([a["state"] for a in listing if a["agent"] == id], ["quarantined"])
    at = (await actors(c))[id]
    same((at["state"], at["restarts"]), ("quarantined", 5))
    assert "panic" in at["last_exit"], at
    same(((await actors(c))["pool-BuildMaster"]["state"], (await actors(c))["pool-BuildMaster"]["restarts"]), ("running", 0), "its supervisor lives")
    same(len(epic.of("task.started", "loop")), 6)
    task = await epic.task("loop")
    same((task["state"], task["reason"]), ("waiting", "no_agent"))
    # A person revives it; the task uses its last attempt up and is over.
    same((await c.amphi("agent", "restart", id, "--json")).exits(0).json["agent"], id)
    view = await epic.end("failed")
    same(view["by_task"]["loop"]["attempt"], 7)

    async def back():
        return (await actors(c))[id]["state"] == "running" or None

    await within(back, "it runs again")
    await within(lambda: idle(c, id), "it takes work again")
    _, view = await c.run({"a": {"agent": "BuildMaster", "run": "true"}}, "succeeded")
    same(view["by_task"]["a"]["agent"], id)


async def test_restart_of_a_busy_agent_ends_its_processes_and_the_task_goes_elsewhere(c):
    folder = c.new_folder()
    epic = await c.submit({"a": {"agent": "MonitoringSentinel", "run": f"echo $$ >> {folder}/pids; [ $AMPHI_ATTEMPT = 2 ] || sleep 600"}})
    started = await epic.event("task.started", "a")
    (await c.amphi("agent", "restart", started["agent"], "--json")).exits(0)
    view = await epic.end("succeeded")
    same(view["by_task"]["a"]["attempt"], 2)
    assert view["by_task"]["a"]["agent"] != started["agent"], "another agent"
    same([event["data"]["cause"] for event in epic.of("task.retrying", "a")], ["agent_lost"])
    assert not alive(started["data"]["pid"])


async def test_the_fault_tools_are_known_only_with_amphi_faults(c):
    for tool in ("panic", "hang"):
        judged = await c.api("epic.validate", {"document": {"version": 1, "name": "f", "tasks": {"a": {"tool": tool}}}, "strict": True})
        same(judged["ok"], True)
    offline = (await command("epic", "validate", c.file({"version": 1, "name": "f", "tasks": {"a": {"tool": "panic"}}}), "--strict", "--json")).exits(2).json
    same([problem["code"] for problem in offline["problems"]], ["tool.unknown"])


if __name__ == "__main__":
    main(__name__, env={"AMPHI_FAULTS": "1"}, prepare=prepare)
