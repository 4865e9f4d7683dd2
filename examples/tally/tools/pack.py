"""pack.py OUT FILE=NAME…: a .tar.gz that is the same, byte for byte, whenever and wherever it is made."""
import gzip
import io
import sys
import tarfile

out, pairs = sys.argv[1], [pair.split("=", 1) for pair in sys.argv[2:]]
body = io.BytesIO()
with tarfile.open(fileobj=body, mode="w", format=tarfile.USTAR_FORMAT) as archive:
    for path, name in sorted(pairs, key=lambda pair: pair[1]):
        with open(path, "rb") as source:
            content = source.read()
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o755 if name.endswith("bin/tally") else 0o644
        archive.addfile(entry, io.BytesIO(content))
with open(out, "wb") as target, gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0) as packed:
    packed.write(body.getvalue())
