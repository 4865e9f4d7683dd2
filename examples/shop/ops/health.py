"""health.py: is the server fit for a release? The host answers, what should run is healthy, the database is sound, there is room."""
import shutil
import sqlite3

import place

ROOM_MB = 20


def main():
    code, state = place.host("status")
    if code != 200:
        place.fail(f"the service host does not answer: {state}")
    meant = place.read_json(place.SERVICES, {})
    for service, release in meant.items():
        if release:
            code, answer = place.ask(f"{place.public_url(service)}/health")
            if code != 200 or answer["version"] != release:
                place.fail(f"{service} should be {release} and healthy: {answer}")
            place.say(f"{service} {release} is healthy, pid {state['services'][service]['pid']}")
    database = sqlite3.connect(f"file:{place.DATABASE}?mode=ro", uri=True, timeout=10)
    sound = database.execute("PRAGMA quick_check").fetchone()[0]
    database.close()
    if sound != "ok":
        place.fail(f"the database is damaged: {sound}")
    room = shutil.disk_usage(place.VAR).free // 2**20
    if room < ROOM_MB:
        place.fail(f"only {room} MB are free")
    place.output(services=sum(1 for release in meant.values() if release), free_mb=room)


if __name__ == "__main__":
    main()
