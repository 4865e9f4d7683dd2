"""Three NATS servers as one cluster on loopback, streams on all three: one killed, one cut off, all restarted, one after the other.

    .tools/venv/bin/python tests/faults/r3.py [--keep]

The same cases as `catalogue.py 17 17b 17c 17d 23`, for those who want them alone; the last line is `N passed, N failed, N not run`.
"""
import sys

if __name__ == "__main__":
    import catalogue

    sys.argv[1:1] = ["17", "17b", "17c", "17d", "23"]
    sys.exit(catalogue.main())
