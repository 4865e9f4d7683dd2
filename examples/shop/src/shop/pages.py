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


def front(version, products, orders, stats, _config):
    names = {product["id"]: product["name"] for product in products}
    rows = [(o["id"], o["customer"], names.get(o["product_id"], "no longer sold"), o["quantity"]) for o in orders]
    body = table(["Product", "Price"], [(product["name"], money(product["price_cents"])) for product in products])
    body += f"<h2>{stats['orders']} orders</h2>" + table(["No.", "Customer", "Product", "Pieces"], rows)
    return page(f"Shop {version}", body)


def receipt(version, order, product, _config):
    return page(f"Shop {version}", f"<p>Order {order['id']}: {order['quantity']} x {escape(product)} for {escape(order['customer'])}</p>")
