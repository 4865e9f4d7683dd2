"""The web process: HTML made of what the API says. It has no database."""
import argparse
import json
import urllib.error
import urllib.parse
import urllib.request

from . import PACKAGE, VERSION, pages
from .server import Refused, Server, serve

API_TIMEOUT = 5
ORDERS_SHOWN = 10


class Web:
    def __init__(self, api, config):
        self.api, self.config = api.rstrip("/"), config

    def routes(self):
        return {("GET", ""): self.front, ("GET", "order"): self.order, ("GET", "health"): self.health}

    def ask(self, path):
        try:
            with urllib.request.urlopen(f"{self.api}/{path}", timeout=API_TIMEOUT) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(404 if error.code == 404 else 502, f"the API answers {error.code} to /{path}") from None
        except OSError as error:
            raise Refused(502, f"the API does not answer: {error}") from None

    def problems(self):
        try:
            api = self.ask("health")
        except Refused as refused:
            return [str(refused)]
        major = int(api["version"].split(".")[0])
        return [] if major >= PACKAGE["needs_api"] else [f"the API is {api['version']}, {PACKAGE['needs_api']}.x is needed"]

    def health(self, *_):
        problems = self.problems()
        answer = {"service": "web", "version": VERSION, "status": "unhealthy" if problems else "ok"}
        return (503, {**answer, "problems": problems}) if problems else (200, answer)

    def front(self, *_):
        products, stats = self.ask("products")["products"], self.ask("stats")
        return 200, pages.front(VERSION, products, self.ask(f"orders?limit={ORDERS_SHOWN}")["orders"], stats, self.config)

    def order(self, key, *_):
        order = self.ask(f"orders/{urllib.parse.quote(key)}")["order"]
        names = {product["id"]: product["name"] for product in self.ask("products")["products"]}
        return 200, pages.receipt(VERSION, order, names.get(order["product_id"], "no longer sold"), self.config)


def main():
    parser = argparse.ArgumentParser(prog="shop-web")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api", required=True, help="its URL")
    parser.add_argument("--config", help="production's own settings, a JSON file")
    arguments = parser.parse_args()
    config = {}
    if arguments.config:
        with open(arguments.config, encoding="utf-8") as file:
            config = json.load(file)
    serve(Server(Web(arguments.api, config).routes(), arguments.port))


if __name__ == "__main__":
    main()
