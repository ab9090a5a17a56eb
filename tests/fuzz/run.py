"""Alters entries in bulk and opens them: `python tests/fuzz/run.py --minutes 10 --seed 1`, or `make fuzz`.

Prints the seed first. Every batch draws from a generator of its own, so `--seed S --batch W:B` repeats batch B of process
W alone. It ends with 1 at the first wrong value or exception, of which it prints the batch and the bytes; a call that
does not end within two minutes ends the process with a traceback.
"""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing
import os
import platform
import random
import re
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bombs import bombs, packed_bombs
from mutations import ACCIDENTS, FORGERIES
from stored import Wrong, judge_accident, judge_forgery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

BATCH = 2000
HANGS_AFTER = 120
MOST_GROWTH = 64 << 20


@dataclass
class Report:
    """What one process, or all of them, have seen."""

    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    wrong: int = 0
    slowest: float = 0.0
    slowest_kind: str = ""
    growth: int = 0
    """Resident memory at the end over that after all bombs, in bytes: of the process in which it is most."""
    peak: int = 0

    def add(self, other: Report) -> None:
        self.kinds += other.kinds
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.wrong += other.wrong
        self.growth, self.peak = max(self.growth, other.growth), max(self.peak, other.peak)
        if other.slowest > self.slowest:
            self.slowest, self.slowest_kind = other.slowest, other.slowest_kind


class Fuzzer:
    """One process's work: batches of altered entries, and a few bombs in each."""

    def __init__(self, seed: int, worker: int) -> None:
        self.seed, self.worker = seed, worker
        self.report = Report()
        self.bombs = [*bombs().items(), *packed_bombs().items()]

    def run(self, seconds: float, count: int) -> Report:
        batch, end = 0, time.monotonic() + seconds
        for name, data in self.bombs:  # all of them once, so that what one takes for good is not counted as growth
            self._open(f"bomb: {name}", "bomb", data, batch)
        before = memory("VmRSS")
        while time.monotonic() < end and batch * BATCH < count and not self.report.failures:
            faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
            self.run_batch(batch)
            batch += 1
        faulthandler.cancel_dump_traceback_later()
        self.report.growth, self.report.peak = memory("VmRSS") - before, memory("VmHWM")
        return self.report

    def run_batch(self, batch: int) -> None:
        chance = random.Random(f"{self.seed}/{self.worker}/{batch}")
        kinds = ACCIDENTS + FORGERIES
        for mutate in chance.choices(kinds, k=BATCH):
            self._open(mutate.__name__, mutate.__name__, mutate(chance), batch)
        name, data = chance.choice(self.bombs)
        self._open(f"bomb: {name}", "bomb", data, batch)

    def _open(self, name: str, kind: str, data: bytes, batch: int) -> None:
        report = self.report
        judge = judge_accident if kind in _ACCIDENTS else judge_forgery
        begun = time.perf_counter()
        try:
            outcome = judge(data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            report.wrong += isinstance(error, Wrong)
            what = f"{name}, --batch {self.worker}:{batch}: {type(error).__name__}: {error}"
            report.failures.append(f"{what}\n  {data[:4096].hex()}")
            return
        took = time.perf_counter() - begun
        report.kinds[kind] += 1
        report.outcomes[f"miss: {outcome.fault}" if outcome.fault else _accepted(kind)] += 1
        if took > report.slowest:
            report.slowest, report.slowest_kind = took, name


_ACCIDENTS = {mutate.__name__ for mutate in ACCIDENTS}


def _accepted(kind: str) -> str:
    return "the genuine entry, byte for byte" if kind in _ACCIDENTS else "a well-formed entry, of right checksums"


def memory(name: str) -> int:
    """Resident memory in bytes, now (VmRSS) or the most so far (VmHWM); 0 where the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) << 10 if found else 0


def work(seed: int, worker: int, seconds: float, count: int, out: Connection) -> None:
    out.send(Fuzzer(seed, worker).run(seconds, count))


def run_all(seed: int, processes: int, seconds: float, count: int) -> Report:
    """All processes' reports as one. A process that ends without one counts as a failure."""
    running = []
    context = multiprocessing.get_context("spawn")
    for worker in range(processes):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(seed, worker, seconds, count // processes, theirs))
        process.start()
        theirs.close()
        running.append((process, ours))
    total = Report()
    for worker, (process, ours) in enumerate(running):
        try:
            total.add(ours.recv())
        except EOFError:
            total.failures.append(f"process {worker} hung or crashed: see above")
        process.join()
    return total


def lines(report: Report, seconds: float, processes: int) -> Iterator[str]:
    for title, counts in (("mutations", report.kinds), ("outcomes", report.outcomes)):
        yield title
        yield from (f"  {number:12,}  {name}" for name, number in counts.most_common())
    yield f"slowest call: {1000 * report.slowest:.1f} ms ({report.slowest_kind})"
    yield from (f"FAILED {failure}" for failure in report.failures)
    yield (
        f"{report.kinds.total():,} mutated envelopes in {seconds:.0f} s by {processes} of {os.cpu_count()} cores,"
        f" Python {platform.python_version()}: {report.wrong} wrong values,"
        f" {len(report.failures) - report.wrong} exceptions,"
        f" resident memory grew by {report.growth / 2**20:.1f} MiB, its peak was {report.peak / 2**20:.0f} MiB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", type=int, default=sys.maxsize, help="stop after so many in all")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", help="repeat one batch: PROCESS:BATCH")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)  # noqa: T201  # this is its output
    begun = time.monotonic()
    if given.batch:
        worker, batch = map(int, given.batch.split(":"))
        fuzzer = Fuzzer(given.seed, worker)
        fuzzer.run_batch(batch)
        report = fuzzer.report
    else:
        report = run_all(given.seed, given.processes, 60 * given.minutes, given.count)
    shown = "\n".join(lines(report, time.monotonic() - begun, given.processes))
    print(shown)  # noqa: T201  # this is its output
    return 1 if report.failures or report.growth > MOST_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
