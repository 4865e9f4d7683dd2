"""What one task gets and leaves: environment, substitution, outputs, artifacts, workspaces, secrets, output text, tools."""

import json
import os

from harness import *

HOSTILE = [
    "$(touch x)", "`touch x`", '"; touch x; "', "'; touch x; '", "a b\tc", "line one\nline two\n", "*", "$HOME", "${IFS}", "\\", "\\n", "-n", "", "ä → 🎭", "&& touch x", "!!", "#x", "~", "%s",
]
SECRET = "correct-horse-battery-staple"


def prepare(folder):
    with open(os.path.join(folder, "amphi.yaml"), "w", encoding="utf-8") as file:
        file.write(f"version: 1\nsecrets: {{ TOKEN: {{ env: THE_TOKEN }}, FILED: {{ file: {folder}/filed }} }}\n")
    with open(os.path.join(folder, "filed"), "w", encoding="utf-8") as file:
        file.write("another-long-secret-value\n")


async def test_the_environment_of_a_run_is_exactly_this(c):
    out = c.new_folder()
    epic, view = await environment_epic(c, out)
    found = dict(entry.split("=", 1) for entry in open(f"{out}/environ", encoding="utf-8").read().split("\0") if entry)
    task = view["by_task"]["e[7]"]
    fixed = {
        "AMPHI_EPIC": epic.id, "AMPHI_TASK": "e[7]", "AMPHI_RUN": "1", "AMPHI_ATTEMPT": "1", "AMPHI_FENCING_TOKEN": str(task["token"]), "MINE": "1 y",
    }
    same({name: found.get(name) for name in fixed}, fixed)
    folders = ["AMPHI_OUTPUT", "AMPHI_ARTIFACTS", "AMPHI_INPUTS", "TMPDIR"]
    # AMPHI_PROGRESS is how `amphi progress` is heard, by AMPHI_GUARD a next life of the node knows its own; PWD is the shell's.
    allowed = {*fixed, *folders, "AMPHI_IDEMPOTENCY_KEY", "AMPHI_PROGRESS", "AMPHI_GUARD", "PATH", "HOME", "LANG", "PWD"}
    same(found.keys() - allowed, set(), "nothing else")
    same({*fixed, *folders, "AMPHI_IDEMPOTENCY_KEY", "PATH", "HOME", "LANG"} - found.keys(), set(), "nothing missing")
    for name in folders:
        assert os.path.isabs(found[name]), (name, found[name])
    assert found["AMPHI_IDEMPOTENCY_KEY"]
    assert not [name for name, value in found.items() if "leaked" in name.lower() or "leaked" in value], "nothing of the node's own environment"
    same(open(f"{out}/ls", encoding="utf-8").read(), "", "the private folder is empty")
    pwd = open(f"{out}/pwd", encoding="utf-8").read().strip()
    assert pwd.startswith(os.path.realpath(c.up.data)), pwd
    await within(lambda: not os.path.exists(pwd) or None, "the private folder goes away with its attempt")


async def environment_epic(c, out):
    document = {
        "version": 1, "name": c.name("env"), "inputs": {"x": {"type": "string"}},
        "tasks": {"e": {"matrix": {"i": [7]}, "env": {"MINE": "1 ${{ inputs.x }}"}, "run": f"cat /proc/$$/environ > {out}/environ; pwd > {out}/pwd; ls -A > {out}/ls"}},
    }
    epic = Epic(c, (await c.api("epic.submit", {"document": document, "inputs": {"x": "y"}}))["epic"])
    return epic, await epic.end("succeeded")


async def test_hostile_values_stay_one_word_of_data(c):
    for number, value in enumerate(HOSTILE):
        out, work = c.new_folder("out"), c.new_folder("work")
        document = {
            "version": 1, "name": c.name("hostile"), "workspace": {"path": work}, "inputs": {"v": {"type": "string"}},
            "tasks": {
                "bare": {"run": f"printf '%s' ${{{{ inputs.v }}}} > {out}/bare; set -- ${{{{ inputs.v }}}}; echo $# > {out}/count"},
                "double": {"run": f"printf '%s' \"<${{{{ inputs.v }}}}>\" > {out}/double"},
                "single": {"run": f"printf '%s' '<${{{{ inputs.v }}}}>' > {out}/single"},
                "env": {"env": {"V": "${{ inputs.v }}"}, "run": f"printf '%s' \"$V\" > {out}/env"},
            },
        }
        epic = Epic(c, (await c.api("epic.submit", {"document": document, "inputs": {"v": value}}))["epic"])
        await epic.end("succeeded")
        read = lambda name: open(f"{out}/{name}", encoding="utf-8", newline="").read()
        same((read("bare"), read("count").strip()), (value, "1"), f"value {number} outside quotes")
        same((read("double"), read("single"), read("env")), (f"<{value}>", f"<{value}>", value), f"value {number} in quotes")
        same(os.listdir(work), [], f"value {number} ran")


async def test_outputs_are_passed_on_hostile_ones_too(c):
    out, work = c.new_folder("out"), c.new_folder("work")
    values = [value for value in HOSTILE if "\n" not in value]
    writes = c.file("".join(f"k{n}={value}\n" for n, value in enumerate(values)), "outputs")
    reads = "; ".join(f"printf '%s' ${{{{ tasks.a.outputs.k{n} }}}} > {out}/{n}" for n in range(len(values)))
    _, view = await c.run({"a": {"run": f"cat {writes} >> \"$AMPHI_OUTPUT\""}, "b": {"needs": ["a"], "run": reads}}, "succeeded", workspace={"path": work})
    same(view["by_task"]["a"]["outputs"], {f"k{n}": value for n, value in enumerate(values)})
    same([open(f"{out}/{n}", encoding="utf-8").read() for n in range(len(values))], values)
    same(os.listdir(work), [])


async def test_outputs_have_the_declared_types(c):
    kinds = {"n": "number", "i": "integer", "b": "boolean", "l": "string[]", "o": "object", "e": "enum(red, green)", "s": "string"}
    lines = ["n=1.5", "i=3", "b=true", 'l=["x","y"]', 'o={"k":[1]}', "e=green", "s=plain = text", "undeclared=kept"]
    write = "; ".join(f"printf '%s\\n' '{line}' >> \"$AMPHI_OUTPUT\"" for line in lines)
    _, view = await c.run({"a": {"outputs": kinds, "run": write}, "b": {"needs": ["a"], "run": "test ${{ tasks.a.outputs.i }} -eq 3 && test ${{ tasks.a.outputs.b }} = true"}}, "succeeded")
    same(view["by_task"]["a"]["outputs"], {"n": 1.5, "i": 3, "b": True, "l": ["x", "y"], "o": {"k": [1]}, "e": "green", "s": "plain = text", "undeclared": "kept"})
    bad = {
        "wrong_type": {"outputs": {"i": "integer"}, "run": "echo i=many >> $AMPHI_OUTPUT", "optional": True},
        "missing": {"outputs": {"i": "integer"}, "run": "true", "optional": True},
        "no_pair": {"run": "echo nonsense >> $AMPHI_OUTPUT", "optional": True},
        "too_long": {"run": "printf 'k=' >> $AMPHI_OUTPUT; head -c 70000 /dev/zero | tr '\\0' x >> $AMPHI_OUTPUT", "optional": True},
        "no_text": {"run": "printf 'k=\\377\\376\\n' >> $AMPHI_OUTPUT", "optional": True},
        "a_link": {"run": "rm $AMPHI_OUTPUT; ln -s /etc/passwd $AMPHI_OUTPUT", "optional": True},
        "a_pipe": {"run": "rm $AMPHI_OUTPUT; mkfifo $AMPHI_OUTPUT", "optional": True},
    }
    epic, view = await c.run(bad, "succeeded")
    for name in bad:
        task = view["by_task"][name]
        same((task["state"], task["outputs"]), ("failed", {}), name)
        assert task["error"], name
        same(epic.of("task.failed", name)[0]["data"]["cause"], "output", name)


async def test_artifacts_are_kept_and_reach_whoever_needs_them(c):
    out = c.new_folder()
    epic, _ = await c.run({
        "make": {"run": "mkdir -p $AMPHI_ARTIFACTS/sub; printf one > $AMPHI_ARTIFACTS/a.txt; printf '\\001\\377\\000two' > \"$AMPHI_ARTIFACTS/sub/b c.bin\"; ln -s /etc/passwd $AMPHI_ARTIFACTS/link"},
        "shard": {"matrix": {"i": [1, 2]}, "run": "printf ${{ matrix.i }} > $AMPHI_ARTIFACTS/part"},
        "none": {"run": "true"},
        "use": {"needs": ["make", "shard", "none"], "run": f"cp -R $AMPHI_INPUTS {out}/inputs"},
        "stranger": {"needs": ["none"], "run": f"ls -A $AMPHI_INPUTS > {out}/stranger"},
    }, "succeeded")
    kept = epic.of("task.succeeded", "make")[0]["data"]["artifacts"]
    same([(artifact["path"], artifact["size"]) for artifact in kept], [("a.txt", 3), ("sub/b c.bin", 6)], "regular files only")
    assert all(len(artifact["sha256"]) == 64 for artifact in kept), kept
    read = lambda name: open(f"{out}/inputs/{name}", "rb").read()
    same(read("make/a.txt"), b"one")
    same(read("make/sub/b c.bin"), b"\x01\xff\x00two")
    same((read("shard[1]/part"), read("shard[2]/part")), (b"1", b"2"))
    same(open(f"{out}/stranger", encoding="utf-8").read().split(), [name for name in ["none"] if os.path.isdir(f"{out}/inputs/none")])


async def test_a_workspace_by_path_is_shared_in_place_and_none_is_private(c):
    work = c.new_folder("ws")
    os.mkdir(f"{work}/deep")
    _, view = await c.run({
        "a": {"run": "pwd > where; echo 1 > here"}, "b": {"needs": ["a"], "workdir": "deep", "run": "cat ../here && pwd > where"},
    }, "succeeded", workspace={"path": work})
    same(open(f"{work}/where", encoding="utf-8").read().strip(), work)
    same(open(f"{work}/deep/where", encoding="utf-8").read().strip(), f"{work}/deep")
    _, view = await c.run({"a": {"run": "echo 1 > here"}, "b": {"needs": ["a"], "run": "test -z \"$(ls -A)\""}}, "succeeded", workspace="none")
    # Out of the workspace there is no way by `workdir`.
    os.symlink("/", f"{work}/root")
    _, view = await c.run({"link": {"workdir": "root/etc", "run": f"touch {work}/ran", "optional": True}, "gone": {"workdir": "absent", "run": f"touch {work}/ran", "optional": True}}, "succeeded", workspace={"path": work})
    same({task["state"] for task in view["tasks"]}, {"failed"})
    assert not os.path.exists(f"{work}/ran")
    for tasks, top in [({"a": {"workdir": "../x", "run": "true"}}, {}), ({"a": {"workdir": "/etc", "run": "true"}}, {}), ({"a": {"run": "true"}}, {"workspace": {"path": "relative"}})]:
        document = {"version": 1, "name": c.name(), "tasks": tasks, "workspace": {"path": work}, **top}
        refused = await c.refused("epic.submit", document, "epic.type", 400)
        assert refused.problems[0]["line"] >= 1, refused
    # A workspace that is not there is a failure that says so.
    _, view = await c.run({"a": {"run": "true", "retry": 0}}, "failed", workspace={"path": f"{work}/absent"})
    assert "workspace" in view["by_task"]["a"]["error"], view["by_task"]["a"]


async def test_output_is_kept_to_a_limit_and_says_where_it_was_cut(c):
    epic, view = await c.run({"loud": {"run": "head -c 3000000 /dev/zero | tr '\\0' x; echo the end >&2"}, "binary": {"run": "printf 'a\\000b\\377c\\n'"}}, "succeeded")
    log = await epic.log_has("loud", "cut here")
    assert 1024 * 1024 <= len(log) <= 1024 * 1024 + 4096, len(log)
    assert (await epic.log_has("binary", "a"))[0] == "a"
    for task, cut in [("loud", True), ("binary", False)]:
        same((await c.api("task.logs", {"epic": epic.id, "task": task}))["truncated"], cut, task)


async def test_output_of_each_attempt_is_found_again(c):
    epic, _ = await c.run({"a": {"retry": 1, "run": "echo attempt $AMPHI_ATTEMPT; [ $AMPHI_ATTEMPT = 2 ]"}}, "succeeded")
    same(await epic.log_has("a", "attempt 2"), "attempt 2\n", "the last by default")
    same(await epic.log("a", attempt=1), "attempt 1\n")
    same(await epic.log("a", attempt=9), "")


async def test_the_end_of_stderr_is_the_error(c):
    _, view = await c.run({"a": {"run": "echo noise; echo 'cannot open the door' >&2; exit 4"}, "b": {"run": "exit 5"}, "k": {"run": "kill -9 $$"}}, "failed", on_failure="stop")
    task = view["by_task"]["a"]
    if task["state"] == "failed":
        same((task["exit_code"], task["error"]), (4, "cannot open the door"))
    assert any(task["state"] == "failed" and task["error"] for task in view["tasks"]), view["tasks"]


async def test_no_secret_leaves(c):
    out = c.new_folder()
    epic, view = await c.run({
        "use": {"env": {"T": "${{ secrets.TOKEN }}"}, "run": f"printf '%s' \"$T\" > {out}/seen; printf '%s' \"${{{{ secrets.FILED }}}}\" > {out}/filed; echo \"token $T\"; echo \"err $T\" >&2; echo \"k=$T\" >> $AMPHI_OUTPUT; {BIN} progress 10 -m \"with $T\""},
        "fails": {"needs": ["use"], "optional": True, "run": "echo \"bad ${{ secrets.TOKEN }}\" >&2; exit 1"},
        "split": {"run": f"t=\"${{{{ secrets.TOKEN }}}}\"; printf '%s' \"${{t%staple}}\"; sleep 0.5; echo staple"},
    }, "succeeded")
    same((open(f"{out}/seen", encoding="utf-8").read(), open(f"{out}/filed", encoding="utf-8").read()), (SECRET, "another-long-secret-value"))
    same(view["by_task"]["use"]["outputs"], {"k": "***"})
    assert "token ***" in await epic.log_has("use", "token"), "masked in the output"
    same((await epic.log_has("split", "***")).strip(), "***", "masked across two writes")
    everything = json.dumps([epic.events, view, await c.api("epic.export", {"epic": epic.id}), await c.api("epic.events", {"epic": epic.id}), await epic.log("use"), await epic.log("fails"), await epic.log("split")])
    for secret in (SECRET, "another-long-secret-value"):
        assert secret not in everything, f"it leaked: …{everything[max(0, everything.index(secret) - 200):][:400]}…"
    assert SECRET not in c.up.log(100000), "in the log"


async def test_an_unknown_secret_fails_its_task_or_is_refused(c):
    document = {"version": 1, "name": c.name(), "tasks": {"a": {"run": "echo ${{ secrets.NOPE }}", "retry": 0}}}
    try:
        epic = Epic(c, (await c.api("epic.submit", document))["epic"])
    except Refused as refused:
        assert "NOPE" in refused.error["message"], refused
        return
    view = await epic.end("failed")
    assert "NOPE" in view["by_task"]["a"]["error"], view["by_task"]["a"]


async def test_unsafe_substitution_is_refused_with_its_place(c):
    for run in ["cat <<E\n${{ inputs.v }}\nE", "echo `echo ${{ inputs.v }}`", "echo $(echo ${{ inputs.v }})"]:
        document = {"version": 1, "name": c.name(), "inputs": {"v": {"type": "string", "default": "x"}}, "tasks": {"a": {"run": run}}}
        refused = await c.refused("epic.submit", document, "run.unsafe_substitution", 400)
        assert refused.problems[0]["line"] >= 1 and refused.problems[0]["hint"], refused
    # Outputs only from ancestors.
    await c.refused("epic.submit", {"version": 1, "name": c.name(), "tasks": {"a": {"run": "true"}, "b": {"run": "echo ${{ tasks.a.outputs.x }}"}}}, "epic.type", 400)


async def test_tools(c):
    work = c.new_folder("ws")
    with web_server() as (server, url):
        _, view = await tools_epic(c, work, url)
        same(server.asked.count("/503"), 2, "one try and one retry")
    failed = {task["task"]: task["error"] for task in view["tasks"] if task["state"] == "failed"}
    same(failed.keys(), {"f", "out_of", "absolute", "down", "nobody"})
    same(failed["f"], "as told")
    assert "503" in failed["down"], failed
    same(open(f"{work}/a/b.txt", encoding="utf-8").read(), "line of $(touch x)\n")
    same(sorted(os.listdir(work)), ["a"])
    same([name for name in os.listdir(os.path.dirname(work)) if name.startswith("escape")], [])
    same({task["kind"] for task in view["tasks"]}, {"tool"})
    same(str(view["by_task"]["ok"]["outputs"]["status"]), "200")
    for bad in [{"tool": "sleep", "with": {"ms": "long"}}, {"tool": "sleep", "with": {"seconds": 1}}, {"tool": "http.check", "with": {}}, {"tool": "file.write", "with": {"path": "x"}}, {"tool": "noop", "with": [1]}]:
        judged = await c.api("epic.validate", {"version": 1, "name": "x", "tasks": {"a": bad}})
        try:
            await Epic(c, (await c.api("epic.submit", {"version": 1, "name": c.name(), "tasks": {"a": bad}}))["epic"]).end("failed")
        except Refused as refused:
            same(judged["ok"], False, bad)
            assert refused.problems, refused


async def tools_epic(c, work, url):
    document = {
        "version": 1, "name": c.name("tools"), "workspace": {"path": work}, "inputs": {"who": {"type": "string", "default": "of $(touch x)"}},
        "tasks": {
            "n": {"tool": "noop"}, "s": {"tool": "sleep", "with": {"ms": 50}}, "f": {"tool": "fail", "with": {"message": "as told"}, "optional": True},
            "w": {"tool": "file.write", "with": {"path": "a/b.txt", "text": "line ${{ inputs.who }}\n"}},
            "out_of": {"tool": "file.write", "with": {"path": "../escape.txt", "text": "x"}, "optional": True},
            "absolute": {"tool": "file.write", "with": {"path": f"{work}/../escape2", "text": "x"}, "optional": True},
            "ok": {"tool": "http.check", "with": {"url": f"{url}/200"}}, "teapot": {"tool": "http.check", "with": {"url": f"{url}/418", "status": 418}},
            "down": {"tool": "http.check", "with": {"url": f"{url}/503", "retries": 1, "timeout": "5s"}, "optional": True},
            "nobody": {"tool": "http.check", "with": {"url": "http://127.0.0.1:9/", "timeout": "2s"}, "optional": True},
        },
    }
    epic = Epic(c, (await c.api("epic.submit", document))["epic"])
    return epic, await epic.end("succeeded")


async def test_progress_of_a_task_is_seen_while_it_runs(c):
    folder = c.new_folder()
    epic = await c.submit({"a": {"run": f"{BIN} progress 40 -m 'nearly half'; while [ ! -e {folder}/go ]; do sleep 0.05; done; amphi progress 90"}})
    event = await epic.event("task.progress", "a")
    same((event["data"]["percent"], event["data"]["message"]), (40, "nearly half"))
    same((await epic.task("a")).get("percent"), 40)
    open(f"{folder}/go", "w").close()
    await epic.end("succeeded")


async def test_work_goes_where_the_role_and_the_skills_are(c):
    epic, view = await c.run({"r": {"agent": "DatabaseArchitect", "run": "true"}, "s": {"skills": ["grafana", "prometheus"], "run": "true"}}, "succeeded")
    roles = {task["task"]: (await c.api("agent.get", {"agent": task["agent"]}))["role"] for task in view["tasks"]}
    same(roles, {"r": "DatabaseArchitect", "s": "MonitoringSentinel"})
    refused = await c.refused("epic.submit", {"version": 1, "name": "x", "tasks": {"x": {"skills": ["alchemy"], "run": "true"}}}, "role.unknown", 400)
    assert "alchemy" in refused.error["message"], refused


if __name__ == "__main__":
    main(__name__, env={"THE_TOKEN": SECRET, "LEAKED_FROM_THE_NODE": "leaked"}, prepare=prepare)
