"""sabotage.py build|migration|health|smoke: makes the next release fail there, by something that happens in real life. For the demo."""
import json
import sqlite3
import sys

import place


def build():
    path = place.SOURCE / "shop/api.py"
    path.write_text(path.read_text(encoding="utf-8") + "\ndef half_a_function(:\n", encoding="utf-8")
    return "source/shop/api.py has a syntax error in its last line"


def migration():
    database = sqlite3.connect(place.DATABASE, timeout=10)
    with database:
        database.execute("DELETE FROM products WHERE id = 3")
    left = database.execute("SELECT count(*) FROM orders WHERE product_id = 3").fetchone()[0]
    database.close()
    return f"somebody deleted product 3, and {left} orders of it have no price any more"


def setting(name, value, why):
    config = place.read_json(place.CONFIG)
    place.write(place.CONFIG, json.dumps({**config, name: value}, indent=2) + "\n")
    return f"production.json says {name} = {json.dumps(value)}: {why}"


WAYS = {
    "build": build,
    "migration": migration,
    "health": lambda: setting("disk_free_mb_min", 10**9, "release 2 reads it, and finds the disk too full to be healthy"),
    "smoke": lambda: setting("currency", "EURO", "release 2 reads it, and shows totals that the smoke test does not accept"),
}

if __name__ == "__main__":
    place.say(WAYS[sys.argv[1]]())
