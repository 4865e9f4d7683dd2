"""The pages, from what the API says."""
from html import escape

STYLE = "body{font:16px/1.5 system-ui;max-width:46em;margin:3em auto}td,th{padding:.2em 1em .2em 0;text-align:left}"


def page(title, body):
    return f"<!doctype html><html lang=en><title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{body}</html>\n"


def table(heads, rows):
    lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    return f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def money(cents, currency="EUR"):
    return f"{cents // 100}.{cents % 100:02} {currency}"


def front(version, products, orders, stats, config):
    names, currency = {product["id"]: product["name"] for product in products}, config.get("currency", "EUR")
    body = f"<p id=revenue>Sold for {money(stats['revenue_cents'], currency)} in {stats['orders']} orders</p>"
    body += table(["Product", "Price"], [(product["name"], money(product["price_cents"], currency)) for product in products])
    rows = [(o["id"], o["customer"], names.get(o["product_id"], "no longer sold"), o["quantity"], total(o, currency)) for o in orders]
    body += "<h2>Latest orders</h2>" + table(["No.", "Customer", "Product", "Pieces", "Total"], rows)
    return page(f"Shop {version}", body)


def total(order, currency):
    return "-" if order["total_cents"] is None else money(order["total_cents"], currency)


def receipt(version, order, product, config):
    cost = total(order, config.get("currency", "EUR"))
    return page(f"Shop {version}", f"<p>Order {order['id']}: {order['quantity']} x {escape(product)} for {escape(order['customer'])}, {cost}</p>")
