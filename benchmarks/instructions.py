"""Instructions instead of seconds: what a hit makes the processor do, counted by valgrind, which no other process disturbs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import tiered_cache
from tiered_cache.benchmarks.harness import Skipped, figure, show
from tiered_cache.benchmarks.progress import turns

GROUP = "Instructions of an L1 hit"
BASE = "dict[key]"
CALLS = 20_000
LOOPS = {
    BASE: "for key in keys: plain[key]",
    "tiered_cache get_or_load": "for key in keys: get(key, load)",
    "tiered_cache get_entry_or_load": "for key in keys: entry(key, load)",
}
BUDGETS = {"tiered_cache get_or_load": 7}
PROGRAM = """
import sys
from tiered_cache import MemoryTier, TieredCache
cache = TieredCache(MemoryTier(ttl=600), refresh="inline")
names = [f"customer:{{number}}" for number in range(1_000)]
get, entry, load = cache.get_or_load, cache.get_entry_or_load, dict
plain = {{key: get(key, load) for key in names}}
def loop(keys):
    {}
loop(names * 2)  # the interpreter specialises itself for what it runs often
loop(names * int(sys.argv[1]))
"""


def run(*, quick):
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise Skipped("valgrind, which counts instructions, is not installed")
    counted = {}
    names = tuple(LOOPS)[: 2 if quick else None]
    for turn in turns(len(names)):
        name = names[turn]
        rounds = CALLS // 1_000
        with_calls, without = (count(valgrind, PROGRAM.format(LOOPS[name]), number) for number in (rounds, 0))
        counted[name] = (with_calls - without) / CALLS
    results = [
        figure(GROUP, name, each, "instructions", ratio=each / counted[BASE], base=BASE, budget=BUDGETS.get(name))
        for name, each in counted.items()
    ]
    show(GROUP, results)
    return results


def count(valgrind, program, rounds):
    """The instructions of a whole process."""
    environment = os.environ | {
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(Path(tiered_cache.__file__).resolve().parents[1]),
    }
    command = [valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    ran = subprocess.run(
        [*command, sys.executable, "-c", program, str(rounds)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", ran.stderr)
    if ran.returncode or found is None:
        raise Skipped(f"valgrind does not run this interpreter: {ran.stderr[-300:]}")
    return int(found[1].replace(",", ""))
