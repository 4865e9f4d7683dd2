"""The judge sees each lie: a true story is accepted, and every way to break it is reported by the law that it breaks.

    python3 tests/faults/test_judge.py
"""
import sys
import tempfile
from pathlib import Path

from judge import LAWS, Evidence, History, Ledger
from load import Epic

# A writer, a lost writer that is tried again, a reader, a task that is never started twice: as it should be.
STORY = """\
start e w[1] 1 1 100 5 -
alive e w[1] 1 1 100 5 -
end e w[1] 1 1 100 5 0
start e w[2] 1 1 101 6 -
start e w[2] 1 2 102 7 -
end e w[2] 1 2 102 7 0
start e r 1 1 103 8 -
end e r 1 1 103 8 0
start e o 1 1 104 9 -
end e o 1 1 104 9 3
"""
PLAN = Epic("key", {}, once={"o"}, locks={"w": ("write", "res/x"), "r": ("read", "res/x")})


def event(kind, task, attempt=1, **data):
    return {"seq": 1, "type": f"task.{kind}", "task": task, "run": 1, "attempt": attempt, "data": data}


JOURNAL = [
    event("assigned", "w[1]"), event("succeeded", "w[1]", exit_code=0),
    event("assigned", "w[2]"), event("retrying", "w[2]", cause="agent_lost"),
    event("assigned", "w[2]", 2), event("succeeded", "w[2]", 2, exit_code=0),
    event("assigned", "r"), event("succeeded", "r", exit_code=0),
    event("assigned", "o"), event("failed", "o", cause="exit", exit_code=3),
]

# (what is done to the story, what is done to the journal, the law that must see it)
LIES = [
    (lambda s: s + "start e w[1] 1\n", None, "every line of the ledger is whole"),
    (lambda s: s + "start e w[9] 1 1 9 99 -\n", None, "every start is an attempt of the journal"),
    (lambda s: s.replace("alive e w[1] 1 1 100", "start e w[1] 1 1 200"), None, "every start occurs once"),
    (lambda s: s.replace("start e r 1 1 103 8 -\nend e r 1 1 103 8 0\n", ""), None, "every attempt with an exit code has its start"),
    (lambda s: s.replace("9 3", "9 4"), None, "every exit code is the one that happened"),
    (lambda s: s.replace("9 3", "9 91"), None, "outputs and artifacts arrive as they were made"),
    (lambda s: s + "start e r 1 2 105 10 -\n", lambda j: j + [event("assigned", "r", 2)], "a finished run is not run again"),
    (
        lambda s: s.replace("start e w[2] 1 1 101 6 -\n", "").replace("start e r 1 1", "start e w[2] 1 1 101 6 -\nstart e r 1 1"),
        None, "no attempt starts after a later one has ended",
    ),
    (lambda s: s + "start e o 1 2 106 11 -\n", lambda j: j + [event("assigned", "o", 2)], "`retry: 0` is started at most once"),
    (lambda s: s.replace("end e w[1] 1 1 100 5 0\n", "") + "end e w[1] 1 1 100 5 0\n", None, "writers are alone, readers never beside a writer"),
    (lambda s: s.replace("102 7", "102 4"), None, "fencing tokens grow"),
]


def judged(story, journal):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger"
        path.write_text(story)
        seen = Evidence(Ledger(path), {"e": PLAN}, {"e": History("e", journal)})
        return {law for law, check in LAWS if list(check(seen))}


def main():
    passed, failed = 0, 0

    def expect(what, holds, found):
        nonlocal passed, failed
        passed, failed = (passed + 1, failed) if holds else (passed, failed + 1)
        print(f"{'ok  ' if holds else 'FAIL'} {what}{'' if holds else f': {found}'}")

    found = judged(STORY, JOURNAL)
    expect("a true story breaks no law", not found, found)
    for story, journal, law in LIES:
        found = judged(story(STORY), journal(JOURNAL) if journal else JOURNAL)
        expect(f"a lie is seen by: {law}", law in found, found)
    untested = {law for law, _ in LAWS} - {law for _, _, law in LIES}
    expect("every law has its lie", not untested, untested)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
