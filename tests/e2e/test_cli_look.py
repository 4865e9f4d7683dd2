"""The commands that look: `top`, `logs`, lists with filters, NATS contexts, reports from files; on a terminal, in a pipe, and used wrongly."""

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import termios
import urllib.parse

from harness import *

LONG = {"version": 1, "name": "long", "tasks": {
    "hold": {"run": "echo held; sleep 600", "locks": {"write": ["env/production"]}},
    "wait": {"run": "true", "locks": {"read": ["env/production"]}},
    "many": {"matrix": {"i": "1..3"}, "run": "echo one; echo two >&2; printf three"},
}}


async def long_epic(c):
    epic = await c.submit(LONG["tasks"], name=c.name("long"))
    await epic.event("task.started", "hold")
    await epic.event("task.waiting", "wait", reason="lock")
    for i in "123":
        await epic.event("task.succeeded", f"many[{i}]")
    return epic


async def at_terminal(c, *arguments, rows=24, columns=100, until=b"", keys=b"\x03", env=None):
    """Runs a command at a terminal until it shows `until`, then presses `keys`; gives its exit code and all that it wrote."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = plain_environment(AMPHI_NATS_URL=c.up.url, TERM="xterm", **(env or {}))
    process = await asyncio.create_subprocess_exec(
        BIN, *arguments, env=environment, stdin=other, stdout=other, stderr=other, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(other)
    os.set_blocking(main, False)
    shown = bytearray()

    def read():
        try:
            while data := os.read(main, 65536):
                shown.extend(data)
        except BlockingIOError:
            return
        except OSError:
            return

    async def seen():
        read()
        return until in shown or process.returncode is not None or None

    try:
        await within(seen, f"the terminal shows {until}")
        if keys and process.returncode is None:
            os.write(main, keys)

        async def over():
            read()
            return process.returncode is not None or None

        await within(over, f"amphi {' '.join(arguments)} ends")
        read()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(main)
    return process.returncode, bytes(shown).decode(errors="replace")


async def test_top_shows_what_is_at_work_and_what_waits(c):
    epic = await long_epic(c)
    seen = (await c.amphi("top", "--json")).exits(0).json
    assert seen.keys() >= {"at", "nodes", "epics", "agents", "queue", "locks", "incidents"}, seen.keys()
    assert any(agent["task"] == "hold" and agent["epic"] == epic.id for agent in seen["agents"]), short(seen["agents"])
    assert any(task["task"] == "wait" and task["reason"] == "lock" for task in seen["queue"]), short(seen["queue"])
    assert epic.id in [found["epic"] for found in seen["epics"]]
    text = (await c.amphi("top")).exits(0).out
    assert "env/production" in text and f"{epic.id}/hold" in text and "\x1b" not in text, text
    # At a terminal it is drawn again and again, fits, and leaves the terminal as it was.
    code, shown = await at_terminal(c, "top", rows=6, columns=30, until=b"more lines")
    same(code, 130)
    assert shown.startswith("\x1b[?1049h") and shown.rstrip().endswith("\x1b[?1049l"), repr(shown[-200:])
    pictures = shown.split("\x1b[H")[1:]
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", picture).replace("\r", "") for picture in pictures]
    assert all(len(picture.split("\n")) <= 6 for picture in plain[:-1]), plain
    assert all(len(line) <= 30 for picture in plain[:-1] for line in picture.split("\n")), plain
    (await c.amphi("top", "--every", "1ms")).exits(2)
    await c.api("epic.cancel", {"epic": epic.id})
    await epic.end("cancelled")


async def test_logs_are_lines_of_all_tasks_each_after_its_task(c):
    epic = await long_epic(c)
    await epic.log_has("many[3]", "three")
    await epic.log_has("hold", "held")
    lines = (await c.amphi("logs", epic.id)).exits(0).out.splitlines()
    same(sorted(line for line in lines if line.startswith("many[2]")), ["many[2]  one", "many[2]  three", "many[2]  two"])
    assert "hold  held" in lines, lines
    only = (await c.amphi("logs", epic.id, "--task", "many", "--json")).exits(0).lines
    same({chunk["task"] for chunk in only}, {"many[1]", "many[2]", "many[3]"})
    assert all(chunk.keys() == {"epic", "task", "run", "attempt", "source", "text"} for chunk in only), only
    assert f"{epic.id}/hold  held" in (await c.amphi("logs")).exits(0).out
    (await c.amphi("logs", "no-such-epic", "--json")).exits(3)
    (await c.amphi("logs", "a b")).exits(2)
    following = asyncio.create_task(c.amphi("logs", "-f", epic.id))
    await c.api("epic.cancel", {"epic": epic.id})
    assert "hold  held" in (await following).exits(0).out, "it follows to the end of the epic"


async def test_lists_pick_what_is_asked_for(c):
    epic = await long_epic(c)
    done, _ = await c.run({"a": {"run": "true"}}, "succeeded", project="other-project")
    ids = lambda result: [found["epic"] for found in result.exits(0).json["epics"]]
    running = ids(await c.amphi("epic", "ls", "--state", "running", "--json"))
    assert epic.id in running and done.id not in running, running
    same(ids(await c.amphi("epic", "ls", "--project", "other-project", "--json")), [done.id])
    same(ids(await c.amphi("epic", "ls", "--name", epic.id[:-3], "--json")), [epic.id])
    same(ids(await c.amphi("epic", "ls", "--name", "nobody-has-this", "--json")), [])
    (await c.amphi("epic", "ls", "--state", "happy")).exits(2)
    (await c.amphi("task", "ls", epic.id, "--state", "happy")).exits(2)
    held = (await c.amphi("lock", "show", "env/production", "--json")).exits(0).json
    same((held["resource"], held["locks"][0]["mode"]), ("env/production", "write"))
    same((await c.amphi("lock", "show", "nobody/has/this", "--json")).exits(0).json, {"resource": "nobody/has/this", "locks": []})
    assert "is free" in (await c.amphi("lock", "show", "nobody/has/this")).exits(0).out
    await c.api("epic.cancel", {"epic": epic.id})
    await epic.end("cancelled")


async def test_nats_contexts_reach_the_cluster(c):
    home = c.new_folder("config")
    folder = os.path.join(home, "nats", "context")
    os.makedirs(folder)
    url = urllib.parse.urlsplit(c.up.url)

    def context(name, **fields):
        with open(os.path.join(folder, f"{name}.json"), "w", encoding="utf-8") as file:
            json.dump({"description": "", "url": f"nats://{url.hostname}:{url.port}", **fields}, file)

    context("good", user=url.username, password=url.password)
    context("wrong", user=url.username, password="secret-but-wrong")
    context("whole", url=c.up.url)
    env = plain_environment(XDG_CONFIG_HOME=home)
    for name in ("good", "whole"):
        same(len((await command("node", "ls", "--context", name, "--json", env=env)).exits(0).json["nodes"]), 1)
    refused = (await command("node", "ls", "--context", "wrong", "--json", env=env)).exits(6)
    assert "secret" not in refused.out + refused.err, refused.out
    unknown = (await command("node", "ls", "--context", "goood", "--json", env=env)).exits(2).json["error"]
    assert "good, whole, wrong" in unknown["hint"], unknown
    (await command("node", "ls", "--context", "good", "--nats", "nats://127.0.0.1:1", env=env)).exits(2)
    (await command("node", "ls", "--context", "../good", env=env)).exits(2)


async def test_run_at_a_terminal_has_a_bar_and_ctrl_c_detaches(c):
    path = c.file(LONG)
    code, shown = await at_terminal(c, "run", path, until=b"1 running: hold", columns=120)
    same(code, 130)
    assert "█" in shown and "3/5" in shown and "waiting: 1 lock" in shown, shown
    epic = Epic(c, re.search(r"long-[a-z0-9]+", shown)[0])
    assert f"{epic.id} runs on" in shown, shown
    same((await epic.get())["state"], "running")
    # Nowhere else is a bar, and nowhere a colour where none is wanted.
    _, plain = await at_terminal(c, "epic", "watch", epic.id, until=b"hold", columns=120, env={"NO_COLOR": "1"})
    assert "\x1b[3" not in plain, repr(plain)
    watching = asyncio.create_task(c.amphi("epic", "watch", epic.id))
    await c.api("epic.cancel", {"epic": epic.id})
    out = (await watching).exits(1)
    assert "█" not in out.out + out.err and "\x1b" not in out.out + out.err


async def test_a_reader_that_goes_away_ends_a_command_quietly(c):
    _, view = await c.run({"a": {"matrix": {"i": "1..60"}, "run": "echo x"}}, "succeeded")
    id = view["epic"]
    for arguments in (["epic", "show", id], ["epic", "events", id, "--json"], ["task", "ls", id], ["agent", "ls"], ["tree", "--all"], ["logs"], ["events"], ["top"]):
        process = await asyncio.create_subprocess_exec(
            "/bin/bash", "-c", f"set -o pipefail; {{ \"$0\" {' '.join(arguments)} 2>&3 | head -n 1 >/dev/null; }} 3>&1", BIN,
            env=plain_environment(AMPHI_NATS_URL=c.up.url), stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
        assert "panicked" not in out.decode() and out.decode().strip() == "", (arguments, out)


async def test_a_report_is_the_same_from_the_events_alone(c):
    folder = c.new_folder()
    tasks = {
        "make": {"phase": "build", "matrix": {"i": "1..4"}, "max_parallel": 2, "run": "sleep 0.1"},
        "flaky": {"phase": "build", "retry": {"attempts": 3, "on": ["exit"], "backoff": "10ms"}, "run": f"echo x >> {folder}/n; [ $(wc -l < {folder}/n) = 3 ]"},
        "one": {"phase": "ship", "locks": {"write": ["db/x"]}, "run": "sleep 0.1"},
        "two": {"phase": "ship", "locks": {"write": ["db/x"]}, "run": "sleep 0.1"},
        "never": {"phase": "ship", "if": "failure()", "run": "true"},
    }
    epic, _ = await c.run(tasks, "succeeded", phases=["build", "ship"])
    events = c.new_folder() + "/events"
    with open(events, "w", encoding="utf-8") as file:
        file.write((await c.amphi("epic", "events", epic.id, "--json")).exits(0).out)
    report = (await c.amphi("epic", "report", epic.id, "--json")).exits(0).json
    same((await command("epic", "report", "--events", events, "--json")).exits(0).json, report)
    same((await c.api("epic.report", {"epic": epic.id}))["makespan_ms"], report["makespan_ms"])
    same((report["retries"], report["retry_causes"], report["tasks"]), (2, {"exit": 2}, {"succeeded": 7, "skipped": 1}))
    spent = [json.loads(line) for line in open(events, encoding="utf-8")]
    same(report["makespan_ms"], milliseconds(spent[-1]["ts"]) - milliseconds(spent[0]["ts"]))
    path = [step["task"] for step in report["critical_path"]]
    assert path[-1] in ("one", "two") and path[-2] in ("one", "two"), "the lock made one wait for the other"
    same(report["critical_path"][-1]["waited_for"], "lock")
    overhead = report["coordination"]
    assert 0 <= overhead["overhead"] <= 1 and overhead["goal"] == 0.05 and overhead["met"] == (overhead["overhead"] < 0.05), overhead
    text = (await c.amphi("epic", "report", epic.id)).exits(0).out
    assert "S4.44" in text, text


async def test_a_role_uses_only_its_tools(c):
    denied = await c.refused("epic.submit", {"document": {"version": 1, "name": "x", "tasks": {"a": {"tool": "prom.assert", "agent": "BuildMaster"}}}}, "policy.denied", 403)
    same(denied.problems[0]["code"], "policy.denied")
    assert "MonitoringSentinel" in denied.problems[0]["hint"], denied.problems
    path = c.file({"version": 1, "name": "x", "tasks": {"a": {"tool": "git.tag", "with": {"path": ".", "name": "v1"}, "agent": "BackupKeeper"}}})
    (await c.amphi("run", path, "--json")).exits(4)
    # With neither agent nor skills it goes to somebody who may.
    source = c.new_folder("source")
    with open(os.path.join(source, "file"), "w", encoding="utf-8") as file:
        file.write("x")
    task = {"tool": "backup.snapshot", "with": {"path": "file", "to": "copy"}}
    epic, view = await c.run({"a": task}, workspace={"path": source})
    assert any(role in view["by_task"]["a"]["agent"] for role in ("BackupKeeper", "DatabaseArchitect")), view["by_task"]["a"]
    agents = (await c.amphi("agent", "ls", "--json")).exits(0).json["agents"]
    assert not any(skill.startswith("tool:") for agent in agents for skill in agent["skills"]), "tools are no skills to people"


if __name__ == "__main__":
    main(__name__)
