"""checkout.py VERSION: puts the source of a release into `source/`, as `git checkout vVERSION` would."""
import shutil
import sys

import place


def main(version):
    new = place.ROOT / "source.new"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(place.ROOT / "src", new)
    base = place.read_json(new / "shop/package.json")["version"]
    if version != base:
        changes = place.ROOT / "changes" / version
        if not changes.is_dir():
            place.fail(f"there is no release {version}")
        shutil.copytree(changes, new, dirs_exist_ok=True)
    shutil.rmtree(place.SOURCE, ignore_errors=True)
    new.rename(place.SOURCE)
    place.say(f"source/ is {version}")


if __name__ == "__main__":
    main(sys.argv[1])
