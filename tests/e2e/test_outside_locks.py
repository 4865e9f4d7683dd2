"""Locks that scripts and people take from outside of all epics: the same queues and tokens as tasks, for a time that must be renewed."""

import uuid

from harness import *


def resource(word):
    return f"outside/{word}-{uuid.uuid4().hex[:8]}"


async def acquire(c, name, owner="ann", **more):
    return await c.api("lock.acquire", {"resource": name, "mode": "write", "owner": owner, "ttl_ms": 60_000, **more})


def writes(name, run="true"):
    return {"t": {"run": run, "locks": {"write": [name]}}}


async def shown(c, name):
    """One lock as `lock.list` shows it; without holders and queue if nobody wants it."""
    free = {"holders": [], "queue": []}
    return next((lock for lock in (await c.api("lock.list"))["locks"] if lock["resource"] == name), free)


async def conflict(c, verb, body):
    refused = await c.refused(verb, body, "state.conflict", 409)
    assert refused.error["hint"], "a refusal says what to try"
    return refused


async def test_a_task_waits_for_an_owner_outside_and_the_next_owner_for_the_task(c):
    """One queue, one order: owner, task, owner; `why` and `lock show` name who has it; tokens grow over all of them."""
    name = resource("turns")
    held = await acquire(c, name)
    assert 0 < held["lease_left_ms"] <= 60_000, held
    epic = await c.submit(writes(name, 'echo "token $AMPHI_FENCING_TOKEN"'))
    await epic.event("task.waiting", "t", reason="lock")
    waits = (await c.api("task.why", {"epic": epic.id, "task": "t"}))["waits"]
    same([wait["holder"]["owner"] for wait in waits], ["ann"])
    same((waits[0]["holder"]["epic"], waits[0]["holder"]["token"], waits[0]["place"]), (None, held["token"], 1))
    assert "held by ann" in (await c.amphi("why", f"{epic.id}/t")).exits(0).out
    late = asyncio.ensure_future(acquire(c, name, "bob", wait_ms=30_000))

    async def both():
        lock = await shown(c, name)
        return [(waiter["task"], waiter.get("owner")) for waiter in lock["queue"]] == [("t", None), (None, "bob")] or None

    await within(both, "the task and then bob wait")
    text = (await c.amphi("lock", "show", name)).exits(0).out
    assert "ann (outside)" in text and "bob (outside)" in text, text
    same((await c.api("lock.release", {"resource": name, "token": held["token"]}))["released"], True)
    await epic.end("succeeded")
    second = await late
    between = (await epic.event("lock.granted", "t"))["data"]["token"]
    assert held["token"] < between < second["token"], (held, between, second)
    await c.api("lock.release", {"resource": name, "owner": "bob"})

    def told():
        seen = [event["type"] for _, _, event in c.feed.messages if event["data"].get("owner") and event["data"]["resource"] == name]
        return seen if len(seen) >= 4 else None

    same(await c.feed.until(told, lambda: "four events of owners"), ["lock.granted", "lock.released", "lock.granted", "lock.released"])
    subjects = {subject for subject, _, event in c.feed.messages if event["data"].get("owner") == "ann"}
    same(subjects <= {"amphi.evt._._.lock-granted", "amphi.evt._._.lock-released", "amphi.evt._._.lock-expired"}, True, subjects)
    verdict = await c.api("epic.verify", {"epic": epic.id})
    assert verdict["ok"], verdict


async def test_an_owner_that_dies_loses_its_lock_and_its_token_counts_no_more(c):
    name = resource("ttl")
    held = await acquire(c, name, ttl_ms=1_500)
    epic = await c.submit(writes(name))
    await epic.end("succeeded")
    expired = [event for _, _, event in c.feed.messages if event["type"] == "lock.expired" and event["data"]["resource"] == name]
    same([(event["data"]["owner"], event["data"]["token"]) for event in expired], [("ann", held["token"])])
    for verb in ("lock.renew", "lock.release"):
        refused = await conflict(c, verb, {"resource": name, "token": held["token"]})
        same(refused.error["retryable"], False)
    again = await acquire(c, name)
    assert again["token"] > held["token"], (held, again)
    for verb in ("lock.renew", "lock.release"):
        await conflict(c, verb, {"resource": name, "token": held["token"]})
        await conflict(c, verb, {"resource": name, "token": held["token"], "owner": "ann"})
    await c.api("lock.release", {"resource": name, "token": str(again["token"])})


async def test_who_renews_keeps_it_beyond_its_time(c):
    name = resource("renew")
    held = await acquire(c, name, ttl_ms=5_000)
    epic = await c.submit(writes(name))
    waiting = await epic.event("task.waiting", "t", reason="lock")
    until = time.monotonic() + 8
    while time.monotonic() < until:
        renewed = await c.api("lock.renew", {"resource": name, "token": held["token"]})
        same((renewed["token"], renewed["owner"], 0 < renewed["lease_left_ms"] <= 5_000), (held["token"], "ann", True), renewed)
    same(epic.of("task.assigned"), [])
    longer = await c.api("lock.renew", {"resource": name, "owner": "ann", "ttl_ms": 40_000})
    assert longer["lease_left_ms"] > 30_000, longer
    await c.api("lock.release", {"resource": name, "token": held["token"]})
    started = await epic.event("task.started", "t")
    assert milliseconds(started["ts"]) - milliseconds(waiting["ts"]) > 7_500, "longer than the first time"
    await epic.end("succeeded")


async def test_asking_again_is_the_same_lock_and_others_are_told_who_has_it(c):
    name = resource("again")
    held = await acquire(c, name)
    again = await acquire(c, name, ttl_ms=90_000)
    same(again["token"], held["token"])
    assert again["lease_left_ms"] > 60_000, again
    refused = await conflict(c, "lock.acquire", {"resource": name, "mode": "read", "owner": "bob", "ttl_ms": 5_000})
    assert "ann" in refused.error["message"] and refused.error["retryable"], refused.error
    other = await conflict(c, "lock.acquire", {"resource": name, "mode": "read", "owner": "ann", "ttl_ms": 5_000})
    assert "another mode" in other.error["message"], other.error
    before = time.monotonic()
    late = await conflict(c, "lock.acquire", {"resource": name, "owner": "bob", "ttl_ms": 5_000, "wait_ms": 700})
    assert 0.6 < time.monotonic() - before < 5 and late.error["retryable"], late.error

    async def nobody_waits():
        lock = await shown(c, name)
        return True if lock["queue"] == [] else None

    await within(nobody_waits, "whoever waits no longer has left the queue")
    await c.api("lock.release", {"resource": name, "owner": "ann"})


async def test_readers_share_and_globs_exclude(c):
    name = resource("shared")
    one, two = await acquire(c, name, "r1", mode="read"), await acquire(c, name, "r2", mode="read")
    assert one["token"] < two["token"]
    await conflict(c, "lock.acquire", {"resource": name, "mode": "write", "owner": "w", "ttl_ms": 5_000})
    for owner in ("r1", "r2"):
        await c.api("lock.release", {"resource": name, "owner": owner})
    folder = c.new_folder("globs")
    held = await acquire(c, "file/src/*.rs", "editor", folder=folder)
    epic = await c.submit({"t": {"run": "true", "locks": {"write": ["file/src/main.rs"]}}}, workspace={"path": folder})
    await epic.event("task.waiting", "t", reason="lock")
    elsewhere = await c.submit({"t": {"run": "true", "locks": {"write": ["file/src/main.rs"]}}}, workspace={"path": c.new_folder("globs")})
    await elsewhere.end("succeeded")
    await c.api("lock.release", {"resource": "file/src/*.rs", "folder": folder, "token": held["token"]})
    await epic.end("succeeded")


async def test_a_ring_of_owners_is_refused_with_its_names(c):
    first, second = resource("ring"), resource("ring")
    await acquire(c, first, "ring-ann")
    await acquire(c, second, "ring-bob")
    waits = asyncio.ensure_future(acquire(c, second, "ring-ann", wait_ms=20_000))

    async def ann_waits():
        lock = await shown(c, second)
        return True if [waiter["owner"] for waiter in lock["queue"]] == ["ring-ann"] else None

    await within(ann_waits, "ann waits for bob")
    refused = await conflict(c, "lock.acquire", {"resource": first, "owner": "ring-bob", "ttl_ms": 5_000, "wait_ms": 20_000})
    message = refused.error["message"]
    assert "never end" in message and "ring-ann" in message and second in message, message
    await c.api("lock.release", {"resource": second, "owner": "ring-bob"})
    assert (await waits)["token"]
    for name in (first, second):
        await c.api("lock.release", {"resource": name, "owner": "ring-ann"})


async def test_the_command_line_takes_waits_for_and_gives_back(c):
    name = resource("cli")
    token = int((await c.amphi("lock", "acquire", name, "--ttl", "1m", "--owner", "deploy script")).exits(0).out)
    taken = (await c.amphi("lock", "acquire", name, "--read", "--json")).exits(5).json
    same((taken["error"]["code"], taken["error"]["retryable"]), ("state.conflict", True))
    assert "deploy script" in taken["error"]["message"], taken
    (await c.amphi("lock", "acquire", name, "--wait", "600ms", "--json")).exits(5)
    late = asyncio.ensure_future(c.amphi("lock", "acquire", name, "--wait", "1m", "--owner", "second", "--json"))

    async def second_waits():
        lock = await shown(c, name)
        return True if [waiter["owner"] for waiter in lock["queue"]] == ["second"] else None

    await within(second_waits, "the second waits")
    renewed = (await c.amphi("lock", "renew", name, "--token", str(token), "--ttl", "2m", "--json")).exits(0).json
    same((renewed["token"], renewed["owner"]), (token, "deploy script"))
    (await c.amphi("lock", "release", name, "--token", str(token + 1))).exits(5)
    (await c.amphi("lock", "release", name, "--token", str(token))).exits(0)
    second = (await late).exits(0).json
    assert second["token"] > token, second
    (await c.amphi("lock", "release", name, "--token", str(token), "--json")).exits(5)
    (await c.amphi("lock", "release", name, "--owner", "second")).exits(0)
    (await c.amphi("lock", "release", name)).exits(2)
    (await c.amphi("lock", "acquire", name, "--ttl", "1ms")).exits(2)
    (await c.amphi("lock", "acquire", "file/../x")).exits(2)


async def test_bad_requests_are_refused_one_by_one(c):
    good = {"resource": resource("bad"), "mode": "write", "owner": "ann", "ttl_ms": 5_000}
    wrong = [{"mode": "both"}, {"owner": ""}, {"owner": "x" * 129}, {"owner": "a\nb"}, {"owner": None}, {"ttl_ms": 999}, {"ttl_ms": 86_400_001},
             {"ttl_ms": -1}, {"ttl_ms": "5s"}, {"resource": ""}, {"resource": "x" * 257}, {"resource": "src/*.rs"}, {"resource": "file/[a"},
             {"resource": "file/a/../b"}, {"folder": "/w"}, {"project": "No Project"}, {"wait_ms": 3_600_001}]
    for change in wrong:
        await c.refused("lock.acquire", {**good, **change}, "request.invalid", 400)
    for verb in ("lock.renew", "lock.release"):
        await c.refused(verb, {"resource": good["resource"]}, "request.invalid", 400)
        await c.refused(verb, {"resource": good["resource"], "token": "seven"}, "request.invalid", 400)
        await c.refused(verb, {"resource": good["resource"], "token": 7}, "state.conflict", 409)


async def test_a_lock_outlives_the_managers_node_and_its_time_goes_on(c):
    """kill -9 of the node that leads: still held by the same owner under the same token, renewed as before, lost when its time is over."""

    async def work(own):
        name, short = resource("kept"), resource("kept")
        held = await acquire(own, name, ttl_ms=60_000)
        await acquire(own, short, "bob", ttl_ms=4_000)
        epic = await own.submit({**writes(name), "s": {"run": "true", "locks": {"write": [short]}}})
        await epic.event("task.waiting", "t", reason="lock")
        await epic.event("task.waiting", "s", reason="lock")
        leader = next(node for node in (await own.api("node.list"))["nodes"] if node["leads"])
        os.kill(leader["pid"], signal.SIGKILL)

        async def leads_again():
            try:
                nodes = (await own.api("node.list", deadline=2))["nodes"]
            except (AssertionError, Refused, nats.errors.Error):
                return None
            return any(node["leads"] and node["pid"] != leader["pid"] for node in nodes) or None

        await within(leads_again, "somebody leads again", 30)
        locks = {lock["resource"]: lock["holders"] for lock in (await own.api("lock.list"))["locks"]}
        same([(holder["owner"], holder["token"]) for holder in locks[name]], [("ann", held["token"])])
        assert 0 < locks[name][0]["lease_left_ms"] < 60_000, locks
        same((await own.api("lock.renew", {"resource": name, "token": held["token"]}))["token"], held["token"])
        await epic.event("task.succeeded", "s")
        same(epic.of("task.assigned", "t"), [])
        await own.api("lock.release", {"resource": name, "token": held["token"]})
        await epic.end("succeeded")
        assert (await own.api("epic.verify", {"epic": epic.id}))["ok"]

    await in_its_own(c, work)


if __name__ == "__main__":
    main(__name__)
