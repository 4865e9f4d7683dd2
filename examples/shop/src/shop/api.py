"""The API process: products, orders, health."""
import argparse

from . import PACKAGE, VERSION
from .server import Refused, Server, serve
from .store import Store, checked

LIST_MAX = 500


class Api:
    def __init__(self, store):
        self.store = store

    def routes(self):
        return {
            ("GET", "health"): self.health,
            ("GET", "products"): lambda *_: (200, {"products": self.store.products()}),
            ("GET", "orders"): self.orders,
            ("POST", "orders"): self.place,
            ("GET", "stats"): lambda *_: (200, self.store.stats()),
        }

    def problems(self):
        schema = self.store.schema()
        return [] if (schema or 0) >= PACKAGE["schema"] else [f"the database has schema {schema}, {PACKAGE['schema']} is needed"]

    def health(self, *_):
        problems = self.problems()
        answer = {"service": "api", "version": VERSION, "schema": self.store.schema(), "status": "unhealthy" if problems else "ok"}
        return (503, {**answer, "problems": problems}) if problems else (200, answer)

    def orders(self, key, query, _):
        if key:
            found = self.store.order(key)
            if not found:
                raise Refused(404, f"there is no order `{key}`")
            return 200, {"order": found[0]}
        return 200, {"orders": self.store.orders(min(int(query.get("limit", "20")), LIST_MAX))}

    def place(self, _, __, body):
        order, is_new = self.store.place(*checked(body))
        return 201 if is_new else 200, {"order": order, "version": VERSION}


def main():
    parser = argparse.ArgumentParser(prog="shop-api")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--database", required=True)
    parser.add_argument("--orders-log", required=True)
    parser.add_argument("--config", help="production's own settings; this release reads none")
    arguments = parser.parse_args()
    serve(Server(Api(Store(arguments.database, arguments.orders_log)).routes(), arguments.port))


if __name__ == "__main__":
    main()
