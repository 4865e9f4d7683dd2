"""A customer's way through the shop, as a browser and the API see it."""
import tempfile
import unittest

from tests.services import Process
from tests.unit.test_store import empty_shop


class Journey(unittest.TestCase):
    def test_from_the_products_to_the_order_on_the_page(self):
        with tempfile.TemporaryDirectory() as folder:
            database, log = empty_shop(folder)
            api = Process("api", "--database", database, "--orders-log", log)
            web = Process("web", "--api", api.url)
            try:
                web.until_healthy()
                products = api.get("products")[1]["products"]
                for product in products:
                    order = {"key": f"journey-{product['id']}", "customer": "Eve", "product_id": product["id"], "quantity": 1}
                    self.assertEqual(api.post("orders", order)[0], 201)
                page = web.get("")[1]
                for product in products:
                    self.assertIn(product["name"], page)
                self.assertEqual(page.count("<td>Eve</td>"), len(products))
                self.assertEqual(api.get("stats")[1]["orders"], len(products))
                self.assertIn('shop_requests_total{code="201"} 5', api.get("metrics")[1])
            finally:
                web.end()
                api.end()


if __name__ == "__main__":
    unittest.main()
