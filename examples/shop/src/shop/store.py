"""Orders and products in SQLite. Every accepted order also stands in an order log, written and synced inside its transaction: a snapshot
plus the log is every order that was ever answered for.
"""
import json
import os
import time

from . import schema
from .server import Refused

QUANTITY_MAX = 100


class Store:
    """Opens the database for each piece of work: SQLite's own locks are between processes, ours would only be between threads."""

    COLUMNS = "id, key, customer, product_id, quantity, placed_at"

    def __init__(self, path, log):
        self.path, self.log = path, log

    def read(self, query, *values):
        database = schema.connect(self.path)
        try:
            cursor = database.execute(query, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]
        finally:
            database.close()

    def schema(self):
        database = schema.connect(self.path)
        try:
            return schema.version(database)
        finally:
            database.close()

    def products(self):
        return self.read("SELECT id, name, price_cents FROM products ORDER BY id")

    def orders(self, limit):
        return self.read(f"SELECT {self.COLUMNS} FROM orders ORDER BY id DESC LIMIT ?", limit)

    def order(self, key):
        return self.read(f"SELECT {self.COLUMNS} FROM orders WHERE key = ?", key)

    def stats(self):
        return self.read("SELECT count(*) AS orders, coalesce(sum(quantity), 0) AS pieces FROM orders")[0]

    def place(self, key, customer, product, quantity):
        """Places an order, or finds the one with this key. Returns it and whether it is new."""
        database = schema.connect(self.path)
        try:
            database.execute("BEGIN IMMEDIATE")
            is_new = database.execute("SELECT 1 FROM orders WHERE key = ?", (key,)).fetchone() is None
            if is_new:
                if database.execute("SELECT 1 FROM products WHERE id = ?", (product,)).fetchone() is None:
                    raise Refused(400, f"there is no product {product}")
                row = (key, customer, product, quantity, time.time())
                number = database.execute(
                    "INSERT INTO orders (key, customer, product_id, quantity, placed_at) VALUES (?, ?, ?, ?, ?)", row
                ).lastrowid
                self.write_down(number, *row)
            database.execute("COMMIT")
        finally:
            database.close()  # rolls back what was not committed
        return self.order(key)[0], is_new

    def write_down(self, number, key, customer, product, quantity, placed_at):
        line = json.dumps({"id": number, "key": key, "customer": customer, "product_id": product, "quantity": quantity, "placed_at": placed_at})
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)


def checked(body):
    """Key, customer, product and quantity of a wanted order."""
    if not isinstance(body, dict):
        raise Refused(400, "an order is an object")
    key, customer, product, quantity = (body.get(name) for name in ("key", "customer", "product_id", "quantity"))
    if not all(isinstance(text, str) and 0 < len(text) <= 100 for text in (key, customer)):
        raise Refused(400, "`key` and `customer` are texts of 1 to 100 characters")
    if not isinstance(product, int) or not isinstance(quantity, int) or not 0 < quantity <= QUANTITY_MAX:
        raise Refused(400, f"`product_id` is a number, `quantity` one of 1 to {QUANTITY_MAX}")
    return key, customer, product, quantity
