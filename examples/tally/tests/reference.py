"""reference.py TALLY: the program against the same thing in Python, on texts that a seed makes."""
import collections
import pathlib
import random
import subprocess
import sys
import tempfile


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=True).stdout


def main():
    tally, dice, texts = sys.argv[1], random.Random(1717), 40
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "text"
        for number in range(texts):
            words = ["".join(dice.choices("abCD", k=dice.randint(1, 3))) for _ in range(dice.randint(0, 3000))]
            text = "".join(word + dice.choice([" ", "\n", "\t", "  "]) for word in words)
            path.write_text(text)
            counts = run(tally, path).split()[:3]
            assert counts == [str(text.count("\n")), str(len(words)), str(len(text))], f"text {number}: {counts}"
            frequent = sorted(collections.Counter(w.lower() for w in words).items(), key=lambda e: (-e[1], e[0]))[:7]
            top = run(tally, "--top", 7, path)
            assert top == "".join(f"{times} {word}\n" for word, times in frequent), f"text {number}: {top}"
    print(f"{texts} texts count the same in C and in Python")


main()
