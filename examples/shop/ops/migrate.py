"""migrate.py plan|apply VERSION [--pause S]: migrates production's database with the migrations that the release's API carries.

`plan` tries them on an empty copy of production's schema and says how much there is to do. `apply` does them; production runs on.
"""
import argparse
import json
import sys

import place


def plan(schema, production):
    empty = schema.connect(":memory:")
    for (statement,) in production.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"):
        empty.execute(statement)
    for table in ("schema_migrations", "schema_fence"):
        for row in production.execute(f"SELECT * FROM {table}"):
            empty.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    waiting = schema.pending(empty)
    before = schema.version(empty)
    run = schema.Run(empty, token=2**62)
    for migration in waiting:
        run.apply(migration)
    tables = [name for (name,) in production.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'orders'")]
    rows = production.execute("SELECT count(*) FROM orders").fetchone()[0] if tables else 0
    told = {"from": before, "to": schema.version(empty), "migrations": [migration.name for migration in waiting], "orders": rows}
    (place.artifacts() / "plan.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    place.output(schema_from=told["from"], schema_to=told["to"], orders=rows)


def apply(schema, production, pause):
    before = schema.version(production)
    try:
        for migration in schema.pending(production):
            schema.Run(production, place.token(), pause=pause, say=place.say).apply(migration)
    except schema.MigrationError as error:
        place.fail(str(error))
    place.output(schema_from=before, schema=schema.version(production))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["plan", "apply"])
    parser.add_argument("version")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two batches, for production to breathe")
    arguments = parser.parse_args()
    sys.path.insert(0, str(place.artifact("api", arguments.version)))
    from shop import schema

    production = schema.connect(str(place.DATABASE))
    try:
        if arguments.work == "plan":
            plan(schema, production)
        else:
            apply(schema, production, arguments.pause)
    finally:
        production.close()


if __name__ == "__main__":
    main()
