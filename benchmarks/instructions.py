"""Instructions instead of seconds: what a hit makes the processor do, counted by valgrind, which no other process disturbs.

A hit's are those of a process that reads many times less those of one that does not, and that is told so in as many characters:
one more on the command line moves the stack, and the interpreter's start then takes a million instructions more or less. A file
more in a directory on its path, and the garbage collector comes at another moment: so it starts in a directory of its own. The
modules are compiled beforehand, and the seeds of the hashes are fixed. What the seeds do to the order in a dict is seen by having
several; the median ratio counts.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import tiered_cache
from tiered_cache.benchmarks.harness import Result, Skipped, show
from tiered_cache.benchmarks.progress import turns

GROUP = "Instructions of an L1 hit"
BASE = "dict[key]"
ROUNDS = 10
"""Reads of all of a thousand keys."""
SEEDS = (0, 1, 2)
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
    counter = counting()
    names, seeds = (tuple(LOOPS)[:2], SEEDS[:1]) if quick else (tuple(LOOPS), SEEDS)
    counted = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as bytecode:
        count([], PROGRAM.format("pass"), 0, bytecode)  # counts nothing, and compiles
        for turn in turns(len(seeds)):
            for name in names:
                counted[name].append(of_a_hit(counter, name, bytecode, seeds[turn]))
    results = [_result(name, each, counted[BASE]) for name, each in counted.items()]
    spread = max(max(each) / min(each) - 1 for each in counted.values())
    word = f"; they differ by {spread:.1%}" if len(seeds) > 1 else ""
    show(GROUP, results, f"{ROUNDS * 1_000:,} hits, seeds of the hashes: {', '.join(map(str, seeds))}{word}")
    return results


def counting():
    """The command that counts the instructions of another. Raises Skipped where there is none."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise Skipped("valgrind, which counts instructions, is not installed")
    return [valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]


def of_a_hit(counter, name, bytecode, seed):
    """The instructions of one turn of a loop."""
    program = PROGRAM.format(LOOPS[name])
    many, none = (count(counter, program, rounds, bytecode, seed) for rounds in (ROUNDS, 0))
    return (many - none) / (ROUNDS * 1_000)


def _result(name, each, of_base):
    ratio = statistics.median(mine / its for mine, its in zip(each, of_base, strict=True))
    facts = {"ratio": ratio, "base": BASE, "budget": BUDGETS.get(name), "n": len(each), "per": "seed"}
    spread = {"low": min(each), "high": max(each)}
    return Result(group=GROUP, name=name, unit="instructions", median=statistics.median(each), **spread, **facts)


def count(counter, program, rounds, bytecode, seed=0):
    """What `counter`, a command, counts of a process, which has its compiled modules in `bytecode`; 0 if it is no command."""
    environment = os.environ | {
        "PYTHONHASHSEED": str(seed),
        "PYTHONPATH": str(Path(tiered_cache.__file__).resolve().parents[1]),
        "PYTHONPYCACHEPREFIX": bytecode,
        "PYTHONDONTWRITEBYTECODE": "",
    }
    command = [*counter, sys.executable, "-c", program, f"{rounds:04}"]
    ran = subprocess.run(command, env=environment, cwd=bytecode, capture_output=True, text=True, check=False)
    found = re.search(r"I\s+refs:\s+([\d,]+)", ran.stderr)
    if ran.returncode or (counter and found is None):
        raise Skipped(f"valgrind does not run this interpreter: {ran.stderr[-300:]}")
    return int(found[1].replace(",", "")) if counter else 0
