"""Several faults at once: a fleet at work on a real server while faults of its seed's choice come and go; then its history
is judged. Each run prints what it was and what it measured.

`TIERED_CACHE_SEEDS="1 2 3"` chooses the seeds (three of them by default; a nightly run takes twenty), and
`TIERED_CACHE_SECONDS` how long each run is (10; nightly 60). `TIERED_CACHE_HISTORY` names a file for the last history.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.managers import BaseManager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from chaos import Chaos, Target
from checks import violations
from fleet import CALM, LEASES, POLICY, THREADS, TIMEOUT, Report, live, live_alone
from history import History, Origin
from process_checks import footing, leaks

from tiered_cache.local.proxy import FaultProxy
from tiered_cache.local.valkey import ValkeyServer

if TYPE_CHECKING:
    from history import Disturbance

SEEDS = [int(seed) for seed in os.environ.get("TIERED_CACHE_SEEDS", "1 2 3").split()]
SECONDS = float(os.environ.get("TIERED_CACHE_SECONDS", "10"))
CONTAINERS = 4

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(300 + 3 * SECONDS),
    # A proxy that refuses may forget a connection of that very moment.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Origins(BaseManager):
    """Has the origin in a process of its own, where all containers find it."""


Origins.register("Origin", Origin)


@contextmanager
def ways() -> Iterator[tuple[ValkeyServer, list[FaultProxy]]]:
    """A server of the run's own, and a way to it for each container."""
    with ExitStack() as stack:
        server = stack.enter_context(ValkeyServer())
        proxies = [stack.enter_context(FaultProxy(server.host, server.port, seed=n)) for n in range(CONTAINERS)]
        try:
            yield server, proxies
        finally:
            for proxy in proxies:
                proxy.ok()


def judged(
    capsys: pytest.CaptureFixture[str], title: str, reports: Sequence[Report], origin: Origin, done: list[Disturbance]
) -> list[str]:
    """What is wrong with a run; it is printed, with what the run measured."""
    events = [event for report in reports for event in report.events]
    stall = max(report.stall for report in reports)
    loads = [load for report in reports for load in report.loads]
    policy = POLICY if done else replace(POLICY, one_for_all=LEASES)
    history = History(events, loads, origin.versions(), policy, done, stall)
    if "TIERED_CACHE_HISTORY" in os.environ:  # for a closer look
        Path(os.environ["TIERED_CACHE_HISTORY"]).write_bytes(pickle.dumps(history))
    found = [*violations(history), *(fault for report in reports for fault in report.faults)]
    longest = max(events, key=lambda event: event.end - event.start)
    errors: Counter[str] = Counter()
    for report in reports:
        errors.update(report.errors)
    tiers = Counter(event.tier or ("plain" if event.operation == "get_or_load" else "-") for event in history.answers)
    lines = (
        title,
        f"calls {len(events)}, loads {len(history.loads)}, answers by tier {dict(tiers)}",
        f"stale {sum(event.stale is True for event in events)}, raised {count(event.error for event in events)}",
        f"faults of L2 {dict(errors)}; injected {count(one.name for one in done)}",
        f"longest call {longest.end - longest.start:.3f} s ({longest.operation}), longest stall {stall:.3f} s",
        f"violations {len(found)}",
        *found[:10],
    )
    with capsys.disabled():
        sys.stdout.write("\n" + "\n  ".join(lines) + "\n")
    return found


def count(names: Any) -> dict[str, int]:
    return dict(Counter(name for name in names if name))


def threads_of_one_process(seed: int, *, calm: bool = False) -> tuple[str, list[Report], Origin, list[Disturbance]]:
    """A run whose containers are caches of this process, each with threads of its own."""
    origin = Origin()
    origin.set_delay(0.0, 0.002)
    with ways() as (server, proxies):
        targets = [Target(f"c{n}", proxy, SimpleNamespace(value=0.0)) for n, proxy in enumerate(proxies)]
        chaos = Chaos(seed, server, origin, targets)
        how = {"seconds": SECONDS, "timeout": CALM if calm else TIMEOUT}
        with ThreadPoolExecutor(CONTAINERS) as pool:
            lives = [
                pool.submit(live, n, proxies[n].port, origin, targets[n].offset, **how, seed=seed * 10 + n)
                for n in range(CONTAINERS)
            ]
            if not calm:
                chaos.run(SECONDS - 1)
            reports = [done.result() for done in lives]
    what = "calm" if calm else ", ".join(chaos.chosen)
    return f"seed {seed}: {CONTAINERS} x {THREADS} threads, {SECONDS:g} s: {what}", reports, origin, chaos.done


@pytest.mark.parametrize("seed", SEEDS)
def test_containers_in_threads(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever faults meet, no invariant is violated, and nothing is left behind."""
    before = footing()
    found = judged(capsys, *threads_of_one_process(seed))
    assert found + leaks(before) == []


def test_a_calm_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    """Without faults nothing is raised but what an origin says, and with leases each load is the only one of its key."""
    title, reports, origin, done = threads_of_one_process(0, calm=True)
    assert judged(capsys, title, reports, origin, done) == []
    assert {event.error for report in reports for event in report.events} <= {"", "NotFound"}
    assert not any(report.errors for report in reports)


@pytest.mark.parametrize("seed", SEEDS)
def test_containers_in_processes(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for processes, which may be frozen at any point."""
    spawn = multiprocessing.get_context("spawn")
    with ways() as (server, proxies), Origins(ctx=spawn) as manager:
        origin: Origin = manager.Origin()  # type: ignore[attr-defined]
        origin.set_delay(0.0, 0.002)
        offsets = [spawn.RawValue("d", 0.0) for _ in proxies]
        pipes = [spawn.Pipe(duplex=False) for _ in proxies]
        how = {"seconds": SECONDS, "seed": seed}
        children = [
            spawn.Process(target=live_alone, args=(n, proxies[n].port, origin, offsets[n], pipes[n][1]), kwargs=how)
            for n in range(CONTAINERS)
        ]
        for child in children:
            child.start()
        targets = [target_of(n, child, proxies[n], offsets[n]) for n, child in enumerate(children)]
        chaos = Chaos(seed, server, origin, targets)
        chaos.run(SECONDS)
        reports = [pipe.recv() for pipe, _ in pipes]
        for child in children:
            child.join()
        title = f"seed {seed}: {CONTAINERS} processes x {THREADS} threads, {SECONDS:g} s: {', '.join(chaos.chosen)}"
        assert judged(capsys, title, reports, origin, chaos.done) == []


def target_of(number: int, child: Any, proxy: FaultProxy, offset: Any) -> Target:
    return Target(
        f"c{number}",
        proxy,
        offset,
        freeze=lambda: os.kill(child.pid, signal.SIGSTOP),
        thaw=lambda: os.kill(child.pid, signal.SIGCONT),
    )
