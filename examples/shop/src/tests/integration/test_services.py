"""Both processes together, over a real database and real ports."""
import os
import tempfile
import unittest

from shop import PACKAGE, VERSION
from tests.services import Process
from tests.unit.test_store import empty_shop


class Services(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.database, self.log = empty_shop(folder.name)
        self.api = Process("api", "--database", self.database, "--orders-log", self.log)
        self.addCleanup(self.api.end)
        self.web = Process("web", "--api", self.api.url)
        self.addCleanup(self.web.end)

    def test_both_are_healthy_and_say_their_release(self):
        api, web = self.api.until_healthy(), self.web.until_healthy()
        self.assertEqual((api["version"], api["schema"], web["version"]), (VERSION, PACKAGE["schema"], VERSION))

    def test_an_order_over_the_api_is_on_the_page(self):
        wanted = {"key": "i-1", "customer": "Dora", "product_id": 1, "quantity": 2}
        code, answer = self.api.post("orders", wanted)
        self.assertEqual((code, answer["order"]["customer"]), (201, "Dora"))
        self.assertEqual(self.api.post("orders", wanted)[0], 200)
        code, text = self.web.get("")
        self.assertEqual(code, 200)
        self.assertIn("Dora", text)
        code, text = self.web.get("order/i-1")
        self.assertEqual(code, 200)
        self.assertIn("2 x Amphora for Dora", text)
        self.assertEqual(self.web.get("order/unknown")[0], 404)

    def test_wrong_requests_are_answered(self):
        self.assertEqual(self.api.post("orders", {"key": "x"})[0], 400)
        self.assertEqual(self.api.get("orders/unknown")[0], 404)
        self.assertEqual(self.api.get("nothing")[0], 404)

    def test_without_the_api_the_web_is_unhealthy(self):
        self.api.end()
        code, answer = self.web.get("health")
        self.assertEqual((code, answer["status"]), (503, "unhealthy"))
        self.assertEqual(self.web.get("")[0], 502)


class Health(unittest.TestCase):
    def test_an_api_over_an_old_schema_is_unhealthy(self):
        with tempfile.TemporaryDirectory() as folder:
            database, log = empty_shop(folder, up_to=PACKAGE["schema"] - 1)
            api = Process("api", "--database", database, "--orders-log", log)
            try:
                self.assertEqual(api.get("health")[0], 503)
            finally:
                api.end()
            self.assertFalse(os.path.exists(log))


if __name__ == "__main__":
    unittest.main()
