"""restore.py SNAPSHOT: brings production's schema back to a snapshot, and keeps every order that was accepted since.

One transaction: what is there goes, the snapshot's tables come, the orders of the order log that the snapshot lacks are placed again. The
order log is written inside the transaction of each order, so an order is before this one, and in the log, or after it, and in the new
tables. Customers wait for a moment; nobody has to stop. Where the schema is the snapshot's, nothing is done.
"""
import json
import sys

import place

sys.path.insert(0, str(place.ROOT / "src"))
from shop import schema  # noqa: E402

OBJECTS = "SELECT type, name, sql FROM {}sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
ORDER = (
    "INSERT OR IGNORE INTO orders (id, key, customer, product_id, quantity, placed_at)"
    " VALUES (:id, :key, :customer, :product_id, :quantity, :placed_at)"
)


def looks(database, where):
    """All that a migration changes, as something to compare."""
    objects = database.execute(OBJECTS.format(where)).fetchall()
    return objects, database.execute(f"SELECT * FROM {where}schema_migrations ORDER BY version").fetchall()


def replace(database):
    """The snapshot's tables in the place of what is there."""
    for kind, name, _ in database.execute(OBJECTS.format("main.")).fetchall():
        if kind in ("trigger", "table", "view"):
            database.execute(f'DROP {kind} IF EXISTS main."{name}"')
    objects = database.execute(OBJECTS.format("snapshot.")).fetchall()
    for kind, name, sql in sorted(objects, key=lambda found: found[0] != "table"):
        database.execute(sql)
        if kind == "table":
            database.execute(f'INSERT INTO main."{name}" SELECT * FROM snapshot."{name}"')


def replay(database):
    """The orders since the snapshot; how many there were."""
    has_orders = database.execute("SELECT 1 FROM main.sqlite_master WHERE name = 'orders'").fetchone()
    if not has_orders or not place.ORDERS_LOG.exists():
        return 0
    lines = place.ORDERS_LOG.read_text(encoding="utf-8").splitlines()
    return sum(database.execute(ORDER, json.loads(line)).rowcount for line in lines)


def main(snapshot):
    path = place.ROOT / snapshot
    if not path.exists():
        place.fail(f"there is no snapshot {snapshot}")
    database = schema.connect(str(place.DATABASE))
    try:
        database.execute("ATTACH ? AS snapshot", (str(path),))
        database.execute("BEGIN EXCLUSIVE")
        fence = database.execute("SELECT token FROM main.schema_fence").fetchone()[0]
        if place.token() < fence:
            place.fail(f"a newer holder of the schema lock has been here (token {fence})")
        before = schema.version(database)
        if looks(database, "main.") == looks(database, "snapshot."):
            place.output(schema_from=before, schema=before, replayed=0)
            return
        replace(database)
        database.execute("UPDATE main.schema_fence SET token = ?", (place.token(),))
        replayed = replay(database)
        database.execute("COMMIT")
        place.output(schema_from=before, schema=schema.version(database), replayed=replayed)
    finally:
        database.close()


if __name__ == "__main__":
    main(sys.argv[1])
