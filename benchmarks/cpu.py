"""A share of a processor, as a Lambda function of a memory size has it: 1,769 MB are one vCPU, and less memory is less of one.

By a cgroup where one can be made. Else by stopping and continuing the process in the same periods.
"""

import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

PERIOD = 0.02
"""Seconds in which a share is used up. Lambda does not document its own."""
MEGABYTES = {1.0: 1_769, 0.29: 512, 0.07: 128}
CGROUPS = Path("/sys/fs/cgroup")


@contextmanager
def limited(pid, share):
    """Meanwhile the process `pid`, leader of a group, and what it starts have that share; gives a word on how."""
    try:
        group = make_cgroup(share)
    except OSError:
        with governed(pid, share):
            yield "stopping and continuing it"
        return
    try:
        (group / "cgroup.procs").write_text(str(pid))
        yield "a cgroup's quota"
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(left)
        group.rmdir()


def make_cgroup(share):
    """A cgroup with that quota, of version 2 or 1. Raises OSError where none can be made here."""
    period = int(PERIOD * 1e6)
    quota = max(1_000, int(share * period))
    second = (CGROUPS / "cgroup.controllers").is_file()
    group = (CGROUPS if second else CGROUPS / "cpu") / f"tiered-cache-bench-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        if second:
            (group / "cpu.max").write_text(f"{quota} {period}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
    except OSError:
        group.rmdir()
        raise
    return group


@contextmanager
def governed(pid, share):
    """The same by signals to the process group `pid`: it runs for a share of each period, and stands for the rest."""
    over = threading.Event()

    def govern():
        with suppress(ProcessLookupError):  # it has ended
            while not over.wait(share * PERIOD):
                os.killpg(pid, signal.SIGSTOP)
                time.sleep((1 - share) * PERIOD)
                os.killpg(pid, signal.SIGCONT)

    governor = threading.Thread(target=govern)
    if share < 1:
        governor.start()
    try:
        yield
    finally:
        over.set()
        if share < 1:
            governor.join()
