"""smoke.py VERSION: the new release, as customers reach it: both services, an order all the way to the page."""
import os
import sys
import urllib.parse

import place


def expect(what, holds, found):
    if not holds:
        place.fail(f"{what}: found {found!r}")
    place.say(f"ok  {what}")


def main(version):
    api, web = place.public_url("api"), place.public_url("web")
    for url in (api, web):
        code, answer = place.ask(f"{url}/health")
        expect(f"{answer.get('service')} is {version} and healthy", code == 200 and answer["version"] == version, answer)
    customer = f"Smoke test of {version}"
    order = {"key": f"smoke-{os.environ['AMPHI_IDEMPOTENCY_KEY']}"[:100], "customer": customer, "product_id": 2, "quantity": 3}
    code, answer = place.ask(f"{api}/orders", order)
    expect("an order is taken", code in (200, 201) and answer["order"]["customer"] == customer, answer)
    expect("asking again orders nothing more", place.ask(f"{api}/orders", order)[0] == 200, answer)
    code, page = place.ask(f"{web}/")
    expect("the page is of this release", code == 200 and f"<h1>Shop {version}</h1>" in page, page)
    code, page = place.ask(f"{web}/order/{urllib.parse.quote(order['key'])}")
    expect("the order has a page", code == 200 and customer in page, page)
    if version != "1.0.0":
        expect("the order has its total", answer["order"].get("total_cents") == 3 * 1250, answer)
        expect("the page shows it in euros", "37.50 EUR" in page and "37.50 EURO" not in page, page)
    place.output(order=answer["order"]["id"])


if __name__ == "__main__":
    main(sys.argv[1])
