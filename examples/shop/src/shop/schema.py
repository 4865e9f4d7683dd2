"""Migrations: numbered SQL files of steps. Each step, and each batch of a step, is a transaction of its own, so that production goes on
meanwhile and a migration that was killed goes on where it was.

A file is divided by comments: `-- once` runs its statement once; `-- batches: SELECT …` repeats its statement, `:batch` rows at a time,
until the query counts no row that is left.
"""
import hashlib
import os
import pkgutil
import re
import sqlite3
import time

from . import PACKAGE

BATCH = 5
TABLES = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, steps_done INTEGER NOT NULL, applied_at REAL);
CREATE TABLE IF NOT EXISTS schema_fence (one INTEGER PRIMARY KEY CHECK (one = 1), token INTEGER NOT NULL);
INSERT OR IGNORE INTO schema_fence VALUES (1, 0);
"""


class MigrationError(Exception):
    """The migration cannot go on. What its finished steps did is still there."""


def connect(path):
    """A connection that begins its transactions itself."""
    database = sqlite3.connect(path, timeout=30, isolation_level=None)
    if os.environ.get("SHOP_NO_SYNC"):  # for tests, whose data may die with the machine
        database.execute("PRAGMA synchronous = OFF")
    return database


def prepare(database):
    """Makes the tables that remember migrations; everything else comes from migrations."""
    if version(database) is None:
        database.executescript(f"BEGIN IMMEDIATE; {TABLES} COMMIT;")


def version(database):
    """The number of the last whole migration; `None` if the database does not know migrations yet."""
    try:
        return database.execute("SELECT coalesce(max(version), 0) FROM schema_migrations WHERE applied_at IS NOT NULL").fetchone()[0]
    except sqlite3.OperationalError:
        return None


class Migration:
    """One file."""

    def __init__(self, name):
        text = pkgutil.get_data(__package__, f"migrations/{name}").decode()
        self.name, self.version, self.checksum = name, int(name.split("_")[0]), hashlib.sha256(text.encode()).hexdigest()
        parts = re.split(r"^-- (once|batches: .*)$", text, flags=re.MULTILINE)[1:]
        # Pairs of how and what.
        self.steps = [(how.partition(": ")[2] or None, statement.strip()) for how, statement in zip(parts[::2], parts[1::2])]


def migrations():
    return [Migration(name) for name in PACKAGE["migrations"]]


def pending(database):
    now = version(database) or 0
    return [migration for migration in migrations() if migration.version > now]


class Run:
    """Applies migrations for the holder of `token`. A holder with a lower one is refused in the database itself."""

    def __init__(self, database, token=0, batch=BATCH, pause=0.0, say=print):
        self.database, self.token, self.batch, self.pause, self.say = database, token, batch, pause, say

    def apply(self, migration):
        with Transaction(self, "begin"):
            found = self.database.execute("SELECT checksum FROM schema_migrations WHERE version = ?", (migration.version,)).fetchone()
            if found and found[0] != migration.checksum:
                raise MigrationError(f"{migration.name} was begun with another content")
            if not found:
                self.database.execute(
                    "INSERT INTO schema_migrations VALUES (?, ?, ?, 0, NULL)", (migration.version, migration.name, migration.checksum)
                )
        done = self.database.execute("SELECT steps_done FROM schema_migrations WHERE version = ?", (migration.version,)).fetchone()[0]
        if done:
            self.say(f"{migration.name}: going on after step {done}")
        for number, (left, statement) in enumerate(migration.steps[done:], done + 1):
            name = f"{migration.name} step {number} of {len(migration.steps)}"
            if left:
                self.batches(name, left, statement)
            with Transaction(self, name):
                if not left:
                    self.database.execute(statement)
                self.database.execute("UPDATE schema_migrations SET steps_done = ? WHERE version = ?", (number, migration.version))
            self.say(f"{name}: done")
        with Transaction(self, "end"):
            self.database.execute("UPDATE schema_migrations SET applied_at = ? WHERE version = ?", (time.time(), migration.version))

    def batches(self, name, left_query, statement):
        def left():
            return self.database.execute(left_query).fetchone()[0]

        total = left()
        while True:
            with Transaction(self, name):
                before = left()
                changed = self.database.execute(statement, {"batch": self.batch}).rowcount if before else 0
                after = left()
                if before and before - after != changed:
                    raise MigrationError(f"{name}: {changed - (before - after)} of {changed} rows could not be filled in, {after} are left")
            if not after:
                return
            self.say(f"{name}: {max(total - after, 0)} of {total} rows")
            time.sleep(self.pause)


class Transaction:
    """One transaction under the fence."""

    def __init__(self, run, name):
        self.run, self.name = run, name

    def __enter__(self):
        self.run.database.execute("BEGIN IMMEDIATE")
        fence = self.run.database.execute("UPDATE schema_fence SET token = ? WHERE token <= ?", (self.run.token, self.run.token))
        if fence.rowcount != 1:
            self.run.database.execute("ROLLBACK")
            raise MigrationError(f"{self.name}: a newer holder of the schema lock has been here (token {self.run.token} is too old)")

    def __exit__(self, kind, *_):
        self.run.database.execute("ROLLBACK" if kind else "COMMIT")
