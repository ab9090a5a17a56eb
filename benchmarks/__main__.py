"""`python -m benchmarks [--quick] [suite ...]`"""

import argparse

from benchmarks import imports, invocations, l1, l2, memory
from benchmarks.harness import machine

SUITES = {
    "l1": l1.run,
    "growth": l1.growth,
    "inserts": l1.inserts,
    "l2": l2.run,
    "catch_up": l2.catch_up,
    "outage": l2.outage,
    "imports": imports.run,
    "invocations": invocations.run,
    "memory": memory.run,
}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a look")
    given = parser.parse_args()
    unknown = [name for name in given.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    print(machine())
    for name in given.suites or SUITES:
        SUITES[name](quick=given.quick)


if __name__ == "__main__":
    main()
