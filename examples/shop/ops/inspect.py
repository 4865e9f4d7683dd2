"""inspect.py: what is in production's database, by SQL, as JSON: schema, orders, whether it is sound."""
import hashlib
import json
import sqlite3

import place


def orders(database):
    return database.execute("SELECT id, key, customer, product_id, quantity FROM orders ORDER BY id").fetchall()


def main():
    database = sqlite3.connect(f"file:{place.DATABASE}?mode=ro", uri=True, timeout=10)
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    migrations = database.execute("SELECT version, name, applied_at IS NOT NULL FROM schema_migrations ORDER BY version").fetchall()
    rows = orders(database) if "orders" in names else []
    columns = [column[1] for column in database.execute("PRAGMA table_info(orders)")]
    wrong = "total_cents IS NULL OR total_cents != quantity * (SELECT price_cents FROM products WHERE id = product_id)"
    told = {
        "integrity": database.execute("PRAGMA integrity_check").fetchone()[0],
        "schema": max((version for version, _, is_whole in migrations if is_whole), default=0),
        "migrations": [{"version": version, "name": name, "applied": bool(is_whole)} for version, name, is_whole in migrations],
        "columns": columns,
        "orders": len(rows),
        "keys": [row[1] for row in rows],
        # One line per order, so that a checksum of the first n says whether they are still what they were.
        "lines": [hashlib.sha256(json.dumps(row).encode()).hexdigest()[:16] for row in rows],
        "totals_wrong": database.execute(f"SELECT count(*) FROM orders WHERE {wrong}").fetchone()[0] if "total_cents" in columns else None,
        "logged": len(place.ORDERS_LOG.read_text(encoding="utf-8").splitlines()) if place.ORDERS_LOG.exists() else 0,
    }
    database.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
