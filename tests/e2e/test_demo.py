"""`amphi demo` from outside: what it says about itself, what it leaves (nothing), and that it notices when something is wrong."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile

from harness import *
from harness import main

# A demo is two releases of a real application; the machine may be busy with others.
DEADLINE = 170


async def demo(*arguments, **env):
    """Runs it in a temporary folder of its own; gives the result and its one object."""
    with tempfile.TemporaryDirectory(prefix="amphi-e2e-demo-") as folder:
        result = await command("demo", "--json", *arguments, env=plain_environment(TMPDIR=folder, **env), deadline=DEADLINE)
        lines = result.out.splitlines()
        assert len(lines) == 1, f"one object was expected: {short(result.out, 3000)} {short(result.err, 3000)}"
        told = json.loads(lines[0])
        assert "error" not in told, short(told)
        left = [entry for entry in os.listdir(folder) if entry.startswith("amphi-demo-")]
        same(left, [] if told["folder"] is None else [os.path.basename(told["folder"])], "folders that are left")
        nothing_runs(told["pids"], told.get("folder") or folder)
        return result, told


def nothing_runs(pids, folder):
    """None of these, and nothing that names the folder."""
    named = [pid for pid in os.listdir("/proc") if pid.isdigit() and folder in command_line(int(pid))]
    running = [pid for pid in pids if is_amphis(pid)]
    assert len(pids) >= 6, f"a cluster and a shop are more processes than {pids}"
    same(named + running, [], "processes that are left")


def is_amphis(pid):
    line = command_line(pid)
    return any(word in line for word in ("amphi", "nats-server", "host.py", "shop-"))


def failed(told):
    return [check for check in told["checks"] if not check["ok"]]


async def test_a_release_in_peace_holds_everything():
    result, told = await demo()
    same((result.code, failed(told), told["ok"], told["state"]), (0, [], True, "succeeded"), "the demo")
    orders = told["orders"]
    assert orders["accepted"] > 80 and set(orders["by_release"]) == {"1.0.0", "2.0.0"}, short(orders)
    assert len(told["checks"]) >= 18, "a demo that checks less says less"


async def test_chaos_hits_the_seat_and_the_holder_of_a_lock():
    result, told = await demo("--chaos")
    same((result.code, failed(told), told["state"]), (0, [], "succeeded"), "the demo")
    kills = {kill["victim"]: kill for kill in told["kills"]}
    same(set(kills), {"seat", "lock_holder"}, "who was killed")
    assert kills["seat"]["node"] in {"node-1", "node-2", "node-3"}, short(kills)
    hit = [attempt for attempt in kills["lock_holder"]["attempts"] if ["write", "database_schema"] in attempt["locks"]]
    assert hit and hit[0]["task"] == "apply_migration" and hit[0]["pid"], short(told["kills"])
    after = hit[0]["next"]
    same((after["cause"], after["attempt"], after["end"]), ("agent_lost", hit[0]["attempt"] + 1, "succeeded"), "the next attempt")
    assert after["agent"] != hit[0]["agent"], short(hit)


async def broken(where, task, undone):
    result, told = await demo(AMPHI_DEMO_BREAK=where)
    same((result.code, told["ok"], told["break"], told["state"]), (1, False, where, "failed"), "the demo")
    same(failed(told), [], "checks that do not hold")
    same((told["failed"], told["undone"]), (task, undone), "what failed, and what was undone")
    said = " ".join(check["check"] for check in told["checks"])
    assert "the API serves 1.0.0 on schema 1" in said and "every order that was accepted is there" in said, said
    same(set(told["orders"]["by_release"]) <= {"1.0.0", "2.0.0"} and told["orders"]["accepted"] > 80, True, "orders")


async def test_broken_at_the_build_nothing_was_done():
    await broken("build", "compile_api", [])


async def test_broken_in_the_migration_the_schema_is_restored():
    await broken("migration", "apply_migration", ["create_snapshot"])


async def test_broken_by_an_unhealthy_api_it_never_served():
    await broken("health", "deploy_api", ["apply_migration", "create_snapshot"])


async def test_broken_at_the_smoke_test_everything_goes_back():
    await broken("smoke", "run_smoke_tests", ["deploy_web", "deploy_api", "apply_migration", "create_snapshot"])


async def test_a_break_that_does_not_exist_is_refused_at_once():
    for arguments, env in [((), {"AMPHI_DEMO_BREAK": "everything"}), (("--chaos",), {"AMPHI_DEMO_BREAK": "smoke"})]:
        result = await command("demo", *arguments, env=plain_environment(**env))
        same(result.code, 2, result.err)
        assert "AMPHI_DEMO_BREAK" in result.err and "help:" in result.err, result.err


async def test_without_python_it_says_so_and_starts_nothing():
    with tempfile.TemporaryDirectory() as folder:
        result = await command("demo", env=plain_environment(TMPDIR=folder, PATH="/nowhere"))
        same((result.code, os.listdir(folder)), (2, []), "exit code and what is left")
        assert "python3" in result.err and "help:" in result.err, result.err


async def interrupted(end):
    """Starts a demo, sends `end` once the cluster and the shop are there; gives its exit code and the pids that it had."""
    with tempfile.TemporaryDirectory(prefix="amphi-e2e-demo-") as folder:
        with open(os.path.join(folder, "out"), "wb") as out:
            process = subprocess.Popen([BIN, "demo"], env=plain_environment(TMPDIR=folder), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            def ready():
                found = list(pathlib.Path(folder).glob("amphi-demo-*/shop/var/host.json"))
                return found[0] if found else None

            host = json.loads((await within(ready, "the shop's host is there", 60)).read_text())
            cluster = json.loads(next(pathlib.Path(folder).glob("amphi-demo-*/cluster/ready.json")).read_text())
            pids = [host["pid"], cluster["nats_pid"], *(node["pid"] for node in cluster["nodes"])]
            process.send_signal(end)
            code = await within(lambda: (process.poll(),) if process.poll() is not None else None, "the demo ends", 60)
            await within(lambda: not any(is_amphis(pid) for pid in pids), "all of its processes end", 30)
            named = [pid for pid in os.listdir("/proc") if pid.isdigit() and f"{folder}/" in command_line(int(pid))]
            same(named, [], "processes that name its folder")
            return code[0], [name for name in os.listdir(folder) if name != "out"]
        finally:
            process.kill()
            process.wait()


async def test_ctrl_c_ends_everything():
    same(await interrupted(signal.SIGINT), (130, []), "exit code and what is left")


async def test_nothing_outlives_a_killed_demo():
    code, _ = await interrupted(signal.SIGKILL)
    same(code, -9, "exit code")


if __name__ == "__main__":
    main(__name__, shared=False)
