"""Who may say what: nodes under their own names only, clients by their role, nobody past the accounts. The attacks of `reliability.md` section
2.9 and its cases 40, 55 and 62 are tried here, on the server that `amphi up` runs."""

import socket
import tempfile
import urllib.parse
import urllib.request

from harness import *

PASSWORD = "p" * 40


def sample(name):
    """A golden input."""
    with open(f"{ROOT}/protocol/samples/input/{name}.json", encoding="utf-8") as file:
        return json.load(file)


class User:
    """A connection of one user, with what the server refused it."""

    async def open(self, url, inbox=None):
        self.refusals = []

        async def note(error):
            self.refusals.append(str(error).lower())

        how = {"inbox_prefix": inbox} if inbox else {}
        self.nats = await nats.connect(url, error_cb=note, max_reconnect_attempts=1, **how)
        return self

    async def refused(self, what, subject):
        """The server says that this is not permitted."""
        before = len(self.refusals)
        await what
        await self.nats.flush()

        def said():
            return any("permissions violation" in text and f'"{subject}"'.lower() in text for text in self.refusals[before:])

        await within(said, f"the server refuses {subject}; it said {self.refusals[before:]}", 5)

    async def may_not_say(self, subject, data=b"x", **how):
        await self.refused(self.nats.publish(subject, data, **how), subject)

    async def may_not_hear(self, subject):
        await self.refused(self.nats.subscribe(subject), subject)

    async def close(self):
        await self.nats.close()


def with_user(url, user, password):
    return f"nats://{user}:{password}@{url.rsplit('@', 1)[1]}"


async def stranger_node(c, node):
    """A node of another machine that is let in and misbehaves: its two connections."""
    reply = await c.api("node.join", {"nodes": [{"node": node, "password": PASSWORD}]})
    same(reply, {"accounts": True, "users": True})
    inbox = f"amphi.int.inbox.{node}"
    return (
        await User().open(with_user(c.up.url, node, PASSWORD), inbox),
        await User().open(with_user(c.up.url, f"{node}.edge", PASSWORD), inbox),
    )


async def journal(c):
    """Every record of the journal, as the Managers see it."""
    core = await c.up.as_node()
    js = core.jetstream()
    state = (await js.stream_info("AMPHI_JOURNAL_0")).state
    records = []
    for seq in range(state.first_seq, state.last_seq + 1):
        stored = await js.get_msg("AMPHI_JOURNAL_0", seq)
        records.append((stored.subject, json.loads(stored.data)))
    await core.close()
    return records


async def still_sound(c):
    """The journal holds records only, one after the other; the same Manager leads, and work goes on."""
    records = await journal(c)
    assert records and all(subject == "amphi.journal.0" and record["shard"] == 0 for subject, record in records)
    indexes = [record["index"] for _, record in records]
    same(indexes, list(range(indexes[0], indexes[0] + len(indexes))), "the records of the journal")
    same({record["epoch"] for _, record in records}, {1}, "one Manager led all the time")
    await c.run({"a": {"run": "true"}}, "succeeded")


# --- nodes ---------------------------------------------------------------------------------------------------------------------------


async def test_a_body_that_names_another_node_than_its_subject_is_refused(c):
    node = await c.up.as_node()

    async def say(sender, inputs):
        return json.loads((await node.request(f"amphi.int.from.{sender}.shard.0.input", json.dumps({"inputs": inputs}).encode(), timeout=DEADLINE)).data)

    for name in ("join", "agent", "staff", "attempt"):
        told = sample(name)
        owner = next(iter(told.values()))["node"]
        reply = await say("ghost-9", [told])
        same(reply.get("error", {}).get("code"), "policy.denied", f"{name} of {owner} from ghost-9: {short(reply)}")
    # What people ask for comes through the front door, where they are known.
    for name in ("cancel_epic", "cancel_task", "retry_task", "resolve_incident", "submit", "lead", "lose_node", "silent", "tick"):
        reply = await say("node-1", [sample(name)])
        same(reply.get("error", {}).get("code"), "request.invalid", f"{name} from a node: {short(reply)}")
    await node.close()


async def test_a_node_can_neither_pose_as_another_nor_command_nor_overhear_one(c):
    core, edge = await stranger_node(c, "evil-node-1")
    for what in ("input", "heartbeat", "death"):
        await core.may_not_say(f"amphi.int.from.node-1.shard.0.{what}")
    for subject in ("amphi.int.node.node-1.command.0", "amphi.int.shard.0.api", "amphi.int.shard.0.holder", "amphi.int.inbox.node-1.x", "amphi.int.up.users.admit",
                    "amphi.api.epic.submit", "amphi.seat.0", "amphi.journal.0"):
        await core.may_not_say(subject)
    for subject in ("amphi.int.inbox.node-1.>", "amphi.int.inbox.>", "amphi.int.node.node-1.command.0", "amphi.int.from.>", "amphi.int.>", ">", "amphi.int.shard.0.api"):
        await core.may_not_hear(subject)
    # On the clients' side it is no client.
    for subject in ("amphi.api.epic.submit", "amphi.api.node.join", "amphi.evt.x._.epic-failed", "deploy.approved"):
        await edge.may_not_say(subject)
    await edge.may_not_hear("amphi.evt.>")
    # Another's messages: neither taken nor acknowledged, nor their consumer changed.
    for subject in ("$JS.API.CONSUMER.MSG.NEXT.AMPHI_MESSAGES.node-node-1", "$JS.ACK.AMPHI_MESSAGES.node-node-1.1.1.1.1.0",
                    "$JS.API.CONSUMER.DELETE.AMPHI_MESSAGES.node-node-1", "$JS.API.CONSUMER.CREATE.AMPHI_MESSAGES", "$JS.API.CONSUMER.CREATE.AMPHI_MESSAGES.spy"):
        await edge.may_not_say(subject)
    await core.close()
    await edge.close()


async def test_a_node_reaches_no_journal_through_the_reply_of_a_request(c):
    core, edge = await stranger_node(c, "evil-node-2")
    listener = await c.up.as_node()
    heard = []

    async def note(message):
        heard.append(message)

    await listener.subscribe("amphi.int.node.node-1.command.0", cb=note)
    await listener.flush()
    # JetStream would answer wherever the request wants, so there is nothing that it may ask for where the journals are.
    for subject in ("$JS.API.INFO", "$JS.API.STREAM.INFO.AMPHI_JOURNAL_0", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.DELETE.AMPHI_JOURNAL_0", "$JS.API.STREAM.PURGE.AMPHI_JOURNAL_0",
                    "$JS.API.CONSUMER.CREATE.AMPHI_JOURNAL_0.x", "$JS.API.STREAM.MSG.GET.AMPHI_JOURNAL_0"):
        await core.may_not_say(subject, reply="amphi.journal.0")
    # The Manager answers to inboxes only.
    before = len(await journal(c))
    for reply in ("amphi.journal.0", "amphi.int.node.node-1.command.0", "amphi.seat.0", "$JS.API.STREAM.DELETE.AMPHI_JOURNAL_0"):
        await core.nats.publish("amphi.int.from.evil-node-2.shard.0.input", b'{"inputs":[]}', reply=reply)
        await core.nats.publish("amphi.int.from.evil-node-2.shard.0.input", b"garbage", reply=reply)
        await edge.nats.publish("amphi.msg.Nobody", b"x", reply=reply)
    answer = await core.nats.request("amphi.int.from.evil-node-2.shard.0.input", b'{"inputs":[]}', timeout=DEADLINE)
    assert "results" in json.loads(answer.data), "its own door is open"
    assert len(await journal(c)) >= before
    assert not [message for message in heard if not message.data.startswith(b"AM")], heard
    await still_sound(c)
    for connection in (core, edge, listener):
        await connection.close()


async def test_a_node_erases_nothing_that_nodes_share(c):
    core, edge = await stranger_node(c, "evil-node-3")
    mine = await User().open(c.up.url)
    js = edge.nats.jetstream()
    work = {"make": {"run": "mkdir -p $AMPHI_ARTIFACTS && echo here > $AMPHI_ARTIFACTS/f"}, "use": {"needs": ["make"], "run": "grep here $AMPHI_INPUTS/make/f"}}
    await c.run(work, "succeeded")
    for subject in ("$KV.AMPHI_PINS.x", "$O.AMPHI_OBJECTS.M.x", "amphi.msg.Nobody", "amphi.out.x.y.1.1.out"):
        for value in ("all", "sub"):
            try:
                await js.publish(subject, b"x", headers={"Nats-Rollup": value})
                raise AssertionError(f"a roll-up of {subject} was accepted")
            except nats.js.errors.APIError as error:
                assert "rollup" in error.description.lower(), error
    # A second write of what was decided, and the other headers that act beyond their own message.
    await js.publish("$KV.AMPHI_PINS.decided", b"one")
    try:
        await js.publish("$KV.AMPHI_PINS.decided", b"two")
        raise AssertionError("what was decided was changed")
    except nats.js.errors.APIError as error:
        assert "per subject" in error.description.lower(), error
    for headers in ({"Nats-Schedule": "@at 2026-01-01T00:00:00Z", "Nats-Schedule-Target": "amphi.evt.x"}, {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"}):
        try:
            await js.publish("amphi.msg.Nobody", b"x", headers=headers)
        except nats.js.errors.APIError:
            continue
        except nats.errors.TimeoutError:
            continue
    for number in range(60):
        await edge.nats.publish("amphi.msg.Nobody", b"x", headers={"Nats-Batch-Id": f"open-{number}", "Nats-Batch-Sequence": "1"})
    for verb in ("DELETE", "PURGE", "UPDATE", "CREATE", "MSG.DELETE", "RESTORE"):
        for stream in ("AMPHI_EVENTS", "AMPHI_MESSAGES", "AMPHI_OUTPUT", "OBJ_AMPHI_OBJECTS", "KV_AMPHI_PINS"):
            await edge.may_not_say(f"$JS.API.STREAM.{verb}.{stream}")
    await c.run(work, "succeeded")
    await still_sound(c)
    for connection in (core, edge, mine):
        await connection.close()


# --- clients -------------------------------------------------------------------------------------------------------------------------


async def test_the_server_says_who_asks_and_no_header_of_a_client_does(c):
    for role in ("submitter", "approver", "admin"):
        user = await User().open(c.up.user_url(role))
        forged = {"Nats-Request-Info": '{"acc":"EDGE","user":"root"}', "nats-request-info": '{"user":"root"}', "Amphi-By": "root"}
        body = json.dumps({"document": {"version": 1, "name": c.name("who"), "tasks": {"a": {"tool": "noop"}}}}).encode()
        reply = json.loads((await user.nats.request("amphi.api.epic.submit", body, timeout=DEADLINE, headers=forged)).data)
        same((await Epic(c, reply["epic"]).end("succeeded"))["submitted_by"], role)
        await user.close()

    def by_hand():
        """The header twice, and once in the middle of another's value, which no client library would send."""
        parts = urllib.parse.urlsplit(c.up.user_url("submitter"))
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as wire:
            file = wire.makefile("rb")
            file.readline()
            login = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "user": parts.username, "pass": parts.password, "lang": "raw", "version": "0"}
            wire.sendall(b"CONNECT " + json.dumps(login).encode() + b"\r\nSUB _INBOX.hand.* 1\r\nPING\r\n")
            assert file.readline() == b"PONG\r\n"
            for number, head in enumerate((b'Nats-Request-Info: {"user":"root"}\r\nNats-Request-Info: {"user":"root"}', b'X: a\nNats-Request-Info: {"user":"root"}')):
                head = b"NATS/1.0\r\n" + head + b"\r\n\r\n"
                body = json.dumps({"document": {"version": 1, "name": c.name("hand"), "tasks": {"a": {"tool": "noop"}}}}).encode()
                wire.sendall(b"HPUB amphi.api.epic.submit _INBOX.hand.%d %d %d\r\n%s%s\r\n" % (number, len(head), len(head) + len(body), head, body))
                sizes = file.readline().split()
                yield json.loads(file.read(int(sizes[-1]) + 2)[(int(sizes[-2]) if sizes[0] == b"HMSG" else 0):])

    for reply in await asyncio.to_thread(lambda: list(by_hand())):
        if "epic" in reply:
            same((await Epic(c, reply["epic"]).end("succeeded"))["submitted_by"], "submitter")
        else:
            same(reply["error"]["code"], "policy.denied")


async def test_a_viewer_reads_and_changes_nothing(c):
    epic, _ = await c.run({"a": {"run": "echo seen"}}, "succeeded")
    url = c.up.user_url("viewer")

    async def amphi(*arguments):
        return await command(*arguments, env=plain_environment(AMPHI_NATS_URL=url))

    for arguments in (["epic", "ls"], ["epic", "show", epic.id], ["epic", "events", epic.id], ["epic", "verify", epic.id], ["epic", "report", epic.id], ["task", "logs", f"{epic.id}/a"],
                      ["why", f"{epic.id}/a"], ["tree"], ["agent", "ls"], ["node", "ls"], ["lock", "ls"], ["queue", "ls"], ["role", "ls"], ["incident", "ls"]):
        assert "secret" not in (await amphi(*arguments, "--json")).exits(0).out
    file = c.file({"version": 1, "name": "v", "tasks": {"a": {"tool": "noop"}}})
    (await amphi("epic", "validate", file)).exits(0)
    for arguments in (["run", "--detach", file], ["epic", "cancel", epic.id], ["task", "retry", f"{epic.id}/a"], ["node", "drain", "node-1", "--detach"], ["agent", "pause", "nobody"]):
        result = (await amphi(*arguments, "--json")).exits(4)
        assert "policy.denied" in result.out + result.err, (result.out, result.err)
    viewer = await User().open(url)
    for subject in ("amphi.api.epic.submit", "amphi.msg.BuildMaster", "deploy.approved", "amphi.evt.x._.y", "amphi.int.from.node-1.shard.0.input", "$JS.API.STREAM.PURGE.AMPHI_EVENTS"):
        await viewer.may_not_say(subject)
    await viewer.may_not_hear("amphi.int.>")
    await viewer.may_not_hear("_INBOX_admin.>")
    # It may follow events as any client does.
    seen = asyncio.Event()

    async def note(message):
        if json.loads(message.data)["epic"] == epic.id:
            seen.set()

    await viewer.nats.jetstream().subscribe("amphi.evt.>", ordered_consumer=True, cb=note)
    await asyncio.wait_for(seen.wait(), DEADLINE)
    await viewer.close()


async def test_a_submitter_can_not_what_an_approver_or_an_admin_may(c):
    for role, may, may_not in (
        ("submitter", (), ("gate.decide", "question.answer", "node.join", "node.revoke", "node.drain", "agent.restart", "incident.resolve")),
        ("approver", ("gate.decide", "question.answer"), ("node.join", "node.revoke", "node.drain", "agent.restart", "incident.resolve")),
    ):
        user = await User().open(c.up.user_url(role))
        for verb in may_not:
            await user.may_not_say(f"amphi.api.{verb}", b"{}")
        before = len(user.refusals)
        for verb in may:
            await user.nats.publish(f"amphi.api.{verb}", b"{}")
        await user.nats.flush()
        same(len(user.refusals), before, f"{role} may {may}")
        for subject in ("amphi.int.from.node-1.shard.0.input", "amphi.int.node.node-1.command.0", "amphi.evt.x._.y", "amphi.out.x.y.1.1.out", "amphi.journal.0", "$KV.AMPHI_PINS.x", "$O.AMPHI_OBJECTS.M.x",
                        "$JS.API.STREAM.CREATE.SPY", "$JS.API.STREAM.PURGE.AMPHI_MESSAGES", "$JS.API.CONSUMER.MSG.NEXT.AMPHI_MESSAGES.node-node-1", "$JS.API.CONSUMER.DELETE.AMPHI_MESSAGES.node-node-1"):
            await user.may_not_say(subject)
        await user.close()
    result = await command("node", "drain", "node-1", "--detach", "--json", env=plain_environment(AMPHI_NATS_URL=c.up.user_url("submitter")))
    assert "policy.denied" in result.exits(4).out + result.err


async def test_a_consumer_that_delivers_to_a_subject_of_the_system_reaches_nobody(c):
    """Whoever makes a consumer says where it delivers; what it delivers is what a client stored."""
    user = await User().open(c.up.user_url("submitter"))
    js = user.nats.jetstream()
    waiting = await c.submit({"w": {"wait": {"event": "deploy.approved.by-people"}}})
    await waiting.event("task.waiting", reason="event")
    victim = await c.submit({"v": {"run": "sleep 2"}})
    forged = {"Nats-Request-Info": '{"acc":"EDGE","user":"admin"}'}
    before = len(await journal(c))
    stored = [await js.publish("amphi.msg.Nobody", json.dumps({"epic": victim.id}).encode(), headers=forged), await js.publish("amphi.msg.Nobody", b'{"inputs":[]}')]
    targets = ("amphi.api.epic.cancel", "amphi.journal.0", "amphi.int.from.node-1.shard.0.input", "amphi.int.node.node-1.command.0", "amphi.evt.x._.y", "deploy.approved.by-people",
               "$JS.API.STREAM.PURGE.AMPHI_EVENTS", "$JS.API.STREAM.DELETE.AMPHI_EVENTS")
    for number, target in enumerate(targets):
        config = {"name": f"evil-{number}", "deliver_subject": target, "deliver_policy": "by_start_sequence", "opt_start_seq": stored[0].seq, "ack_policy": "none"}
        request = json.dumps({"stream_name": "AMPHI_MESSAGES", "config": config}).encode()
        await user.nats.request(f"$JS.API.CONSUMER.CREATE.AMPHI_MESSAGES.evil-{number}", request, timeout=DEADLINE)
    await victim.end("succeeded")
    same((await waiting.task("w"))["state"], "waiting", "the wait was not ended by what a consumer delivered")
    # A signal from the submitter itself does, and its answer goes to no subject of the system.
    for reply in ("amphi.int.node.node-1.command.0", "amphi.journal.0", "$JS.API.STREAM.PURGE.AMPHI_EVENTS"):
        await user.nats.publish("deploy.approved.by-people", b'{"ok":true}', reply=reply)
    await waiting.end("succeeded")
    assert len(await journal(c)) > before
    assert (await c.connection.jetstream().stream_info("AMPHI_EVENTS")).state.messages > 0
    await still_sound(c)
    await user.close()


async def test_where_the_users_are(c):
    path = os.path.join(c.up.data, "nats", "users.json")
    same(os.stat(path).st_mode & 0o777, 0o600)
    with open(path, encoding="utf-8") as file:
        users = json.load(file)
    same(sorted(users), ["admin", "approver", "submitter", "viewer"])
    same(users["admin"], c.up.url)
    doctor = await c.amphi("doctor", "--json")
    assert "clients are apart from nodes" in doctor.out, doctor.out
    secrets = [urllib.parse.urlsplit(url).password for url in users.values()]
    assert not any(secret in doctor.out + doctor.err for secret in secrets)


# --- over time -----------------------------------------------------------------------------------------------------------------------


async def test_a_command_of_a_former_life_or_term_is_refused(c):
    async def work(own):
        listener = await own.up.as_node()
        commands = []

        async def note(message):
            commands.append(message)

        await listener.subscribe("amphi.int.node.node-1.command.0", cb=note)
        await listener.flush()
        mark = os.path.join(own.new_folder(), "mark")
        epic, _ = await own.run({"a": {"run": f"echo x >> {mark}"}}, "succeeded")
        told = [(message.data, message.headers) for message in commands]
        assert told, "the command was overheard"

        async def replay():
            answers = []
            for data, headers in told:
                answers.append((await listener.request("amphi.int.node.node-1.command.0", data, timeout=5, headers=headers)).data)
            return answers

        first = await replay()
        pid = own.up.ready["nodes"][0]["pid"]
        os.kill(pid, signal.SIGKILL)

        async def back():
            try:
                node = (await own.api("node.get", {"node": "node-1"}, deadline=2))
                return node if node["pid"] != pid and node["state"] == "alive" and node["leads"] else None
            except (AssertionError, Refused, nats.errors.Error):
                return None

        await within(back, "the node lives again")
        second = await within(lambda: answered(replay), "the new life answers")
        assert all(answer not in first for answer in second), "the new life confirms nothing that was meant for the former one"
        await own.run({"a": {"run": "true"}}, "succeeded")
        with open(mark, encoding="utf-8") as file:
            same(file.read(), "x\n", "what was commanded once was done once")
        same(len(epic.of("task.started")), 1)
        await listener.close()

    await in_its_own(c, work)


async def answered(replay):
    try:
        return await replay()
    except nats.errors.Error:
        return None


@alone
async def test_a_node_that_is_shut_out_is_cut_off_at_once_and_its_task_runs_elsewhere(c):
    folder = tempfile.mkdtemp(prefix="joins-", dir=c.folder)
    far = Up(folder, ["--nats", c.up.url, "--node-prefix", "far", "--capacity", "1", "--label", "zone=far"])
    await far.start()
    mark = os.path.join(folder, "mark")
    # As many as the cluster can run at once: one of them runs there.
    epic = await c.submit({"each": {"matrix": {"i": "1..13"}, "run": f"sleep 3; echo ${{{{ matrix.i }}}} >> {mark}"}})
    there = await within(lambda: next((e for e in epic.of("task.started") if e["node"] == "far-node-1"), None), "a task runs there")
    with open(os.path.join(c.up.data, "nats", "identity.json"), encoding="utf-8") as file:
        monitor = json.load(file)["monitor_port"]

    def connected():
        with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/connz?auth=1&limit=1000", timeout=5) as reply:
            return [entry for entry in json.load(reply)["connections"] if entry.get("authorized_user", "").startswith("far-node-1")]

    assert await asyncio.to_thread(connected)
    began = time.monotonic()
    (await c.amphi("node", "revoke", "far-node-1")).exits(0)
    await within(lambda: not connected(), "its connections have ended", 5)
    assert time.monotonic() - began < 5
    last = max(int(e["seq"]) for e in epic.events)
    await epic.end("succeeded", deadline=90)
    again = [e for e in epic.of("task.started") if e["task"] == there["task"] and e["run"] == there["run"]]
    assert len(again) >= 2 and again[-1]["node"] == "node-1", again
    assert not [e for e in epic.events if e["node"] == "far-node-1" and e["type"] in ("task.succeeded", "task.progress") and e["seq"] > last + 50], "nothing of it counted later"
    ended_there = [e for e in epic.of("task.succeeded") if e["task"] == there["task"] and e["run"] == there["run"]]
    same([e["node"] for e in ended_there], ["node-1"], "its own end of the task did not count")
    # It does not come back under this id, by whatever way.
    await c.refused("node.join", {"nodes": [{"node": "far-node-1", "password": PASSWORD}]}, "policy.denied", 403)
    far.process.kill()
    far.process.wait()
    await within(lambda: not [pid for pid in descendants(os.getpid()) if "far-node-1" in command_line(pid)], "nothing of it lives")


if __name__ == "__main__":
    main(__name__)
