"""Where everything of the shop is, and how the ops scripts talk: outputs to the task, words to its log, requests to the service host."""
import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The source as it is checked out, and what production has.
SOURCE, VAR = ROOT / "source", ROOT / "var"
DATABASE, ORDERS_LOG = VAR / "db/shop.db", VAR / "db/orders.log"
BACKUPS, RELEASES, LOGS = VAR / "backups", VAR / "releases", VAR / "log"
CONFIG, SERVICES, HOST = VAR / "production.json", ROOT / "services.json", VAR / "host.json"
SERVICE_NAMES = ("api", "web")
ANSWER_TIMEOUT = 60


def fail(text):
    print(text, file=sys.stderr, flush=True)
    sys.exit(1)


def say(text):
    print(text, flush=True)


def output(**values):
    """Outputs of the task that this runs in; shown too."""
    lines = [f"{name}={value}" for name, value in values.items()]
    if os.environ.get("AMPHI_OUTPUT"):
        with open(os.environ["AMPHI_OUTPUT"], "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    say("  ".join(lines))


def artifacts():
    """Where a task leaves files for those after it."""
    return Path(os.environ["AMPHI_ARTIFACTS"])


def artifact(service, version):
    """The built artifact, from the task that built it."""
    return Path(os.environ["AMPHI_INPUTS"]) / f"compile_{service}" / f"shop-{service}-{version}.pyz"


def token():
    """The fencing token: who holds a lock now has a higher one than whoever held it before."""
    return int(os.environ.get("AMPHI_FENCING_TOKEN", "0"))


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write(path, text):
    """All or nothing: a reader sees the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def read_json(path, otherwise=None):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return otherwise


def ask(url, body=None, timeout=ANSWER_TIMEOUT):
    """Status and answer of a request; JSON where it is JSON. No answer at all is status 0."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, method="GET" if body is None else "POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            code, kind, text = answer.status, answer.headers["Content-Type"] or "", answer.read().decode()
    except urllib.error.HTTPError as error:
        code, kind, text = error.code, error.headers["Content-Type"] or "", error.read().decode()
    except (OSError, ValueError) as error:
        return 0, {"error": str(error)}
    return code, json.loads(text) if kind.startswith("application/json") else text


def host(path, body=None):
    """Asks the service host."""
    known = read_json(HOST)
    if known is None:
        fail("the service host does not run: there is no var/host.json")
    return ask(f"{known['control']}/{path}", None if body is None else {**body, "secret": known["secret"]})


def public_url(service):
    """Where customers reach a service."""
    return read_json(HOST)[service]
