"""The service host: what systemd and a load balancer are on a server. It has the public ports, runs one release of each service behind
them, starts what dies again, and switches to another release only when that one is healthy; until then the old one serves.

Orders come over HTTP on a loopback port, with the secret of `var/host.json`. It ends with its standard input, and its services with theirs.
"""
import hmac
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import place  # noqa: E402

sys.path.insert(0, str(place.ROOT / "src"))
from shop import schema  # noqa: E402
from shop.server import Refused, Server, serve  # noqa: E402

# A new process may take its time to answer; one that answers that it is not well soon has told enough.
HEALTH_PATIENCE, HEALTH_EVERY, UNHEALTHY_MAX = 30.0, 0.1, 10
START_PATIENCE = 30.0
DRAIN_PATIENCE = 5.0
RESTART_PAUSE = 0.3
CONNECT_PATIENCE = 5.0
CHUNK = 64 * 1024


class Process:
    """One process of a service, on a port of its own."""

    def __init__(self, service, release, arguments):
        self.release, self.connections, self._lock = release, 0, threading.Lock()
        program = place.RELEASES / service / release / f"shop-{service}.pyz"
        if not program.exists():
            raise Refused(404, f"{service} {release} is not installed")
        log = open(place.LOGS / f"{service}.log", "ab")  # the child's standard error from here on
        self.child = subprocess.Popen(
            [sys.executable, str(program), "--config", str(place.CONFIG), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        log.close()
        # A process that neither speaks nor ends is ended, which ends the reading.
        impatience = threading.Timer(START_PATIENCE, self.child.kill)
        impatience.start()
        line = self.child.stdout.readline()
        impatience.cancel()
        if not line:
            self.child.kill()
            raise Refused(502, f"{service} {release} does not start (exit {self.child.wait()})")
        self.port = json.loads(line)["port"]

    def health(self):
        return place.ask(f"http://127.0.0.1:{self.port}/health", timeout=5)

    def count(self, change):
        with self._lock:
            self.connections += change

    def end(self):
        """Lets it finish what it has, then ends it."""
        end = time.monotonic() + DRAIN_PATIENCE
        while self.connections and time.monotonic() < end:
            time.sleep(0.01)
        self.child.stdin.close()
        try:
            self.child.wait(DRAIN_PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child.stdout.close()


class Service:
    """A public port, and the process behind it."""

    def __init__(self, name, arguments):
        self.name, self.arguments = name, arguments
        self.current, self.previous, self.token, self.restarts, self.switched_at = None, None, 0, 0, None
        self.changing = threading.Lock()
        self.public = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.public.getsockname()[1]}"

    def start(self):
        for work in (self.accept, self.watch):
            threading.Thread(target=work, daemon=True).start()

    def switch(self, release, token):
        """Puts `release` behind the port once it is healthy; an empty one stops the service. Asking for what is there changes nothing."""
        with self.changing:
            if token < self.token:
                raise Refused(409, f"{self.name} was changed by a newer holder (token {self.token}, yours is {token})")
            self.token = token
            old = self.current
            before = old.release if old else ""
            if before != release:
                new = self.healthy(Process(self.name, release, self.arguments())) if release else None
                self.current, self.previous, self.switched_at = new, before, time.time()
                log(f"{self.name}: {before or 'nothing'} -> {release or 'nothing'}")
                if old:
                    old.end()
            return {"service": self.name, "release": release, "previous": before, "switched_at": self.switched_at, **self.pid()}

    def healthy(self, process):
        end, unhealthy, answer = time.monotonic() + HEALTH_PATIENCE, 0, {}
        while time.monotonic() < end and unhealthy < UNHEALTHY_MAX and process.child.poll() is None:
            code, answer = process.health()
            if code == 200 and answer["version"] == process.release:
                return process
            unhealthy += code != 0
            time.sleep(HEALTH_EVERY)
        process.end()
        log(f"{self.name}: {process.release} is not healthy: {answer}")
        raise Refused(502, f"{self.name} {process.release} is not healthy and was ended; it said {json.dumps(answer)}")

    def watch(self):
        """Starts a dead process again."""
        while True:
            time.sleep(RESTART_PAUSE)
            with self.changing:
                if self.current and self.current.child.poll() is not None:
                    log(f"{self.name}: {self.current.release} ended by itself ({self.current.child.returncode}); starting it again")
                    self.restarts += 1
                    try:
                        self.current = Process(self.name, self.current.release, self.arguments())
                    except Refused as refused:
                        log(str(refused))

    def accept(self):
        while True:
            client, _ = self.public.accept()
            threading.Thread(target=self.forward, args=(client,), daemon=True).start()

    def forward(self, client):
        with client:
            process, server = self.connect()
            if server is None:
                return  # the client sees a closed connection, as with any service that is down
            with server:
                threading.Thread(target=pump, args=(client, server), daemon=True).start()
                pump(server, client)
            process.count(-1)

    def connect(self):
        """A connection to the process that is current then, counted."""
        end = time.monotonic() + CONNECT_PATIENCE
        while time.monotonic() < end:
            process = self.current
            if process is None:
                break
            process.count(1)
            if process is not self.current:  # it may be ending already
                process.count(-1)
                continue
            try:
                return process, socket.create_connection(("127.0.0.1", process.port), timeout=CONNECT_PATIENCE)
            except OSError:
                process.count(-1)
                time.sleep(0.02)
        return None, None

    def pid(self):
        return {"pid": self.current.child.pid if self.current else None}

    def state(self):
        release = self.current.release if self.current else ""
        return {"release": release, "previous": self.previous, "restarts": self.restarts, "switched_at": self.switched_at, **self.pid()}


def pump(source, target):
    """Copies until the source ends, and passes the end on."""
    try:
        source.settimeout(60)
        while chunk := source.recv(CHUNK):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Host:
    def __init__(self, secret):
        self.secret, self.services = secret, {}
        where = ["--database", str(place.DATABASE), "--orders-log", str(place.ORDERS_LOG)]
        self.services["api"] = Service("api", lambda: where)
        self.services["web"] = Service("web", lambda: ["--api", self.services["api"].url])

    def routes(self):
        return {("GET", "status"): self.status, ("POST", "switch"): self.switch}

    def status(self, *_):
        return 200, {"pid": os.getpid(), "services": {name: service.state() for name, service in self.services.items()}}

    def switch(self, _, __, body):
        if not hmac.compare_digest(str(body.pop("secret", "")), self.secret):
            raise Refused(403, "this is not the secret of var/host.json")
        service = self.services.get(body.get("service"))
        if service is None or not isinstance(body.get("release"), str) or not isinstance(body.get("token"), int):
            raise Refused(400, "expected `service`, `release` and `token`")
        return 200, service.switch(body["release"], body["token"])


def log(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def prepare():
    for folder in (place.DATABASE.parent, place.BACKUPS, place.RELEASES, place.LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    database = schema.connect(str(place.DATABASE))
    schema.prepare(database)
    database.close()
    if not place.CONFIG.exists():
        place.write(place.CONFIG, json.dumps({"currency": "EUR", "disk_free_mb_min": 1}, indent=2) + "\n")


def main():
    prepare()
    host = Host(secrets.token_hex(16))
    control = Server(host.routes())
    for name, release in place.read_json(place.SERVICES, {}).items():
        if release:
            host.services[name].switch(release, 0)
    for service in host.services.values():
        service.start()
    urls = {name: service.url for name, service in host.services.items()}
    known = {"pid": os.getpid(), "control": f"http://127.0.0.1:{control.server_port}", "secret": host.secret, **urls}
    os.umask(0o077)
    place.write(place.HOST, json.dumps(known) + "\n")
    serve(control)


if __name__ == "__main__":
    main()
