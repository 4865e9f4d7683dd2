"""Release 2 knows what an order costs, also one that release 1 took."""
import tempfile
import unittest

from shop import pages, schema
from shop.store import Store
from shop.totals import TotalsStore
from tests.unit.test_store import empty_shop


def migrated(path, **how):
    database = schema.connect(path)
    try:
        for migration in schema.pending(database):
            schema.Run(database, token=1, say=lambda _: None, **how).apply(migration)
    finally:
        database.close()


class Totals(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.paths = empty_shop(folder.name, up_to=1)
        self.old, self.new = Store(*self.paths), TotalsStore(*self.paths)

    def test_orders_from_before_get_their_totals(self):
        for number in range(25):
            self.old.place(f"k-{number}", "Ann", 2, 2)
        migrated(self.paths[0], batch=10)
        self.assertEqual(self.new.stats(), {"orders": 25, "pieces": 50, "revenue_cents": 25 * 2 * 1250})

    def test_release_1_may_go_on_after_the_migration(self):
        migrated(self.paths[0])
        self.old.place("k-1", "Bob", 1, 2)
        self.assertEqual(self.new.order("k-1")[0]["total_cents"], 9800)

    def test_customers_come_by_what_they_spent(self):
        migrated(self.paths[0])
        for key, customer, product in [("a", "Ann", 4), ("b", "Bob", 5), ("c", "Ann", 4)]:
            self.new.place(key, customer, product, 1)
        self.assertEqual([(c["customer"], c["orders"], c["spent_cents"]) for c in self.new.customers(9)], [("Bob", 1, 32500), ("Ann", 2, 1580)])

    def test_an_order_without_a_price_stops_the_migration(self):
        self.old.place("k-1", "Ann", 4, 1)
        database = schema.connect(self.paths[0])
        database.execute("DELETE FROM products WHERE id = 4")
        database.close()
        with self.assertRaises(schema.MigrationError):
            migrated(self.paths[0])

    def test_the_page_shows_the_revenue_in_the_configured_currency(self):
        stats = {"orders": 2, "pieces": 2, "revenue_cents": 12345}
        self.assertIn("Sold for 123.45 EUR in 2 orders", pages.front("2.0.0", [], [], stats, {}))
        self.assertIn("Sold for 123.45 CHF in 2 orders", pages.front("2.0.0", [], [], stats, {"currency": "CHF"}))


if __name__ == "__main__":
    unittest.main()
