"""Starts the real program in a temporary folder and talks to it as a stranger would: plain NATS, the command line, files, processes.

Nothing here knows the program's insides. Waiting is always for an event or an answer, with a deadline; `within` repeats a question, it never
sleeps and hopes. A test is an `async def` that takes the `Cluster`; `main` runs the tests of a file side by side on one cluster, prints one line
per test, then holds the cluster itself to account: every epic verified, every process gone.
"""

import asyncio
import contextlib
import ctypes
import datetime
import http.server
import inspect
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import nats
import nats.js.api
from nats.errors import NoRespondersError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIBC = ctypes.CDLL(None)
# Generous: the machine may be busy with other things. A test that passes never waits this long.
DEADLINE = float(os.environ.get("AMPHI_E2E_DEADLINE", "60"))
SIDE_BY_SIDE = int(os.environ.get("AMPHI_E2E_SIDE_BY_SIDE", "6"))
ENDED = {"succeeded", "failed", "cancelled"}
EVENT_KEYS = {"shard", "seq", "ts", "epic", "task", "run", "attempt", "agent", "node", "type", "data"}
TASK_KEYS = {
    "epic", "task", "kind", "state", "run", "attempt", "agent", "node", "reason", "needs", "outputs", "token", "started_at", "ended_at",
    "exit_code", "error",
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def binary():
    found = os.environ.get("AMPHI_BIN")
    if not found:
        found = os.path.join(subprocess.check_output([f"{ROOT}/scripts/target-dir.sh"], text=True).strip(), "debug", "amphi")
    if not os.access(found, os.X_OK):
        sys.exit(f"{found} is not there: build it (cargo build --bins) or name it with AMPHI_BIN")
    return found


BIN = binary()


def plain_environment(**more):
    """What programs under test get: nothing of the caller's own AMPHI_* settings, and the fetched nats-server on PATH."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AMPHI_", "XDG_"))}
    clean["PATH"] = f"{ROOT}/.tools/bin:{clean.get('PATH', '')}"
    clean["NO_COLOR"] = "1"
    clean.update({name: str(value) for name, value in more.items()})
    return clean


# --- processes ---------------------------------------------------------------------------------------------------------------------


def adopt_orphans():
    """Makes this process the one that orphans fall to, so that whatever escapes a stopped cluster is still found below it."""
    pr_set_child_subreaper = 36
    LIBC.prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def end_with_the_parent():
    pr_set_pdeathsig = 1
    LIBC.prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)


def stat_of(pid):
    """(parent, state) of a process, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            rest = file.read().rsplit(b")", 1)[1].split()
        return int(rest[1]), rest[0].decode()
    except (OSError, IndexError):
        return None


def alive(pid):
    found = stat_of(pid)
    return found is not None and found[1] not in "ZX"


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def descendants(root):
    """Living processes below `root`."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := stat_of(int(name))):
            parents[int(name)] = found
    below, frontier = set(), {root}
    while frontier:
        frontier = {pid for pid, (parent, _) in parents.items() if parent in frontier and pid not in below}
        below |= frontier
    return sorted(pid for pid in below if parents[pid][1] not in "ZX")


# --- waiting -----------------------------------------------------------------------------------------------------------------------


async def within(question, what, deadline=None):
    """Asks until the answer is neither None nor False, and gives it. `question` may be a coroutine function."""
    until = time.monotonic() + (deadline or DEADLINE)
    answer = None
    while True:
        answer = question()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > until:
            raise AssertionError(f"not within {deadline or DEADLINE:.0f} s: {what}")
        await asyncio.sleep(0.05)


def milliseconds(time_text):
    return int(datetime.datetime.strptime(time_text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() * 1000)


def same(found, wanted, what=""):
    assert found == wanted, f"{what}\n  found:  {short(found)}\n  wanted: {short(wanted)}"


def short(value, limit=1500):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


# --- talking to the cluster --------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """An error reply, as the interface defines it; its shape is checked whenever one is met."""

    def __init__(self, verb, body, headers):
        self.error = body["error"]
        self.code, self.status = self.error["code"], (headers or {}).get("Nats-Service-Error-Code")
        self.problems = self.error.get("problems", [])
        super().__init__(f"{verb}: {self.status} {short(self.error)}")
        assert self.error["message"] and isinstance(self.error["retryable"], bool), short(body)
        assert self.status and self.status.isdigit(), f"{verb}: no Nats-Service-Error-Code beside {short(body)}"
        assert headers.get("Nats-Service-Error"), f"{verb}: no Nats-Service-Error beside {short(body)}"
        assert "\n" not in headers["Nats-Service-Error"] and "\r" not in headers["Nats-Service-Error"]
        for problem in self.problems:
            assert {"file", "line", "column", "code", "message", "hint"} <= problem.keys(), short(problem)


class Result:
    """What a command of the command line did."""

    def __init__(self, arguments, code, out, err):
        self.arguments, self.code, self.out, self.err = arguments, code, out, err

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]

    def exits(self, code):
        assert self.code == code, f"amphi {' '.join(self.arguments)}: exit {self.code}, wanted {code}\n{short(self.out)}\n{short(self.err)}"
        return self


async def command(*arguments, env=None, stdin=None, cwd=None, deadline=None):
    """Runs `amphi …`."""
    arguments = [str(argument) for argument in arguments]
    process = await asyncio.create_subprocess_exec(
        BIN, *arguments, env=env or plain_environment(), cwd=cwd, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        out, err = await asyncio.wait_for(process.communicate(data or b""), deadline or DEADLINE)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"amphi {' '.join(arguments)} did not end within {deadline or DEADLINE:.0f} s") from None
    return Result(arguments, process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


class Up:
    """One `amphi up`."""

    def __init__(self, folder, arguments=(), env=None):
        self.folder, self.data = folder, os.path.join(folder, "data")
        self.ready_file, self.log_file = os.path.join(folder, "ready.json"), os.path.join(folder, "up.log")
        self.arguments, self.environment = list(arguments), plain_environment(**(env or {}))
        self.process, self.ready = None, None

    async def start(self):
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.ready_file)
        with open(self.log_file, "ab") as log, open(os.path.join(self.folder, "up.out"), "ab") as out:
            arguments = [BIN, "up", "--data", self.data, "--ready-file", self.ready_file, *self.arguments]
            # A session of its own: a Ctrl-C for the tests must not reach it before the tests have asked what they want to ask.
            # However the tests end, it ends with them.
            self.process = subprocess.Popen(
                arguments, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True, cwd=self.folder,
                preexec_fn=end_with_the_parent,
            )
        await within(self._is_ready, "`amphi up` is ready")
        return self

    def _is_ready(self):
        assert self.process.poll() is None, f"`amphi up` ended with {self.process.returncode} before it was ready"
        try:
            with open(self.ready_file, encoding="utf-8") as file:
                self.ready = json.load(file)
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return True

    @property
    def url(self):
        return self.ready["nats"]

    async def stop(self, deadline=None):
        """Ends it in order; gives its exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            # An idle cluster does not need its 30 s of draining.
            return await asyncio.to_thread(self.process.wait, deadline or DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"`amphi up` did not end within {deadline or DEADLINE:.0f} s of SIGTERM") from None

    async def as_node(self):
        """A connection with all that nodes and Managers may; answers come where nodes wait for them."""
        return await nats.connect(self.node_url, inbox_prefix="amphi.int.inbox.test", error_cb=nothing_to_say)

    def user_url(self, user):
        """The URL of a client by its role."""
        with open(os.path.join(self.data, "nats", "users.json"), encoding="utf-8") as file:
            return json.load(file)[user]

    @property
    def node_url(self):
        """What nodes log in with; clients may not speak where they do."""
        with open(os.path.join(self.data, "node-url"), encoding="utf-8") as file:
            return file.read()

    def log(self, lines=60):
        with contextlib.suppress(FileNotFoundError):
            with open(self.log_file, encoding="utf-8", errors="replace") as file:
                return "".join(file.readlines()[-lines:])
        return ""


class Epic:
    """A submitted epic, seen through its events."""

    def __init__(self, cluster, id):
        self.cluster, self.id = cluster, id

    @property
    def events(self):
        return self.cluster.feed.of(self.id)

    def of(self, type=None, task=None):
        return [event for event in self.events if type in (None, event["type"]) and task in (None, event["task"])]

    async def event(self, type, task=None, count=1, deadline=None, **data):
        """Waits for the `count`th event of this kind."""

        def found():
            matching = [event for event in self.of(type, task) if all(event["data"].get(key) == value for key, value in data.items())]
            return matching[count - 1] if len(matching) >= count else None

        return await self.cluster.feed.until(found, lambda: f"{self.id}: {type} {task or ''} {data or ''}; seen {self.summary()}", deadline)

    async def end(self, wanted=None, deadline=None):
        """Waits for the end; gives the epic as `epic.get` shows it, tasks by key under `by_task`."""

        def ended():
            return next((event["type"] for event in self.events if event["type"].split(".")[1] in ENDED and event["task"] is None), None)

        await self.cluster.feed.until(ended, lambda: f"{self.id} ends; seen {self.summary()}", deadline)
        view = await self.get()
        if wanted:
            assert view["state"] == wanted, f"{self.id} is {view['state']}, wanted {wanted}; {short(self.tasks_summary(view), 4000)}"
        return view

    async def get(self):
        view = await self.cluster.api("epic.get", {"epic": self.id})
        view["by_task"] = {task["task"]: task for task in view["tasks"]}
        return view

    async def task(self, key):
        return await self.cluster.api("task.get", {"epic": self.id, "task": key})

    async def log(self, key, source=None, **which):
        reply = await self.cluster.api("task.logs", {"epic": self.id, "task": key, **which})
        return "".join(chunk["text"] for chunk in reply["chunks"] if source in (None, chunk["source"]))

    async def log_has(self, key, text):
        """Output arrives beside the events, so it is waited for."""

        async def there():
            found = await self.log(key)
            return found if text in found else None

        return await within(there, f"{self.id}/{key} wrote {text!r}")

    def summary(self):
        return short([f"{event['type']} {event['task'] or ''}".strip() for event in self.events][-30:], 3000)

    @staticmethod
    def tasks_summary(view):
        return {task["task"]: (task["state"], task["exit_code"], task["error"]) for task in view["tasks"]}


class Feed:
    """Everything from AMPHI_EVENTS, in order, as an ordinary consumer gets it."""

    def __init__(self):
        self.messages, self.by_epic, self.changed = [], {}, asyncio.Condition()

    async def open(self, connection):
        await connection.jetstream().subscribe("amphi.evt.>", ordered_consumer=True, cb=self._take)

    async def _take(self, message):
        body = json.loads(message.data)
        async with self.changed:
            self.messages.append((message.subject, dict(message.headers or {}), body))
            self.by_epic.setdefault(body["epic"], []).append(body)
            self.changed.notify_all()

    def of(self, epic):
        return self.by_epic.get(epic, [])

    async def until(self, question, what, deadline=None):
        async with self.changed:
            try:
                await asyncio.wait_for(self.changed.wait_for(lambda: question() is not None), deadline or DEADLINE)
            except asyncio.TimeoutError:
                raise AssertionError(f"not within {deadline or DEADLINE:.0f} s: {what()}") from None
            return question()


async def nothing_to_say(_error):
    pass


class Cluster:
    """A running cluster, a connection to it, and the feed of its events."""

    def __init__(self, folder, arguments=(), env=None):
        self.up, self.folder = Up(folder, arguments, env), folder
        self.connection, self.feed, self._numbers = None, Feed(), itertools.count(1)

    async def start(self):
        await self.up.start()
        await self.connect()
        return self

    async def connect(self):
        # A server that restarts is part of some tests; what matters of it shows in what they wait for.
        self.connection = await nats.connect(
            self.up.url, name="e2e", max_reconnect_attempts=-1, reconnect_time_wait=0.2, error_cb=nothing_to_say
        )
        await self.feed.open(self.connection)

    async def stop(self):
        if self.connection:
            await self.connection.close()
        return await self.up.stop()

    def name(self, word="t"):
        """A name that no other test of this cluster has."""
        return f"{word}-{next(self._numbers)}"

    def new_folder(self, word="work"):
        return tempfile.mkdtemp(prefix=f"{word}-", dir=self.folder)

    async def ask(self, subject, body=b"", headers=None, deadline=None):
        """One request; the raw reply."""
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        try:
            return await self.connection.request(subject, data, timeout=deadline or DEADLINE, headers=headers)
        except nats.errors.TimeoutError:
            raise AssertionError(f"no answer from {subject} within {deadline or DEADLINE:.0f} s to {short(data, 200)}") from None

    async def api(self, verb, body=b"", headers=None, deadline=None):
        """Asks `amphi.api.<verb>`; an error reply is raised as `Refused`."""
        reply = await self.ask(f"amphi.api.{verb}", body, headers, deadline)
        answer = json.loads(reply.data)
        if "Nats-Service-Error-Code" in (reply.headers or {}):
            raise Refused(verb, answer, reply.headers)
        return answer

    async def refused(self, verb, body, code, status=None, **how):
        """The request must be refused with this code."""
        try:
            answer = await self.api(verb, body, **how)
        except Refused as refused:
            assert refused.code == code, f"{verb} was refused with {refused.code}, wanted {code}: {refused}"
            assert status in (None, int(refused.status)), f"{verb}: status {refused.status}, wanted {status}"
            return refused
        raise AssertionError(f"{verb} {short(body)} was not refused but answered {short(answer)}")

    async def submit(self, tasks, *, inputs=None, id=None, **top):
        """Submits a document made of `tasks` and other top-level keys."""
        document = {"version": 1, "name": top.pop("name", None) or self.name(), **top, "tasks": tasks}
        envelope = {"document": document}
        if inputs is not None:
            envelope["inputs"] = inputs
        if id is not None:
            envelope["id"] = id
        return Epic(self, (await self.api("epic.submit", envelope))["epic"])

    async def run(self, tasks, wanted=None, **top):
        """Submits and waits for the end; gives the epic and its last view."""
        epic = await self.submit(tasks, **top)
        return epic, await epic.end(wanted)

    async def amphi(self, *arguments, env=None, **how):
        """The command line, pointed at this cluster."""
        return await command(*arguments, env=plain_environment(AMPHI_NATS_URL=self.up.url, **(env or {})), **how)

    def file(self, text, name="a.epic.yaml", folder=None):
        path = os.path.join(folder or self.new_folder("doc"), name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text if isinstance(text, str) else json.dumps(text))
        return path

    async def everything_holds(self):
        """Every epic that the tests left behind is over and verified; nothing that was accepted is lost."""
        epics, after = [], None
        while True:
            page = await self.api("epic.list", {"after": after, "limit": 1000})
            epics += page["epics"]
            after = page["next"]
            if after is None:
                break
        accepted = {event["epic"] for _, _, event in self.feed.messages if event["type"] == "epic.submitted"}
        same(accepted - {epic["epic"] for epic in epics}, set(), "accepted epics that are no longer there")
        for epic in epics:
            assert epic["state"] in ENDED | {"waiting"}, f"{epic['epic']} is still {epic['state']}: {epic['counts']}"
        for epic in epics[:: max(1, len(epics) // 12)]:
            verdict = await self.api("epic.verify", {"epic": epic["epic"]})
            assert verdict["ok"], f"{epic['epic']}: {short([law for law in verdict['laws'] if law['result'] == 'violated'])}"


async def in_its_own(c, work, arguments=()):
    """Gives `work` a cluster of its own, and ends that."""
    cluster = Cluster(tempfile.mkdtemp(prefix="own-", dir=c.folder), ["--capacity", "4", *arguments])
    try:
        await cluster.start()
        return await work(cluster)
    except Exception as error:
        raise AssertionError(f"{error}\n--- log of its own cluster\n{cluster.up.log(20)}") from error
    finally:
        await cluster.stop()


async def accepted(own, name):
    body = {"document": {"version": 1, "name": name, "tasks": {"a": {"run": "true"}}}, "id": name}
    try:
        return (await own.api("epic.submit", body, deadline=3))["epic"]
    except (AssertionError, Refused, nats.errors.Error, OSError):
        return None


async def ended(own, epic):
    try:
        return (await own.api("epic.get", {"epic": epic}, deadline=3))["state"] == "succeeded"
    except (AssertionError, Refused, nats.errors.Error, OSError):
        return None


# --- a server for http.check -------------------------------------------------------------------------------------------------------


class Answers(http.server.BaseHTTPRequestHandler):
    """`/200` answers 200, `/503` answers 503, and so on."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(int(self.path.rsplit("/", 1)[-1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def web_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


# --- running tests -----------------------------------------------------------------------------------------------------------------


class Tally:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def note(self, name, seconds, error=None):
        if error is None:
            self.passed += 1
            print(f"ok      {name}  ({seconds:.1f} s)", flush=True)
            return
        self.failed += 1
        print(f"FAILED  {name}  ({seconds:.1f} s)", flush=True)
        text = "".join(traceback.format_exception(error)) if not isinstance(error, AssertionError) else place_and_words(error)
        print("\n".join(f"    {line}" for line in text.rstrip().splitlines()), flush=True)


def place_and_words(error):
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)]
    where = " < ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in reversed(frames))
    return f"{where}\n{error or (frames[-1].line if frames else '')}"


async def one(tally, name, test, *arguments, deadline=180):
    began = time.monotonic()
    try:
        await asyncio.wait_for(test(*arguments), deadline)
    except asyncio.TimeoutError:
        tally.note(name, time.monotonic() - began, AssertionError(f"the test did not end within {deadline} s"))
    except Exception as error:  # every failure of a test is one line and its reason
        tally.note(name, time.monotonic() - began, error)
    else:
        tally.note(name, time.monotonic() - began)


def alone(test):
    """Marks a test that must have the cluster to itself: it runs after the others, one at a time."""
    test.is_alone = True
    return test


async def run_file(tests, arguments, env, shared, prepare):
    tally = Tally()
    folder = tempfile.mkdtemp(prefix="amphi-e2e-")
    if prepare:
        prepare(folder)
    cluster = Cluster(folder, arguments, env) if shared else None
    try:
        try:
            if cluster:
                await cluster.start()
            free = asyncio.Semaphore(SIDE_BY_SIDE)

            async def bounded(name, test):
                async with free:
                    await one(tally, name, test, *filter(None, [cluster]))

            at_once = [(name, test) for name, test in tests if not getattr(test, "is_alone", False)]
            await asyncio.gather(*(bounded(name, test) for name, test in at_once))
            for name, test in tests:
                if getattr(test, "is_alone", False):
                    await one(tally, name, test, *filter(None, [cluster]))
            if cluster:
                await one(tally, "afterwards_every_epic_is_over_and_verified", cluster.everything_holds)
        finally:
            if cluster:
                await one(tally, "afterwards_up_ends_with_0_and_leaves_no_process", ends_clean, cluster)
    except Exception as error:
        tally.note("the cluster can be used", 0, error)
    left = descendants(os.getpid())
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if tally.failed:
        keep = f"{folder}.log"
        if cluster:
            print(f"--- the end of the log of `amphi up` (all of it: {keep})\n{cluster.up.log()}", flush=True)
            with contextlib.suppress(OSError):
                shutil.copy(cluster.up.log_file, keep)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{tally.passed} passed, {tally.failed} failed", flush=True)
    return 1 if tally.failed else 0


async def ends_clean(cluster):
    code = await cluster.stop()
    same(code, 0, "exit code of `amphi up` after SIGTERM")
    await nothing_left()


async def nothing_left(deadline=15):
    """No process below this one, orphans included."""

    def gone():
        return True if not descendants(os.getpid()) else None

    try:
        await within(gone, "all processes are gone", deadline)
    except AssertionError:
        left = {pid: command_line(pid) for pid in descendants(os.getpid())}
        raise AssertionError(f"processes are left: {short(left)}") from None


def main(module, arguments=("--capacity", "12"), env=None, shared=True, prepare=None):
    """Runs the file's tests; arguments of the command line choose some by parts of their names. `prepare` fills the folder in which `up`
    will run."""
    adopt_orphans()
    chosen = sys.argv[1:]
    tests = [(name[len("test_"):], test) for name, test in vars(sys.modules[module]).items() if name.startswith("test_") and callable(test)]
    tests = [(name, test) for name, test in tests if not chosen or any(part in name for part in chosen)]
    sys.exit(asyncio.run(run_file(tests, arguments, env, shared, prepare)))


__all__ = [name for name in dir() if not name.startswith("_")] + ["NoRespondersError"]
