"""Roles as files: a new role is a file that running nodes pick up, a wrong file is rejected with its place and changes nothing, a role that went lets its
agents finish. `role ls` tells where each role is from."""

import os

from harness import *

AUDITOR = "# Looks for holes.\nname: SecurityAuditor\nskills: [semgrep, zap]\nresponsibilities: [find holes]\ntools: [noop, sleep]\nreplicas: 2\n"


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


def roles_folder(c):
    return os.path.join(c.folder, "roles")


async def roles(c):
    return (await c.amphi("role", "ls", "--json")).exits(0).json


async def role(c, name):
    return next((role for role in (await roles(c))["roles"] if role["role"] == name), None)


async def agents(c, name, state=None):
    listed = (await c.api("agent.list"))["agents"]
    return {agent["agent"]: agent for agent in listed if agent["role"] == name and (state is None or agent["state"] == state)}


def staff(c, name, type):
    return [event for _, _, event in c.feed.messages if event["type"] == type and event["data"].get("role") == name]


async def test_a_new_role_is_a_file_and_goes_with_it(c):
    task = {"audit": {"agent": "SecurityAuditor", "tool": "noop"}}
    refused = await c.refused("epic.submit", json.dumps({"document": {"version": 1, "name": c.name("early"), "tasks": task}}), "role.unknown")
    assert "SecurityAuditor" in str(refused.error), refused.error
    path = f"{roles_folder(c)}/auditor.yaml"
    write(path, AUDITOR)
    shown = await within(lambda: role(c, "SecurityAuditor"), "the role is known without a restart")
    same((shown["skills"], shown["replicas"], shown["source"]), (["semgrep", "zap"], "2", path))
    # Known is accepted, also before its agents are there.
    epic = await c.submit(task)
    await epic.end("succeeded")

    async def idle(count):
        there = await agents(c, "SecurityAuditor", "idle")
        return there if len(there) == count else None

    there = await within(lambda: idle(2), "two agents on the node")
    same({"semgrep" in agent["skills"] and "zap" in agent["skills"] for agent in there.values()}, {True})
    same({event["data"]["cause"] for event in staff(c, "SecurityAuditor", "agent.joined")}, {"role"})
    text = (await c.amphi("role", "show", "SecurityAuditor")).exits(0).out
    assert path in text, text
    tree = (await c.amphi("tree", "--json")).exits(0).json["nodes"][0]["root"]
    pool = next(child for child in tree["children"] if child["name"] == "pool-SecurityAuditor")
    same((pool["kind"], pool["strategy"], len(pool["children"])), ("supervisor", "one_for_one", 2))

    # A wrong version changes nothing and is told with its place.
    write(path, AUDITOR + "replicass: 3\n")

    async def rejected():
        return next((entry for entry in (await roles(c))["rejected"] if entry["file"] == path), None)

    entry = await within(rejected, "the wrong version is rejected")
    problem = entry["problems"][0]
    same((problem["line"], entry["former_in_effect"]), (7, True))
    assert "replicass" in problem["message"] and "replicas" in problem["hint"], problem
    assert await role(c, "SecurityAuditor"), "the former version is in effect"
    text = (await c.amphi("role", "ls")).exits(0).out
    assert "rejected" in text and f"{path}:7" in text, text

    # A changed one makes new agents; those that were there leave.
    write(path, AUDITOR.replace("zap]", "zap, trivy]").replace("replicas: 2", "replicas: 1"))

    async def replaced():
        there = await agents(c, "SecurityAuditor")
        return there if ["trivy" in agent["skills"] for agent in there.values()] == [True] else None

    await within(replaced, "one agent with the new skills is there, and nobody else")

    # Gone: who works finishes.
    busy = await c.submit({"audit": {"agent": "SecurityAuditor", "run": f"while [ ! -e {c.folder}/go ]; do sleep 0.1; done"}})
    await busy.event("task.started", "audit")
    os.remove(path)

    async def gone():
        return await role(c, "SecurityAuditor") is None or None

    await within(gone, "the role is not known any more")
    await c.refused("epic.submit", json.dumps({"document": {"version": 1, "name": c.name("late"), "tasks": task}}), "role.unknown")
    same(len(await agents(c, "SecurityAuditor")), 1, "its agent works on")
    open(f"{c.folder}/go", "w").close()
    await busy.end("succeeded")

    async def nobody():
        return not await agents(c, "SecurityAuditor") or None

    await within(nobody, "then it leaves")
    same({event["data"]["cause"] for event in staff(c, "SecurityAuditor", "agent.lost")}, {"role"})

    async def no_pool():
        tree = (await c.amphi("tree", "--json")).exits(0).json["nodes"][0]["root"]
        return all(child["name"] != "pool-SecurityAuditor" for child in tree["children"]) or None

    await within(no_pool, "its pool ends")


async def test_wrong_files_are_rejected_and_disturb_nobody(c):
    folder = roles_folder(c)
    before = {role["role"] for role in (await roles(c))["roles"]}
    wrong = {"list.yaml": "- a\n", "broken.yaml": "skills: [\n", "named.yaml": "name: 7\n", "broadcast.yaml": "skills: []\n", "has space.yaml": "skills: []\n",
             "range.yaml": "replicas: 5..2\n", "huge.yaml": "# " + "x" * 100_000, "bytes.yaml": "\x00\x01"}
    for name, text in wrong.items():
        write(f"{folder}/{name}", text)
    os.makedirs(f"{folder}/folder.yaml", exist_ok=True)

    async def all_told():
        told = {os.path.basename(entry["file"]) for entry in (await roles(c))["rejected"]}
        return told >= set(wrong) or None

    await within(all_told, "each wrong file is told")
    assert {role["role"] for role in (await roles(c))["roles"]} >= before, "nothing went away"
    for name in wrong:
        os.remove(f"{folder}/{name}")
    await c.run({"a": {"agent": "BuildMaster", "tool": "noop"}}, "succeeded")


if __name__ == "__main__":
    main(__name__)
