"""The cold start of a handler that needs boto3 too: the time until its first answer, by how the cache is warmed up.

Each start is a process of its own, taking turns. The server is behind a proxy that holds each reply back, as distance does.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tiered_cache
from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.benchmarks.harness import Timing, in_turn, table, with_base_again
from tiered_cache.benchmarks.progress import turns
from tiered_cache.local import FaultProxy, ValkeyServer

CACHE = """
import os
from tiered_cache import MemoryTier, RedisTier, TieredCache
cache = TieredCache(MemoryTier(ttl=60), RedisTier(os.environ["L2"], ttl="1h", timeout=5), namespace="coldstart")
{}
"""
REST = "import boto3; boto3.client('s3', region_name='eu-west-1')\n"
ANSWER = "assert cache.get('key') == 'value'\n"
BASE = "no cache"
HANDLERS = {
    BASE: REST,
    "cache, first call connects": CACHE.format("") + REST + ANSWER,
    "cache.warm_up()": CACHE.format("cache.warm_up()") + REST + ANSWER,
    "cache.warm_up(wait=False)": CACHE.format("cache.warm_up(wait=False)") + REST + ANSWER,
}
DISTANCES = {"next door": 0.0, "replies 20 ms away": 0.02}


def run(*, quick):
    with ValkeyServer(config=("--requirepass", "secret")) as server, FaultProxy(server.host, server.port) as proxy:
        tier = RedisTier(f"redis://:secret@{server.host}:{server.port}", ttl="1h", timeout=5)
        with TieredCache(MemoryTier(ttl=60), tier, namespace="coldstart") as planter:
            planter.set("key", "value")
        results = []
        for name, distance in DISTANCES.items():
            proxy.latency(distance)
            results += measured(f"Cold start: process to first answer, L2 {name}", proxy.port, 5 if quick else 31)
    return results


def measured(title, port, rounds):
    handlers = with_base_again(HANDLERS, BASE)
    seconds = {name: [] for name in handlers}
    with tempfile.TemporaryDirectory() as bytecode:  # compiled once for all, as an installed package is
        environment = os.environ | {
            "L2": f"redis://:secret@127.0.0.1:{port}",
            "PYTHONPYCACHEPREFIX": bytecode,
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPATH": str(Path(tiered_cache.__file__).resolve().parents[1]),
        }
        for turn in turns(rounds):
            for name in in_turn(tuple(handlers), turn):
                taken = started(handlers[name], environment)
                if turn:
                    seconds[name].append(taken)
    return table(title, [Timing(name, values) for name, values in seconds.items()], BASE)


def started(handler, environment):
    """Seconds from the start of a process until its handler has answered."""
    code = f"{handler}\nimport time; print(time.time())"
    began = time.time()
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
    return float(answer.stdout) - began
