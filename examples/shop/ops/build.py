"""build.py SERVICE VERSION: compiles the source and packs it into one runnable file, the same bytes for the same source.

The archive holds a manifest with the checksum of every file. Outputs: `artifact`, `sha256`, `files`.
"""
import hashlib
import json
import sys
import zipfile

import place

WHEN = (1980, 1, 1, 0, 0, 0)


def compiled(service):
    """The files of a service, by name; an error in any of its modules is one of the build."""
    shop = place.SOURCE / "shop"
    package = place.read_json(shop / "package.json")
    names = ["package.json", "__init__.py", *(f"{module}.py" for module in package["modules"][service])]
    if "schema" in package["modules"][service]:
        names += [f"migrations/{name}" for name in package["migrations"]]
    files = {f"shop/{name}": (shop / name).read_bytes() for name in names}
    for name, content in files.items():
        if name.endswith(".py"):
            try:
                compile(content, name, "exec", dont_inherit=True)
            except SyntaxError as error:
                place.fail(f"{name}:{error.lineno}: {error.msg}")
            place.say(f"compiled {name}")
    return files


def main(service, version):
    files = compiled(service)
    found = json.loads(files["shop/package.json"])["version"]
    if found != version:
        place.fail(f"the source is {found}, not {version}")
    files["__main__.py"] = f"from shop.{service} import main\n\nmain()\n".encode()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files["manifest.json"] = json.dumps({"service": service, "version": version, "files": sums}, indent=2, sort_keys=True).encode()
    target = place.artifacts() / f"shop-{service}-{version}.pyz"
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, WHEN)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    place.output(artifact=target.name, sha256=place.digest(target), files=len(files))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
