"""Backup of a running cluster and restore: into a new folder, over an old one, of a damaged copy, of an old copy."""

import json
import shutil

from harness import *

HELD = {"a": {"run": "true"}, "b": {"needs": ["a"], "run": "while [ ! -e %s ]; do sleep 0.1; done"}, "c": {"needs": ["b"], "run": "true"}}


def held(flag):
    return {**HELD, "b": {**HELD["b"], "run": HELD["b"]["run"] % flag}}


def manifest(folder):
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
        return json.load(file)


async def backup(own, name):
    folder = os.path.join(own.folder, name)
    made = (await own.amphi("backup", "--to", folder, "--data", own.up.data, "--json")).exits(0).json
    same({"cluster", "shards", "bytes", "made_at"} <= made.keys(), True, made)
    return folder


async def restore(own, folder, data, *more):
    return await own.amphi("restore", "--from", folder, "--data", data, "--json", *more)


def in_folder(own, data):
    """A cluster that is to run in another data folder."""
    cluster = Cluster(os.path.dirname(data), ["--capacity", "4"])
    same(cluster.up.data, data, "the harness keeps its data there")
    return cluster


async def test_a_restored_cluster_goes_on_where_the_backup_was_taken(c):
    async def work(own):
        flag = os.path.join(own.folder, "go")
        done, _ = await own.run({"t": {"run": "echo hello-from-before; echo k=v >> $AMPHI_OUTPUT", "outputs": {"k": "string"}}}, "succeeded")
        epic = await own.submit(held(flag))
        await epic.event("task.started", "b")
        kept = await own.api("lock.acquire", {"resource": "env/p", "owner": "ann", "ttl_ms": 86_400_000})
        before = await own.api("node.list")
        folder = await backup(own, "backup")
        own_manifest = manifest(folder)
        same([tail["index"] >= before["index"] for tail in own_manifest["shards"]], [True])
        lost = await own.submit({"t": {"run": "true"}})
        await lost.end("succeeded")
        same(await own.up.stop(), 0)
        # Somewhere else, where nobody remembers anything.
        other = tempfile.mkdtemp(prefix="restored-", dir=own.folder)
        data = os.path.join(other, "data")
        restored = (await restore(own, folder, data)).exits(0).json
        same((restored["shards"], restored["forgotten"]), (own_manifest["shards"], []))
        again = in_folder(own, data)
        await again.start()
        try:
            assert (await again.api("node.list"))["epoch"] > before["epoch"], "a later term"
            await again.refused("epic.get", {"epic": lost.id}, "epic.not_found", 404)
            same((await again.api("epic.get", {"epic": done.id}))["state"], "succeeded")
            lock = next(lock for lock in (await again.api("lock.list"))["locks"] if lock["resource"] == "env/p")
            same([(holder["owner"], holder["token"]) for holder in lock["holders"]], [("ann", kept["token"])])
            with open(flag, "w", encoding="utf-8"):
                pass
            follow = Epic(again, epic.id)
            view = await follow.end("succeeded", deadline=60)
            same((view["by_task"]["b"]["attempt"], view["by_task"]["a"]["attempt"]), (2, 1))
            assert view["by_task"]["c"]["token"] > kept["token"], "tokens only grow"
            assert "hello-from-before" in await Epic(again, done.id).log("t")
            for id in (done.id, epic.id):
                assert (await again.api("epic.verify", {"epic": id}))["ok"], id
        finally:
            same(await again.up.stop(), 0)
            await again.connection.close()
        await own.up.start()

    await in_its_own(c, work)


async def test_all_shards_are_there_again(c):
    """As many as there were, each with its own locks, and none takes another's projects."""

    async def work(own):
        config = os.path.join(own.folder, "shards.yaml")
        with open(config, "w", encoding="utf-8") as file:
            file.write("version: 1\ncluster: {shards: 3}\n")
        cluster = Cluster(tempfile.mkdtemp(prefix="shards-", dir=own.folder), ["--capacity", "4", "--config", config])
        await cluster.start()
        held = {}
        for project in ("default", "one", "two", "three", "four"):
            held[project] = (await cluster.api("lock.acquire", {"resource": "x", "project": project, "owner": project, "ttl_ms": 3_600_000}))["token"]
        folder = await backup(cluster, "backup")
        same([tail["shard"] for tail in manifest(folder)["shards"]], [0, 1, 2])
        same(await cluster.stop(), 0)
        data = os.path.join(tempfile.mkdtemp(prefix="restored-", dir=own.folder), "data")
        (await restore(own, folder, data)).exits(0)
        again = Cluster(os.path.dirname(data), ["--capacity", "4"])
        await again.start()
        try:
            locks = (await again.api("lock.list"))["locks"]
            same({lock["project"]: lock["holders"][0]["token"] for lock in locks}, held)
            for project, token in held.items():
                await again.api("lock.release", {"resource": "x", "project": project, "token": token})
            epic, _ = await again.run({"t": {"run": "true"}}, "succeeded", project="one")
            assert (await again.api("epic.verify", {"epic": epic.id}))["ok"]
        finally:
            same(await again.stop(), 0)

    await in_its_own(c, work)


async def test_a_damaged_backup_is_refused_and_nothing_is_touched(c):
    async def work(own):
        await own.run({"t": {"run": "true"}}, "succeeded")
        folder = await backup(own, "backup")
        (await own.amphi("backup", "--to", folder, "--data", own.up.data)).exits(5)
        (await restore(own, folder, own.up.data, "--force")).exits(5)
        parts = [part["file"] for part in manifest(folder)["parts"]]
        assert any(name.startswith("AMPHI_JOURNAL_0") for name in parts), parts
        for name in [*parts, "manifest.json"]:
            broken = os.path.join(own.folder, "broken")
            shutil.copytree(folder, broken)
            path = os.path.join(broken, name)
            with open(path, "r+b") as file:
                file.seek(os.path.getsize(path) // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 4]))
            data = os.path.join(own.folder, "untouched")
            refused = (await restore(own, broken, data)).exits(2).json
            same((refused["error"]["code"], os.path.exists(data)), ("backup.damaged", False), name)
            shutil.rmtree(broken)
        os.remove(os.path.join(folder, parts[0]))
        same((await restore(own, folder, data)).exits(2).json["error"]["code"], "backup.damaged")
        same((await restore(own, own.folder, data)).exits(2).json["error"]["code"], "backup.damaged")

    await in_its_own(c, work)


async def test_an_old_backup_is_recognised_and_taken_only_on_the_operators_word(c):
    async def work(own):
        await own.run({"t": {"run": "true"}}, "succeeded")
        folder = await backup(own, "old")
        late, _ = await own.run({"t": {"run": "true"}}, "succeeded")
        # What nodes remember of the last commits is written a moment later.
        async def remembered():
            with open(os.path.join(own.up.data, "node-1", "remembered-0.json"), encoding="utf-8") as file:
                return True if json.load(file)["index"] > manifest(folder)["shards"][0]["index"] else None

        await within(remembered, "the node remembers what came after the backup")
        same(await own.up.stop(), 0)
        await own.connection.close()
        (await restore(own, folder, own.up.data)).exits(5)
        refused = (await restore(own, folder, own.up.data, "--force")).exits(5).json
        assert "older" in refused["error"]["message"] and "--accept-older" in refused["error"]["hint"], refused
        # The refused restore changed nothing: the cluster runs with all that it had.
        await own.up.start()
        await own.connect()
        same((await own.api("epic.get", {"epic": late.id}))["state"], "succeeded")
        same(await own.up.stop(), 0)
        await own.connection.close()
        restored = (await restore(own, folder, own.up.data, "--force", "--accept-older")).exits(0).json
        forgotten = restored["forgotten"]
        same([(lost["node"], lost["shard"], lost["remembered"] > lost["restored"]) for lost in forgotten], [("node-1", 0, True)])
        assert os.path.isdir(restored["former_store"]), restored
        with open(os.path.join(own.up.data, "restores.ndjson"), encoding="utf-8") as file:
            same([json.loads(line)["forgotten"] for line in file], [forgotten])
        await own.up.start()
        await own.connect()
        await own.refused("epic.get", {"epic": late.id}, "epic.not_found", 404)
        epic, _ = await own.run({"t": {"run": "true"}}, "succeeded")
        assert (await own.api("epic.verify", {"epic": epic.id}))["ok"]

    await in_its_own(c, work)


if __name__ == "__main__":
    main(__name__)
