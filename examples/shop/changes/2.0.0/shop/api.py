"""The API process: products, orders with what they cost, customers, health."""
import argparse
import json
import os
import shutil

from . import PACKAGE, VERSION
from .server import Refused, Server, serve
from .store import checked
from .totals import TotalsStore

LIST_MAX = 500


class Api:
    def __init__(self, store, config):
        self.store, self.config = store, config

    def routes(self):
        return {
            ("GET", "health"): self.health,
            ("GET", "products"): lambda *_: (200, {"products": self.store.products()}),
            ("GET", "orders"): self.orders,
            ("POST", "orders"): self.place,
            ("GET", "customers"): lambda *_: (200, {"customers": self.store.customers(20)}),
            ("GET", "stats"): lambda *_: (200, self.store.stats()),
        }

    def problems(self):
        schema, wanted = self.store.schema(), self.config.get("disk_free_mb_min", 1)
        problems = [] if (schema or 0) >= PACKAGE["schema"] else [f"the database has schema {schema}, {PACKAGE['schema']} is needed"]
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(self.store.path))).free // 2**20
        return problems if free >= wanted else [*problems, f"{free} MB of disk are free, the configuration demands {wanted}"]

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
    parser.add_argument("--config", help="production's own settings, a JSON file")
    arguments = parser.parse_args()
    config = {}
    if arguments.config:
        with open(arguments.config, encoding="utf-8") as file:
            config = json.load(file)
    serve(Server(Api(TotalsStore(arguments.database, arguments.orders_log), config).routes(), arguments.port))


if __name__ == "__main__":
    main()
