"""deploy.py SERVICE --release VERSION --sha256 SUM | --back-to VERSION: installs an artifact and has the service host switch to it, or has
it switch back to what is installed. The host switches only to what is healthy.

`services.json` says what production is meant to run. Outputs: `release`, `previous`, `pid`.
"""
import argparse
import json
import shutil

import place


def install(service, version, sha256):
    built = place.artifact(service, version)
    if place.digest(built) != sha256:
        place.fail(f"{built.name} is not what was built: its checksum is {place.digest(built)}")
    folder = place.RELEASES / service / version
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"new-{place.token()}"
    shutil.copyfile(built, new)
    new.replace(folder / f"shop-{service}.pyz")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("service", choices=place.SERVICE_NAMES)
    parser.add_argument("--release")
    parser.add_argument("--sha256")
    parser.add_argument("--back-to", help="empty: to nothing, as before the first release")
    arguments = parser.parse_args()
    release = arguments.back_to
    if release is None:
        release = arguments.release
        install(arguments.service, release, arguments.sha256)
    code, answer = place.host("switch", {"service": arguments.service, "release": release, "token": place.token()})
    if code != 200:
        place.fail(f"{arguments.service} stays as it is: {answer['error']}")
    services = place.read_json(place.SERVICES, {})
    place.write(place.SERVICES, json.dumps({**services, arguments.service: release}, indent=2) + "\n")
    place.output(release=answer["release"], previous=answer["previous"], pid=answer["pid"])


if __name__ == "__main__":
    main()
