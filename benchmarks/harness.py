"""Interleaved timing in one process: machines are noisy, so what counts is a ratio within one run."""

import os
import platform
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Timing(NamedTuple):
    """Seconds per operation: the median of the rounds, and the distance between their quartiles."""

    name: str
    median: float
    spread: float


def interleaved(operations, *, rounds, calls):
    """Time each of `operations` (name -> function that does `calls` operations), taking turns for `rounds` rounds."""
    seconds = {name: [] for name in operations}
    for operation in operations.values():
        operation()
    for _ in range(rounds):
        for name, operation in operations.items():
            started = time.perf_counter()
            operation()
            seconds[name].append((time.perf_counter() - started) / calls)
    return [_timing(name, rounds) for name, rounds in seconds.items()]


def _timing(name, seconds):
    quarters = statistics.quantiles(seconds, n=4)
    return Timing(name, statistics.median(seconds), quarters[2] - quarters[0])


def machine():
    """One line on what the figures were measured on."""
    packages = []
    for name in ("redis", "msgpack", "cachetools", "cachebox", "moka-py", "boto3"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"{name} not installed")
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {os.cpu_count()} cores, {load}; {', '.join(packages)}"


def table(title, timings, base, note=""):
    """Print timings with their ratio to the one named `base`."""
    divisor = next(timing.median for timing in timings if timing.name == base)
    print(f"\n{title}")
    print(f"  {'':44}{'median':>12}{'quartiles':>12}{'ratio':>9}")
    for timing in timings:
        print(f"  {timing.name:44}{_time(timing.median):>12}{_time(timing.spread):>12}{timing.median / divisor:>8.2f}x")
    if any(timing.spread > 0.25 * timing.median for timing in timings):
        print(
            "  This machine is too noisy for small differences: a quartile distance is above a quarter of its median."
        )
    if note:
        print(f"  {note}")
    sys.stdout.flush()


def _time(seconds):
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"
