"""Workspaces of kind `git`: a worktree per run, made of a real repository by real nodes, never removed while it holds work that is nowhere else."""

import glob
import os
import signal
import subprocess

from harness import *

WHO = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b"


def git(folder, *arguments):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def repository(c):
    """A bare repository with one commit on `main`, and a clone of it to work in; gives both."""
    folder = c.new_folder("git")
    bare, clone = os.path.join(folder, "origin.git"), os.path.join(folder, "clone")
    git(folder, "init", "--quiet", "--bare", bare)
    git(folder, "clone", "--quiet", bare, clone)
    os.mkdir(os.path.join(clone, "src"))
    commit(clone, "one")
    return bare, clone


def commit(clone, text):
    with open(os.path.join(clone, "src", "a.txt"), "w", encoding="utf-8") as file:
        file.write(text)
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "-m", text)
    git(clone, "push", "--quiet", "origin", "HEAD:refs/heads/main")


async def test_each_run_has_its_own_worktree_and_all_see_the_same_commit(c):
    bare, clone = repository(c)
    say = "echo \"at=$(pwd)\" >> $AMPHI_OUTPUT; echo \"text=$(cat a.txt)\" >> $AMPHI_OUTPUT; echo \"branch=$(git branch --show-current)\" >> $AMPHI_OUTPUT"
    tasks = {
        "first": {"run": say},
        "again": {"needs": ["first"], "run": say},
        "many": {"needs": ["first"], "matrix": {"i": "1..4"}, "run": say},
    }
    tasks["first"]["run"] += f"; cd {clone}; echo two > src/a.txt; {WHO}; git commit -qam two; git push -q origin HEAD:refs/heads/main"
    epic, view = await c.run(tasks, "succeeded", workspace={"git": bare, "ref": "main"}, defaults={"workdir": "src"})
    outputs = {key: task["outputs"] for key, task in view["by_task"].items()}
    same({said["text"] for said in outputs.values()}, {"one"}, "the commit of the epic, though the branch has moved on")
    same(len({said["at"] for said in outputs.values()}), 6, "a worktree each")
    same(outputs["again"]["branch"], f"amphi/{epic.id}/again/1")
    assert all(said["at"].endswith("/src") for said in outputs.values()), outputs
    assert not any(os.path.exists(said["at"]) for said in outputs.values()), "nothing was left in them, so they are gone"
    git(bare, "fsck", "--strict")


async def test_work_that_is_nowhere_else_is_kept_and_said_and_pushed_work_is_not(c):
    bare, _ = repository(c)
    change = f"set -e; {WHO}; pwd >> $AMPHI_ARTIFACTS/at; echo \"at=$(pwd)\" >> $AMPHI_OUTPUT; echo $AMPHI_TASK > src/a.txt; "
    tasks = {
        "dirty": {"run": change},
        "committed": {"run": change + "git commit -qam x"},
        "pushed": {"run": change + "git commit -qam x; git push -q origin HEAD:refs/heads/pushed"},
        "failed": {"optional": True, "run": change + "exit 3"},
    }
    epic, view = await c.run(tasks, "succeeded", workspace={"git": bare})
    for key, why in [("dirty", "1 file that is not committed"), ("committed", "1 commit that the origin does not have"), ("failed", "1 file")]:
        log = await epic.log_has(key, "the worktree is kept")
        assert why in log, log
        at = log.split("): ")[1].split(" on branch ")[0]
        same(open(os.path.join(at, "src", "a.txt"), encoding="utf-8").read().strip(), key)
    assert not os.path.exists(view["by_task"]["pushed"]["outputs"]["at"])
    same(git(bare, "show", "pushed:src/a.txt"), "pushed")


async def test_a_second_run_of_a_task_has_another_worktree(c):
    bare, _ = repository(c)
    epic, view = await c.run({"a": {"run": "pwd; touch left; [ $AMPHI_RUN = 2 ]"}}, "failed", workspace={"git": bare, "ref": "main"})
    same((await c.amphi("task", "retry", f"{epic.id}/a", "--json")).exits(0).code, 0)
    await epic.event("task.succeeded", "a")

    async def places():
        said = [(await epic.log("a", "out", run=run, attempt=1)).strip() for run in (1, 2)]
        return said if all(said) else None

    first, second = await within(places, "both runs said where they are")
    assert first.endswith(".a.1") and second.endswith(".a.2"), (first, second)


async def test_a_repository_that_is_not_there_fails_with_the_words_of_git(c):
    _, view = await c.run({"a": {"run": "true"}}, "failed", workspace={"git": "/nowhere/at/all"})
    assert "does not appear to be a git repository" in view["by_task"]["a"]["error"], view["by_task"]["a"]
    bare, _ = repository(c)
    _, view = await c.run({"a": {"tool": "noop"}}, "failed", workspace={"git": bare, "ref": "nope"})
    assert "no branch, tag or commit `nope`" in view["by_task"]["a"]["error"], view["by_task"]["a"]


async def test_bad_documents_are_refused_with_their_place(c):
    for workspace, word in [({"git": "../x"}, "relative"), ({"git": "https://me:secret@h/x"}, "login"), ({"git": "/x", "ref": "a b"}, "`ref`")]:
        refused = await c.refused("epic.submit", {"document": {"version": 1, "name": "x", "workspace": workspace, "tasks": {"a": {"run": "x"}}}}, "epic.type")
        assert word in refused.problems[0]["message"] and "secret" not in str(refused.problems), refused.problems
    # The command line makes a relative one absolute.
    bare, clone = repository(c)
    path = c.file({"version": 1, "name": "x", "workspace": {"git": "../origin.git"}, "tasks": {"a": {"run": "cat src/a.txt"}}}, folder=clone)
    result = (await c.amphi("run", path, "--wait", "--json")).exits(0)
    await Epic(c, result.lines[-1]["epic"]).log_has("a", "one")


async def test_locks_on_files_count_per_repository_and_ref(c):
    bare, _ = repository(c)
    other, _ = repository(c)
    folder = c.new_folder()
    # Both must hold their lock at the same time, or neither ends.
    meet = "touch %s/$AMPHI_EPIC; while [ $(ls %s | wc -l) -lt 2 ]; do sleep 0.05; done" % (folder, folder)
    task = {"locks": {"write": ["file/src/a.txt"]}, "run": meet}
    epics = [await c.submit({"a": task}, workspace={"git": url, "ref": "main"}) for url in (bare, other)]
    for epic in epics:
        await epic.end("succeeded")
    holder = await c.submit({"a": {"locks": {"write": ["file/src/a.txt"]}, "run": "while [ ! -e %s/go ]; do sleep 0.05; done" % folder}}, workspace={"git": bare, "ref": "main"})
    await holder.event("task.started", "a")
    waiter = await c.submit({"a": {"locks": {"read": ["file/src/a.txt"]}, "run": "true"}}, workspace={"git": bare, "ref": "main"})
    same((await waiter.event("task.waiting", "a"))["data"]["reason"], "lock")
    open(os.path.join(folder, "go"), "w", encoding="utf-8").close()
    await waiter.end("succeeded")
    await holder.end("succeeded")


@alone
async def test_a_killed_node_leaves_its_worktree_and_the_next_attempt_makes_its_own(c):
    bare, _ = repository(c)
    folder = c.new_folder()
    run = f"set -e; {WHO}; echo \"at=$(pwd)\" >> $AMPHI_OUTPUT; echo $AMPHI_ATTEMPT >> src/a.txt; touch $(git rev-parse --git-dir)/index.lock; [ $AMPHI_ATTEMPT = 2 ] || {{ touch {folder}/go; sleep 600; }}; rm -f $(git rev-parse --git-dir)/index.lock; git commit -qam x; git push -q origin HEAD:refs/heads/done"
    epic = await c.submit({"a": {"run": run}}, workspace={"git": bare, "ref": "main"})
    started = await epic.event("task.started", "a")
    await within(lambda: os.path.exists(f"{folder}/go") or None, "it works")
    pid = next(node["pid"] for node in (await c.api("node.list"))["nodes"] if node["id"] == started["node"])
    os.kill(pid, signal.SIGKILL)
    view = await epic.end("succeeded")
    same(view["by_task"]["a"]["attempt"], 2)
    # What the first attempt left is still there, unless the second went on in it.
    left = [path for path in glob.glob(f"{c.up.data}/**/worktrees/{epic.id}.a.1/src/a.txt", recursive=True)]
    if view["by_task"]["a"]["node"] != started["node"]:
        same([open(path, encoding="utf-8").read().strip() for path in left], ["one1"])
        same(git(bare, "show", "done:src/a.txt"), "one2")
    else:
        same(git(bare, "show", "done:src/a.txt"), "one1\n2")

    async def back():
        return all(node["state"] == "alive" for node in (await c.api("node.list"))["nodes"]) or None

    await within(back, "the node is back")
    # Nothing that the killed one left stands in the way.
    _, view = await c.run({"t": {"matrix": {"i": "1..6"}, "run": "git status --porcelain; cat src/a.txt"}}, "succeeded", workspace={"git": bare, "ref": "main"})


if __name__ == "__main__":
    main(__name__, arguments=("--nodes", "2", "--capacity", "6"))
