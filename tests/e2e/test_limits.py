"""`limits` of amphi.yaml: each takes effect, raised and lowered, from the file and from the environment. Through the real program."""

import asyncio

from harness import *


async def in_its_own(c, work, limits=None, env=None, holds=True):
    """Gives `work` a cluster of its own with these limits, and ends that."""
    folder, arguments = c.new_folder("own"), ["--capacity", "4"]
    if limits:
        with open(f"{folder}/amphi.yaml", "w", encoding="utf-8") as file:
            file.write("version: 1\nlimits:\n" + "".join(f"  {name}: {value}\n" for name, value in limits.items()))
        arguments += ["--config", f"{folder}/amphi.yaml"]
    cluster = Cluster(folder, arguments, env)
    try:
        await cluster.start()
        await work(cluster)
        if holds:
            await cluster.everything_holds()
    except Exception as error:
        raise AssertionError(f"{error}\n--- log of its own cluster\n{cluster.up.log(20)}") from error
    finally:
        await cluster.stop()


def document(tasks, **top):
    return {"version": 1, "name": "t", "tasks": tasks, **top}


NOOP = {"t": {"tool": "noop"}}
WIDE = lambda n: {"t": {"tool": "noop", "matrix": {"n": f"1..{n}"}}}


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return document(NOOP, **{"x-deep": value})


def gives(size):
    return {"t": {"run": f'printf "v=%0{size}d\\n" 7 >> "$AMPHI_OUTPUT"'}}


def long_input(size):
    return document({"t": {"run": "true '${{ inputs.v }}'"}}, inputs={"v": "y" * size})


async def taken(c, body):
    await Epic(c, (await c.api("epic.submit", body))["epic"]).end("succeeded")


async def lowered(c):
    limit = lambda body: c.refused("epic.submit", body, "epic.limit", 413)
    await limit(document(NOOP, title="x", **{"x-long": "y" * 3000}))
    await limit(deep(20))
    await limit(document(WIDE(6)))
    await limit(long_input(200))
    epic, _ = await c.run(gives(200), "failed")
    same(epic.of("task.failed")[0]["data"]["cause"], "output")
    for body in (document(NOOP), deep(5), document(WIDE(5)), long_input(90)):
        await taken(c, body)
    await c.run(gives(90), "succeeded")


LOW = {"document": 2048, "depth": 12, "runs": 5, "output_value": 100, "substituted_value": 100}


async def test_lower_limits_take_effect(c):
    await in_its_own(c, lowered, LOW)


async def test_limits_from_the_environment_take_effect(c):
    await in_its_own(c, lowered, {"runs": 7}, {f"AMPHI_LIMITS_{name.upper()}": str(value) for name, value in LOW.items()})


async def test_higher_limits_take_effect(c):
    async def work(own):
        await taken(own, document(NOOP, **{"x-long": "y" * 5_000_000}))
        await taken(own, deep(90))
        plan = await own.api("epic.plan", {"document": document(WIDE(100_001))})
        same(plan["runs"], 100_001)
        await taken(own, long_input(80_000))
        await own.run(gives(80_000), "succeeded")

    await in_its_own(c, work, {"document": 6_000_000, "depth": 120, "runs": 100_001, "output_value": 100_000, "substituted_value": 100_000})


async def test_outputs_that_no_record_can_hold_fail_their_task_only(c):
    fill = "for n in 1 2 3 4 5; do printf \"v$n=%060000d\\n\" 7 >> $AMPHI_OUTPUT; done"
    epic, _ = await c.run({"t": {"run": fill}}, "failed")
    assert "together" in epic.of("task.failed")[0]["data"]["error"], epic.of("task.failed")
    await c.run(NOOP, "succeeded")


async def test_history_is_kept_as_long_as_the_file_says(c):
    async def work(own):
        first, _ = await own.run(NOOP, "succeeded")

        async def is_over():
            for _ in range(10):
                await own.run(NOOP, "succeeded")
            try:
                await own.api("epic.get", {"epic": first.id})
            except Refused as refused:
                return refused.code == "epic.not_found" or None

        await within(is_over, "the history of the first epic is over")

    upkeep = {"AMPHI_UPKEEP": "decisions=60,segment_bytes=10000,ended_epics=0"}
    await in_its_own(c, work, {"history": "1s"}, upkeep, holds=False)


async def test_too_many_open_epics_are_turned_away_for_now(c):
    async def work(own):
        folder = own.new_folder("full")
        tasks = {"t": {"run": f"while [ ! -e {folder}/go ]; do sleep 0.1; done"}}
        body = {"document": document(tasks), "id": "first"}
        first = Epic(own, (await own.api("epic.submit", body))["epic"])
        second = await own.submit(tasks)
        refused = await own.refused("epic.submit", document(NOOP), "cluster.busy", 429)
        assert refused.error["retryable"] and "2 open epics" in refused.error["message"] and refused.error["hint"], refused.error
        again = await own.api("epic.submit", body)
        same((again["epic"], again["duplicate"]), (first.id, True))
        await own.run(NOOP, "succeeded", project="other")
        with open(f"{folder}/t.epic.yaml", "w", encoding="utf-8") as file:
            file.write("version: 1\nname: t\ntasks: { t: { tool: noop } }\n")
        # The command line sends it again until there is room.
        waits = asyncio.create_task(own.amphi("run", f"{folder}/t.epic.yaml", "--detach", "--json"))
        await own.api("epic.cancel", {"epic": first.id})
        await first.end("cancelled")
        await Epic(own, (await waits).exits(0).json["epic"]).end("succeeded")
        await own.run(NOOP, "succeeded")
        open(f"{folder}/go", "w").close()
        await second.end("succeeded")

    await in_its_own(c, work, {"open_epics": 2})


async def test_too_many_waiting_runs_are_turned_away_for_now(c):
    async def work(own):
        folder = own.new_folder("waiting")
        wait = {"run": f"while [ ! -e {folder}/go ]; do sleep 0.1; done"}
        epic = await own.submit({"t": wait, "u": {"tool": "noop", "needs": ["t"], "matrix": {"n": "1..6"}}})
        await epic.event("task.started", "t")
        refused = await own.refused("epic.submit", document(WIDE(5)), "cluster.busy", 429)
        assert "6 runs wait" in refused.error["message"], refused.error
        await own.refused("epic.submit", document(WIDE(11)), "epic.limit", 413)
        await own.run(WIDE(4), "succeeded")
        open(f"{folder}/go", "w").close()
        await epic.end("succeeded")
        await own.run(WIDE(5), "succeeded")

    await in_its_own(c, work, {"waiting_runs": 10})


if __name__ == "__main__":
    main(__name__)
