"""What both services share: an HTTP server on loopback that routes, answers JSON or HTML, counts, and ends when its parent is gone."""
import http.server
import json
import os
import sys
import threading
import urllib.parse

BODY_BYTES_MAX = 64 * 1024


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Counters:
    """Requests of customers by status code, in Prometheus' words."""

    def __init__(self):
        self._lock, self._codes = threading.Lock(), {}

    def count(self, code):
        with self._lock:
            self._codes[code] = self._codes.get(code, 0) + 1

    def text(self):
        with self._lock:
            lines = [f'shop_requests_total{{code="{code}"}} {count}' for code, count in sorted(self._codes.items())]
        return "# TYPE shop_requests_total counter\n" + "\n".join(lines) + "\n"


class Handler(http.server.BaseHTTPRequestHandler):
    """Looks up `(method, first part of the path)` in the server's routes; a route takes the rest of the path, the query and the body."""

    timeout = 10

    def do_GET(self):
        self.answer(None)

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_BYTES_MAX:
            self.send(413, {"error": "the body is too large"})
            return
        try:
            self.answer(json.loads(self.rfile.read(length) or b"{}"))
        except ValueError:
            self.send(400, {"error": "the body is not JSON"})

    def answer(self, body):
        url = urllib.parse.urlsplit(self.path)
        first, _, rest = url.path.strip("/").partition("/")
        try:
            if (self.command, first) == ("GET", "metrics"):
                self.send(200, self.server.counters.text())
                return
            route = self.server.routes.get((self.command, first))
            if route is None:
                raise Refused(404, "there is nothing here")
            status, answer = route(rest, dict(urllib.parse.parse_qsl(url.query)), body)
        except Refused as refused:
            status, answer = refused.status, {"error": str(refused)}
        except Exception as error:  # a bug or a broken database is an answer too
            print(f"{self.command} {self.path}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            status, answer = 500, {"error": f"{type(error).__name__}: {error}"}
        self.send(status, answer)

    def send(self, status, answer):
        kind, text = ("text/html" if isinstance(answer, str) else "application/json"), answer if isinstance(answer, str) else json.dumps(answer)
        body = text.encode()
        if not self.path.startswith(("/health", "/metrics")):
            self.server.counters.count(status)
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, routes, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.routes, self.counters = routes, Counters()

    def handle_error(self, request, client_address):
        pass  # a client that went away


def serve(server):
    """Tells the port on standard output and serves until standard input ends: whoever started this is gone then, or wants it to end."""
    print(json.dumps({"port": server.server_port}), flush=True)

    def watch():
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    server.serve_forever()
