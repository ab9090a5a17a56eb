"""The cold start: importing the library beside importing redis, each in interpreters of its own, taking turns."""

import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.harness import Timing, table

PROBE = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
STATEMENTS = {
    "import redis": "import redis",
    "import tiered_cache": "import tiered_cache",
    "... and make an L1-only cache": "import tiered_cache; tiered_cache.TieredCache()",
    "import cachetools": "import cachetools",
    "import boto3": "import boto3",
}


def run(*, quick):
    seconds = {name: [] for name in STATEMENTS}
    with tempfile.TemporaryDirectory() as bytecode:  # compiled once for all, as an installed package is
        environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        for turn in range(6 if quick else 21):
            for name, statement in STATEMENTS.items():
                command = [sys.executable, "-c", PROBE.format(statement)]
                answer = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
                if turn:
                    seconds[name].append(float(answer.stdout))
    timings = []
    for name, values in seconds.items():
        quarters = statistics.quantiles(values, n=4)
        timings.append(Timing(name, statistics.median(values), quarters[2] - quarters[0]))
    table("Cold start (budget: at most 0.2 x import redis)", timings, "import redis")
    return timings
