"""finalize.py SNAPSHOT: the snapshot can be used (it opens, is sound, holds its orders), older ones beyond the last three go."""
import json
import sqlite3
import sys

import place

KEPT = 3


def main(snapshot):
    path = place.ROOT / snapshot
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    sound = database.execute("PRAGMA integrity_check").fetchone()[0]
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    orders = database.execute("SELECT count(*) FROM orders").fetchone()[0] if "orders" in tables else 0
    database.close()
    if sound != "ok":
        place.fail(f"{snapshot} is damaged: {sound}")
    kept = sorted(place.BACKUPS.glob("*.db"), key=lambda found: found.stat().st_mtime, reverse=True)
    for old in kept[KEPT:]:
        for part in old.parent.glob(f"{old.name}*"):
            part.unlink()
    told = {"snapshot": snapshot, "sha256": place.digest(path), "orders": orders, "kept": [old.name for old in kept[:KEPT]]}
    (place.artifacts() / "backup.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    place.output(snapshot=snapshot, orders=orders, kept=len(told["kept"]))


if __name__ == "__main__":
    main(sys.argv[1])
