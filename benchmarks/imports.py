"""The cold start: importing the library beside importing redis, each in interpreters of its own, taking turns."""

import os
import subprocess
import sys
import tempfile

from tiered_cache.benchmarks.harness import Timing, in_turn, table, with_base_again
from tiered_cache.benchmarks.progress import turns

PROBE = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
BASE = "import redis"
STATEMENTS = {
    BASE: "import redis",
    "import tiered_cache": "import tiered_cache",
    "import tiered_cache, make an L1-only cache": "import tiered_cache; tiered_cache.TieredCache()",
    "import cachetools": "import cachetools",
    "import boto3": "import boto3",
}


def run(*, quick):
    return beside(STATEMENTS, "Cold start: an import", quick=quick)


def beside(statements, title, *, quick):
    """Time each of `statements`, which BASE is one of, in interpreters of its own."""
    seconds = {name: [] for name in with_base_again(statements, BASE)}
    with tempfile.TemporaryDirectory() as bytecode:  # compiled once for all, as an installed package is
        environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        for turn in turns(6 if quick else 21):
            for name, statement in in_turn(tuple(with_base_again(statements, BASE).items()), turn):
                command = [sys.executable, "-c", PROBE.format(statement)]
                answer = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
                if turn:
                    seconds[name].append(float(answer.stdout))
    timings = [Timing(name, values) for name, values in seconds.items()]
    return table(title, timings, BASE, budgets={"import tiered_cache": 0.2})
