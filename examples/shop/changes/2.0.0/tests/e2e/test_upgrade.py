"""The upgrade as production sees it: release 2 over data of release 1, migrated while orders come in."""
import tempfile
import threading
import unittest

from shop import schema
from shop.store import Store
from tests.services import Process
from tests.unit.test_store import empty_shop


class Upgrade(unittest.TestCase):
    def test_no_order_is_lost_and_each_has_its_total(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = empty_shop(folder, up_to=1)
            old, ended = Store(*paths), threading.Event()
            for number in range(20):
                old.place(f"before-{number}", "Ann", 1, 1)

            def customers():
                number = 0
                while not ended.is_set():
                    old.place(f"meanwhile-{number}", "Bob", 2, 1)
                    number += 1
                    ended.wait(0.01)

            thread = threading.Thread(target=customers)
            thread.start()
            try:
                database = schema.connect(paths[0])
                for migration in schema.pending(database):
                    schema.Run(database, token=1, pause=0.01, say=lambda _: None).apply(migration)
                database.close()
            finally:
                ended.set()
                thread.join()
            api = Process("api", "--database", paths[0], "--orders-log", paths[1])
            try:
                self.assertEqual(api.until_healthy()["schema"], 2)
                spent = {c["customer"]: c["spent_cents"] for c in api.get("customers")[1]["customers"]}
                bobs = old.stats()["orders"] - 20
                self.assertEqual(spent["Ann"], 20 * 4900)
                self.assertEqual(spent.get("Bob", 0), bobs * 1250)
            finally:
                api.end()


if __name__ == "__main__":
    unittest.main()
