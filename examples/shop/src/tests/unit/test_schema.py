"""Migrations are applied once, go on where they were, and belong to the newest holder of the lock."""
import os
import tempfile
import unittest

from shop import PACKAGE, schema


class Migrations(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.database = schema.connect(os.path.join(folder.name, "shop.db"))
        self.addCleanup(self.database.close)
        schema.prepare(self.database)
        self.run_with = lambda token, **how: schema.Run(self.database, token=token, say=lambda _: None, **how)

    def apply_all(self, token=1):
        for migration in schema.pending(self.database):
            self.run_with(token).apply(migration)

    def test_all_of_them_lead_to_the_schema_of_the_release(self):
        self.assertEqual(schema.version(self.database), 0)
        self.apply_all()
        self.assertEqual(schema.version(self.database), PACKAGE["schema"])
        self.assertEqual(schema.pending(self.database), [])

    def test_one_that_was_interrupted_goes_on(self):
        class Killed(Exception):
            pass

        def die(_):
            raise Killed

        first = schema.pending(self.database)[0]
        with self.assertRaises(Killed):
            schema.Run(self.database, token=1, say=die).apply(first)
        self.assertEqual(schema.version(self.database), 0)
        self.apply_all(token=2)
        self.assertEqual(schema.version(self.database), PACKAGE["schema"])

    def test_an_older_holder_is_refused(self):
        self.run_with(7).apply(schema.pending(self.database)[0])
        with self.assertRaises(schema.MigrationError):
            self.run_with(6).apply(schema.migrations()[0])

    def test_a_file_that_changed_after_it_was_begun_is_refused(self):
        first = schema.pending(self.database)[0]
        self.run_with(1).apply(first)
        first.checksum = "another"
        with self.assertRaises(schema.MigrationError):
            self.run_with(1).apply(first)


if __name__ == "__main__":
    unittest.main()
