"""The two services as processes, for tests: the built artifacts if the environment names them, else the source."""
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

DEADLINE = 20


class Process:
    def __init__(self, name, *arguments):
        built = os.environ.get(f"SHOP_{name.upper()}")
        program = [built] if built else ["-m", f"shop.{name}"]
        self.process = subprocess.Popen([sys.executable, *program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"{name} ended with {self.process.wait()} before it said its port")
        self.url = f"http://127.0.0.1:{json.loads(line)['port']}"

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def get(self, path):
        return ask(f"{self.url}/{path}")

    def post(self, path, body):
        return ask(urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), method="POST"))

    def until_healthy(self):
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            code, answer = self.get("health")
            if code == 200:
                return answer
            time.sleep(0.05)
        raise AssertionError(f"{self.url} is not healthy: {answer}")


def ask(request):
    """Status and answer; JSON where it is JSON."""
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            code, kind, text = answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        code, kind, text = error.code, error.headers["Content-Type"], error.read().decode()
    return code, json.loads(text) if kind.startswith("application/json") else text
