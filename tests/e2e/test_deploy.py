"""The templates of deploy/nats on real servers: one, and three with three copies of everything; nodes with and without a seat, clients by role."""

import glob
import socket
import tempfile
import urllib.request

from harness import *

USERS = ("core", "edge", "admin", "approver", "submitter", "viewer", "worker_1", "worker_2")
PASSWORDS = {user: f"{user}Secret0123456789" for user in USERS}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Server:
    """A nats-server with a template, told everything by its environment as the README says."""

    def __init__(self, folder, config, name, ports, routes=()):
        self.port, self.monitor = ports[0], ports[1]
        environment = plain_environment(
            AMPHI_NATS_NAME=name, AMPHI_NATS_LISTEN=f'"127.0.0.1:{ports[0]}"', AMPHI_NATS_HTTP=f'"127.0.0.1:{ports[1]}"',
            AMPHI_NATS_STORE=os.path.join(folder, name), AMPHI_ROUTES_PASSWORD="routesSecret",
            AMPHI_NATS_CLUSTER_LISTEN=f'"127.0.0.1:{ports[2]}"',
            AMPHI_NATS_ROUTES=json.dumps([f"nats://amphi-routes:routesSecret@127.0.0.1:{port}" for port in routes]),
            **{f"AMPHI_{user.upper()}_PASSWORD": password for user, password in PASSWORDS.items()},
        )
        self.log = os.path.join(folder, f"{name}.log")
        self.process = subprocess.Popen(
            ["nats-server", "-c", f"{ROOT}/deploy/nats/{config}", "-l", self.log], env=environment, preexec_fn=end_with_the_parent,
            stdout=subprocess.DEVNULL, stderr=open(f"{self.log}.err", "wb"), start_new_session=True,
        )

    async def healthy(self):
        def look():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/healthz", timeout=2) as reply:
                    return reply.status == 200
            except OSError:
                return False

        await within(lambda: asyncio.to_thread(look), f"{self.log}: the server is healthy")

    def stop(self):
        self.process.kill()
        self.process.wait()


def url(servers, user, password):
    return ",".join(f"nats://{user}:{PASSWORDS[password]}@127.0.0.1:{server.port}" for server in servers)


async def work_on(servers, folder, worker=False):
    """A cluster on these servers: who asks is known, who reads may not write, and the copies are where they should be."""
    for server in servers:
        await server.healthy()
    core, edge = url(servers, "amphi-core", "core"), url(servers, "amphi-edge", "edge")
    config = os.path.join(folder, "amphi.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write("version: 1\ncluster: { durability_confirmed: true }\n")
    with contextlib.ExitStack() as stack:
        up = Up(folder, ["--nats", core, "--nats-edge", edge, "--node-prefix", "main", "--capacity", "2", "--config", config])
        try:
            await up.start()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{up.log()}\n{node_logs(up)}") from None
        stack.callback(lambda: up.process.poll() is None and up.process.kill())
        assert "Secret" not in json.dumps(up.ready), up.ready
        client = Cluster(folder)
        client.up = Plain(url(servers, "submitter", "submitter"))
        await client.connect()
        epic, view = await client.run({"a": {"run": "echo out; mkdir -p $AMPHI_ARTIFACTS && echo here > $AMPHI_ARTIFACTS/f"}, "b": {"needs": ["a"], "run": "grep here $AMPHI_INPUTS/a/f"}}, "succeeded")
        same(view["submitted_by"], "submitter")
        await epic.log_has("a", "out")
        waiting = await client.submit({"w": {"wait": {"event": "deploy.approved.now"}}})
        await waiting.event("task.waiting", reason="event")
        await client.connection.publish("deploy.approved.now", b'"yes"')
        await waiting.end("succeeded")
        viewer = url(servers, "viewer", "viewer")
        (await command("epic", "ls", env=plain_environment(AMPHI_NATS_URL=viewer))).exits(0)
        refused = await command("epic", "cancel", epic.id, "--json", env=plain_environment(AMPHI_NATS_URL=viewer))
        assert "policy.denied" in refused.exits(4).out + refused.err
        doctor = await command("doctor", "--json", env=plain_environment(AMPHI_NATS_URL=viewer))
        assert "clients are apart from nodes" in doctor.out, doctor.out
        if worker:
            far = Up(tempfile.mkdtemp(prefix="worker-", dir=folder), [
                "--no-manager", "--node-prefix", "worker", "--capacity", "4",
                "--nats", url(servers, "worker-node-1", "worker_1"), "--nats-edge", url(servers, "worker-node-1.edge", "worker_1"),
            ])
            try:
                await far.start()
            except AssertionError as error:
                raise AssertionError(f"{error}\n{far.log()}\n{node_logs(far)}") from None
            stack.callback(lambda: far.process.poll() is None and far.process.kill())
            wide = await client.submit({"each": {"matrix": {"i": "1..6"}, "run": "sleep 1; mkdir -p $AMPHI_ARTIFACTS && echo here > $AMPHI_ARTIFACTS/f"}, "use": {"needs": ["each"], "run": "cat $AMPHI_INPUTS/*/f | grep -c here"}})
            await wide.end("succeeded")
            assert "worker-node-1" in {event["node"] for event in wide.of("task.started")}, "the worker worked"
            assert (await client.api("epic.verify", {"epic": wide.id}))["ok"]
            same(await far.stop(), 0)
        assert (await client.api("epic.verify", {"epic": epic.id}))["ok"]
        copies = {}
        for where in (core, edge):
            connection = await nats.connect(where.split(","), inbox_prefix="amphi.int.inbox.test")
            for info in await connection.jetstream().streams_info():
                copies[info.config.name] = info.config.num_replicas
            await connection.close()
        await client.connection.close()
        same(await up.stop(), 0)
        return copies


class Plain:
    """What a `Cluster` wants of an `Up` that it does not own."""

    def __init__(self, address):
        self.url = address.split(",")[0]


def node_logs(up):
    texts = []
    for path in glob.glob(os.path.join(up.data, "*", "log")):
        with open(path, encoding="utf-8", errors="replace") as file:
            texts.append("".join(file.readlines()[-15:]))
    return "\n".join(texts)


async def test_one_server():
    folder = tempfile.mkdtemp(prefix="deploy-")
    server = Server(folder, "server.conf", "alone", free_ports(3))
    try:
        copies = await work_on([server], folder, worker=True)
        assert {"AMPHI_JOURNAL_0", "AMPHI_EVENTS", "AMPHI_MESSAGES", "AMPHI_OUTPUT"} <= copies.keys(), copies
        same(set(copies.values()), {1})
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def test_three_servers():
    folder = tempfile.mkdtemp(prefix="deploy-")
    ports = free_ports(9)
    servers = [Server(folder, "cluster.conf", f"nats-{n}", ports[3 * n : 3 * n + 3], ports[2::3]) for n in range(3)]
    try:
        copies = await work_on(servers, folder)
        assert {"AMPHI_JOURNAL_0", "AMPHI_EVENTS", "AMPHI_MESSAGES", "AMPHI_OUTPUT"} <= copies.keys(), copies
        same({name: count for name, count in copies.items() if count != 3}, {}, "streams without three copies")
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(__name__, shared=False)
