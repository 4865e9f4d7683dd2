"""lint.py FILE…: what a compiler does not say. Exit 1 with one line per complaint."""
import pathlib
import re
import sys

complaints = []
for name in sys.argv[1:]:
    text = pathlib.Path(name).read_text()
    for number, line in enumerate(text.splitlines(), 1):
        for wrong, why in ((r"\s$", "space at the end"), (r"\t", "a tab"), (r".{131}", "longer than 130"), (r"\bgets\(|\bstrcpy\(", "unsafe function")):
            if re.search(wrong, line):
                complaints.append(f"{name}:{number}: {why}")
    if not text.endswith("\n"):
        complaints.append(f"{name}: no newline at the end")
    if name.endswith(".h") and "#ifndef" not in text:
        complaints.append(f"{name}: no include guard")
print("\n".join(complaints) or f"{len(sys.argv) - 1} files are clean")
sys.exit(bool(complaints))
