"""Side by side with other caches: hits, many that miss at once, a Redis that is dead, and imports."""

import asyncio
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

from tiered_cache.benchmarks import imports
from tiered_cache.benchmarks.harness import Skipped, compared, figure, once, sampled, show, table
from tiered_cache.benchmarks.l2 import value_of
from tiered_cache.benchmarks.peer_caches import PATIENCE, PEERS, TIMEOUT, Given, LruCache, installed
from tiered_cache.local import ValkeyServer

KEYS, ORDER = 1_000, 20_000
TURN = 0.02
"""Seconds that a turn takes at most."""
OURS = "tiered_cache"
RAW = "redis-py GET + unpackb"
THREADS = 50
PROCESSES, EACH = 4, 12
ENDED = 30.0
"""Seconds after which a process that contends is given up."""


def in_memory(*, quick):
    """An L1 hit by read-through: each key of a thousand at random, in an order that is too long to be learnt.

    A processor predicts the branches of what repeats itself. It learns the way of a dict through 5,000 keys, which then takes a
    quarter less than in a program that asks for what its users want; the caches, which do more, take as long as before.
    """
    rng = random.Random(7)
    keys = [f"customer:{rng.randrange(KEYS)}" for _ in range(ORDER)]
    value = {"id": 1, "name": "Ada"}
    plain = dict.fromkeys(keys, value)

    def indexed():
        for key in keys:
            plain[key]

    with ValkeyServer() as server, opened("in_memory", returning(value), server.url) as readers:
        calls = {name: calls_in(TURN, reader) for name, reader in readers.items()}
        operations = {"dict[key]": indexed}
        operations |= {name: reader.loop(keys[: calls[name]]) for name, reader in readers.items()}
        calls["dict[key]"] = ORDER
        rounds, budgets = 15 if quick else 151, {OURS: 7}
        note = "Seconds of the processor; the base in the same loop."
        how = {"rounds": rounds, "calls": calls, "of_processor": True, "note": note}
        return compared("L1 hit", operations, base="dict[key]", budgets=budgets, **how)


def calls_in(seconds, reader):
    """How many calls a turn has: all keys, or as many as the slow ones can read meanwhile."""
    each = statistics.median(reader.sampler("customer:1")(50))
    return max(100, min(ORDER, int(seconds / each)))


def shared(*, quick):
    """A hit in Redis by read-through, where nothing is kept in memory."""
    with ValkeyServer() as server, opened("shared", returning(value_of(600)), server.url) as readers:
        samplers = {name: reader.sampler("warm") for name, reader in readers.items()}
        rounds, calls = (7, 50) if quick else (21, 500)
        timings = sampled(samplers, rounds=rounds, calls=calls, base=RAW)
    return table("A hit in Redis by read-through, a value of 600 bytes", timings, RAW, budgets={OURS: 1.1})


def stampede(*, quick):
    """How many load when many miss one key at the same moment, and how long that takes them."""
    return together(quick) + over_processes(quick)


def together(quick):
    group = f"{THREADS} threads, or tasks, miss one key at once: loads of {SLOW:g} s each"
    results = []
    loads = Loads()
    with ValkeyServer() as server, opened("in_memory", loads.of, server.url) as readers:
        for name, reader in readers.items():
            loads.begin()
            try:
                reader.race("key", THREADS)
            except Exception as error:  # whatever a peer raises is why it is not measured
                if name == OURS:
                    raise
                once(f"{name} is skipped: {type(error).__name__}: {error}")
                continue
            budget = 1 if name == OURS else None
            results.append(figure(group, name, loads.count, "loads", budget=budget))
    show(group, results)
    return results


def over_processes(quick):
    """The same over processes, for those that say that they see to it."""
    group = f"{PROCESSES} processes of {EACH} threads, or tasks, miss one key at once: loads of {SLOW:g} s each"
    results = []
    with ValkeyServer() as server:
        for peer in PEERS:
            if peer.shared and peer.fleet and installed(peer):
                try:
                    loads = race_of_processes(peer, database(server.url, peer))
                except Skipped as reason:
                    once(str(reason))
                    continue
                results.append(figure(group, peer.name, loads, "loads", budget=1 if peer.name == OURS else None))
    show(group, results)
    return results


SLOW = 0.3


class Loads:
    """A function that takes SLOW seconds, and how often it was called since `begin`."""

    def __init__(self):
        self.count = 0

    def begin(self):
        self.count = 0

    def of(self, peer):
        def load():
            self.count += 1  # one bytecode more or less does not matter: each call takes SLOW seconds
            time.sleep(SLOW)
            return {"id": 1}

        async def awaited():
            self.count += 1
            await asyncio.sleep(SLOW)
            return {"id": 1}

        return awaited if peer.awaited else load


def returning(value, told=lambda _: None):
    """Makes a peer's function that gives `value` at once, and tells that it was called."""

    def load():
        told(value)
        return value

    async def awaited():
        return load()

    return lambda peer: awaited if peer.awaited else load


@contextmanager
def opened(kind, load_of, url):
    """The readers by the names of the peers that are installed and work here; what does not is told."""
    with asyncio.Runner() as runner, ExitStack() as open_now:
        readers = {}
        for peer in PEERS:
            build = getattr(peer, kind)
            if build is None or not installed(peer):
                continue
            given = Given(load_of(peer), database(url, peer), runner.run)
            with ExitStack() as opening:
                try:
                    reader = opening.enter_context(build(given))
                    reader.sampler("warm")(2)
                except Exception as error:  # whatever a peer raises is why it is not measured
                    if peer.name == OURS:
                        raise
                    once(f"{peer.name} is skipped: {error}")
                    continue
                open_now.push(opening.pop_all())
            readers[peer.name] = reader
        yield readers


def database(url, peer):
    """The URL of a database of the peer's own, since some choose the same keys; a server has sixteen."""
    sharing = [one for one in PEERS if one.shared]
    number = sharing.index(peer) if peer in sharing else len(sharing)
    return f"{url.rpartition('/')[0]}/{number}"


@contextmanager
def children(function, peer, url, count):
    """Processes that run `function` of this module with a peer's name and a URL, each ready and waiting for a line.

    Raises Skipped where they end without a word, tell what cannot be read, or do not end in time; RuntimeError where it is ours.
    """
    command = [sys.executable, "-c", f"from {__name__} import {function}; {function}({peer.name!r}, {url!r})"]
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }  # what peers log is theirs
    started = [subprocess.Popen(command, text=True, **pipes) for _ in range(count)]
    try:
        if not all(child.stdout.readline() for child in started):
            raise ValueError("it is not ready")  # noqa: TRY301  # one text for all that a process may fail in
        yield started
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        text = f"{peer.name} does not work in a process of its own: {error}"
        raise (RuntimeError(text) if peer.name == OURS else Skipped(text)) from error
    finally:
        for child in started:
            child.kill()
            child.communicate()


def begin(child):
    child.stdin.write("\n")
    child.stdin.flush()


@contextmanager
def ready(name, url, load_of, *, outage=False):
    """In such a process: a reader that has read once, when the line has come."""
    (peer,) = (peer for peer in PEERS if peer.name == name)
    timeout = TIMEOUT if outage else PATIENCE
    with (
        asyncio.Runner() as runner,
        peer.shared(Given(load_of(peer), url, runner.run, outage=outage, timeout=timeout)) as reader,
    ):
        reader.sampler(f"of its own {time.time()}")(1)
        print("ready", flush=True)
        sys.stdin.readline()
        yield reader


def race_of_processes(peer, url):
    """How many loads there were when PROCESSES processes with EACH threads missed one key."""
    with children("contend", peer, url, PROCESSES) as started:
        for child in started:
            begin(child)
        return sum(json.loads(child.communicate(timeout=ENDED)[0]) for child in started)


def contend(name, url):
    """One of the processes: tells how often it loaded."""
    loads = Loads()
    with ready(name, url, loads.of) as reader:
        loads.begin()
        reader.race("key", EACH)
    print(loads.count, flush=True)


def dead(*, quick):
    """What a first and a later call take where Redis was killed, and where it hangs."""
    return [result for fault in ("killed", "frozen") for result in dead_by(fault, 2.0 if quick else 10.0)]


def dead_by(fault, limit):
    first = f"Redis is {fault}, a timeout of {TIMEOUT} s: the first call"
    later = f"Redis is {fault}, a timeout of {TIMEOUT} s: each call after it"
    budgets = {first: TIMEOUT + 0.05, later: 20e-6}
    results = []
    for peer in PEERS:
        if peer.shared and installed(peer):
            try:
                measured = calls_without(peer, fault, limit)
            except Skipped as reason:
                once(str(reason))
                continue
            for group, (seconds, outcome) in zip((first, later), measured, strict=False):
                budget = budgets[group] if peer.name == OURS else None
                results.append(figure(group, peer.name, seconds, "s", budget=budget, note=outcome))
    for group in budgets:
        shown = [result for result in results if result.group == group]
        show(group, shown)
    return results


def calls_without(peer, fault, limit):
    """Seconds of a first and, on average, of later calls, with a word on what they gave; given up after `limit` seconds."""
    with ValkeyServer() as server, children("persevere", peer, server.url, 1) as (child,):
        server.kill() if fault == "killed" else server.pause()
        begin(child)
        try:
            told = child.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired as error:
            told = (error.stdout or b"").decode()
        finally:
            if fault == "frozen":
                server.resume()
        if not told and child.returncode is not None:
            raise ValueError("it ended without a word")
    return [json.loads(line) for line in told.splitlines()] or [(limit, f"given up after {limit:g} s")]


def persevere(name, url):
    """One process: tells a call's seconds and outcome, and those of the calls after it, for a second at most."""
    logging.disable(logging.CRITICAL)
    loads = []
    with ready(name, url, returning({"id": 1}, loads.append), outage=True) as reader:
        print(json.dumps(attempt(reader, loads)), flush=True)
        began, seconds = time.perf_counter(), []
        while len(seconds) < 1_000 and time.perf_counter() - began < 1:
            took, outcome = attempt(reader, loads)
            seconds.append(took)
        print(json.dumps((statistics.median(seconds), outcome)), flush=True)
        os._exit(0)  # what a peer does about its connections now is not measured, and may take long


def attempt(reader, loads):
    before, started = len(loads), time.perf_counter()
    try:
        reader.sampler("key")(1)
        outcome = "loads" if len(loads) > before else "gives what it has"
    except Exception as error:  # noqa: BLE001  # what a caller would get is what is asked
        outcome = f"raises {type(error).__name__}"
    return time.perf_counter() - started, outcome


def imported(*, quick):
    """The import of each peer."""
    modules = {"redis", *(peer.module for peer in PEERS if installed(peer))} - {LruCache.module}
    statements = {f"import {module}": f"import {module}" for module in sorted(modules)}
    return imports.beside(statements, "The import of each peer", quick=quick)
