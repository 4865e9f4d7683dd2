"""check.py unit|integration|e2e VERSION: runs the shop's own tests; from integration on against the artifacts that were built."""
import os
import subprocess
import sys

import place


def main(kind, version):
    environment = {**os.environ, "SHOP_NO_SYNC": "1"}
    if kind != "unit":
        for service in place.SERVICE_NAMES:
            environment[f"SHOP_{service.upper()}"] = str(place.artifact(service, version))
    command = [sys.executable, "-m", "unittest", "discover", "-v", "-s", f"tests/{kind}", "-t", "."]
    ended = subprocess.run(command, cwd=place.SOURCE, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    place.say(ended.stderr.rstrip())
    if ended.returncode:
        place.fail(f"{kind} tests of {version} failed")
    ran = next((line.split()[1] for line in ended.stderr.splitlines() if line.startswith("Ran ")), "0")
    if ran == "0":
        place.fail(f"there are no {kind} tests")
    place.output(tests=ran)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
