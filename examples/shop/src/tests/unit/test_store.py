"""Orders are kept once, and written down before they are answered for."""
import functools
import json
import os
import tempfile
import unittest

from shop import schema
from shop.server import Refused
from shop.store import Store, checked


@functools.lru_cache(maxsize=None)
def migrated(up_to):
    """The bytes of a database with the migrations up to this one."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "shop.db")
        database = schema.connect(path)
        schema.prepare(database)
        run = schema.Run(database, say=lambda _: None)
        for migration in schema.pending(database):
            if up_to is None or migration.version <= up_to:
                run.apply(migration)
        database.close()
        with open(path, "rb") as file:
            return file.read()


def empty_shop(folder, up_to=None):
    """A migrated database in `folder`; gives the paths of database and order log."""
    path = os.path.join(folder, "shop.db")
    with open(path, "wb") as file:
        file.write(migrated(up_to))
    return path, os.path.join(folder, "orders.log")


class Orders(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path, self.log = empty_shop(folder.name)
        self.store = Store(path, self.log)

    def test_an_order_is_there_after_it_was_placed(self):
        order, is_new = self.store.place("k-1", "Ann", 2, 3)
        self.assertTrue(is_new)
        self.assertEqual((order["customer"], order["quantity"]), ("Ann", 3))
        self.assertEqual(self.store.stats()["orders"], 1)

    def test_the_same_key_orders_once(self):
        first, _ = self.store.place("k-1", "Ann", 2, 3)
        again, is_new = self.store.place("k-1", "Ann", 2, 3)
        self.assertFalse(is_new)
        self.assertEqual(first["id"], again["id"])

    def test_what_is_not_sold_cannot_be_ordered(self):
        with self.assertRaises(Refused):
            self.store.place("k-1", "Ann", 99, 1)
        self.assertEqual(self.store.stats()["orders"], 0)

    def test_each_order_is_written_down(self):
        for key in ("k-1", "k-2", "k-1"):
            self.store.place(key, "Bob", 1, 1)
        with open(self.log, encoding="utf-8") as log:
            self.assertEqual([json.loads(line)["key"] for line in log], ["k-1", "k-2"])

    def test_wrong_orders_are_refused(self):
        good = {"key": "k", "customer": "Cid", "product_id": 1, "quantity": 1}
        self.assertEqual(checked(good), ("k", "Cid", 1, 1))
        for name, value in [("key", ""), ("customer", None), ("product_id", "1"), ("quantity", 0), ("quantity", 101)]:
            with self.assertRaises(Refused):
                checked({**good, name: value})
        with self.assertRaises(Refused):
            checked([])


if __name__ == "__main__":
    unittest.main()
