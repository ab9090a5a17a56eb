"""What the fault tests share: their report, servers to be spoilt, and caches before them."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

sys.path.insert(0, str(Path(__file__).parents[1] / "l2"))  # for its rig
from report import FAULT, MEASURED, markdown, rows_of
from rig import Rig

from tiered_cache.local.proxy import FaultProxy
from tiered_cache.local.valkey import ValkeyServer
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-report", metavar="FILE", type=Path, help="write what was measured there, as Markdown")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note which fault each test is about, in whatever folder it stands, also where it is skipped."""
    for item in items:
        item.user_properties += [(FAULT, " ".join(mark.args)) for mark in item.iter_markers("fault")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    outcomes = ("passed", "failed", "skipped", "error", "xfailed", "xpassed")
    rows = rows_of(report for outcome in outcomes for report in terminalreporter.stats.get(outcome, ()))
    if rows:
        terminalreporter.section("faults, and what was measured")
        for row in rows:
            terminalreporter.write_line(str(row))
    path = config.getoption("--fault-report", None)
    if path is not None:
        path.write_text(markdown(rows), encoding="utf-8")


@pytest.fixture
def measured(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Call it with what was seen: it is printed, and stands in the report."""
    faults = [mark.args for mark in request.node.iter_markers("fault")]

    def measured(seen: str) -> None:
        record_property(MEASURED, seen)
        for number, name in faults:
            print(f"{number} {name}: {seen}")  # noqa: T201  # that is its purpose

    return measured


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of the test's own, to be spoilt."""
    with ValkeyServer(config=("--enable-debug-command", "yes")) as started:
        yield started
        if started.running:
            started.resume()


@pytest.fixture
def admin(server: ValkeyServer) -> Iterator[redis.Redis]:
    """A client of that server, for whoever spoils it."""
    with redis.Redis(port=server.port) as client:
        yield client


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[FaultProxy]:
    """Stands before the session's server."""
    with FaultProxy(valkey.host, valkey.port) as started:
        yield started


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a fault brings with it, ended after the test."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def rig_of(clock: FakeClock) -> Iterator[Callable[..., Rig]]:
    """Makes rigs, and closes them."""
    rigs: list[Rig] = []

    def make(address: Any, planter: str | None = None, **options: Any) -> Rig:
        rigs.append(Rig(address, planter, clock, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()
