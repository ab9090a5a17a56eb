"""SnapStart: what is closed before the snapshot, what each copy has of its own, and what it may not serve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from functions.origin import Origin, wait_until
from parts import WAIT, ask, before, clients, leases

from tiered_cache._l2.envelope import unseal
from tiered_cache.local import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parts import Make, Record

    from tiered_cache.local import LocalLambda, ValkeyServer

COPIES = 20
INIT = [["load", "k"], ["id"]]
COPY = Path(__file__).parent / "functions" / "copies.py"


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[FaultProxy]:
    """The way to the server."""
    with FaultProxy(valkey.host, valkey.port) as started:
        yield started


@pytest.fixture
def snapped(function: Make, gates: Path, proxy: FaultProxy) -> Callable[..., LocalLambda]:
    """Makes a function that stands where its snapshot is taken, after an init phase that has loaded "k"."""

    def make(**options: object) -> LocalLambda:
        Origin(gates).put("k", "old")
        fn = function("steps.handler", before(proxy, INIT=INIT, **options), initialization="snap-start").start(1)
        fn.settle(WAIT)
        return fn

    return make


def test_connections_are_closed_before_the_snapshot(
    snapped: Callable[..., LocalLambda], proxy: FaultProxy, valkey: ValkeyServer
) -> None:
    """The server sees none; the copy opens one when it first asks L2, and not in its hooks."""
    fn = snapped()
    wait_until(lambda: not clients(valkey))
    assert 1 == proxy.accepted
    restored = ask(fn)
    assert ["old", "origin", "loaded"] == restored.init[0]
    assert (1, 1, 1) == (proxy.accepted, restored.container["restores"], restored.container["cold_starts"])
    after = ask(fn, ["load", "k"])
    assert [["old", "l2", "fresh"]] == after.answers
    assert (2, 2, {}) == (proxy.accepted, after.l2["connects"], after.l2["errors"])


def test_a_warm_up_under_way_has_ended_before_the_snapshot(
    function: Make, gates: Path, proxy: FaultProxy, valkey: ValkeyServer
) -> None:
    """Its connection is closed as any other, and does not come up in a copy."""
    Origin(gates).put("k", "value")
    init = [["warm_up", {"wait": False}]]
    fn = function("steps.handler", before(proxy, INIT=init), initialization="snap-start").start(1)
    fn.settle(WAIT)
    wait_until(lambda: not clients(valkey))
    assert (1, 1) == (proxy.accepted, ask(fn).l2["connects"])
    after = ask(fn, ["load", "k"])
    assert (2, {}, [["value", "origin", "loaded"]]) == (proxy.accepted, after.l2["errors"], after.answers)


def test_a_copy_has_an_id_of_its_own(snapped: Callable[..., LocalLambda]) -> None:
    """Another than the snapshot's, and the same in each of its invocations."""
    fn = snapped()
    first, second = ask(fn, "id"), ask(fn, "id")
    assert first.answers == second.answers == [first.container["id"]]
    assert first.init[1] != first.answers[0]


@pytest.mark.parametrize("coherence", ["invocation", "ttl"])
def test_what_was_invalidated_since_the_snapshot_is_not_served(
    coherence: str, snapped: Callable[..., LocalLambda], function: Make, gates: Path, valkey: ValkeyServer
) -> None:
    """A snapshot is restored long after it was taken; what L1 held is confirmed before it is served."""
    fn = snapped(CACHE={"coherence": coherence})
    Origin(gates).put("k", "new")
    ask(function("steps.handler", before(valkey)), ["delete", "k"])
    assert [["new", "origin", "loaded"]] == ask(fn, ["load", "k"]).answers


@pytest.mark.parametrize("away", ["before the snapshot", "after it"])
def test_a_function_is_restored_though_l2_is_away(
    away: str, snapped: Callable[..., LocalLambda], proxy: FaultProxy
) -> None:
    """The hooks need nobody; what L1 holds is served, since nobody can vouch for it and its data are fresh."""
    if away == "before the snapshot":
        proxy.refuse()
    fn = snapped()
    proxy.refuse()
    after = ask(fn, ["load", "k"])
    assert [["old", "l1", "unconfirmed"]] == after.answers
    assert "hook failed" not in fn.containers[0].log


def test_a_hook_of_ours_that_raises_does_not_take_the_function_down(function: Make) -> None:
    """As where the L2 of somebody else does; the log says so."""
    fn = function("faulty.handler", initialization="snap-start")
    assert {"value": "value", "restores": 1} == fn.invoke({}).value
    assert "a SnapStart hook failed: OSError" in fn.containers[0].log


@pytest.mark.fault("F64", "20 copies of one snapshot, after its hooks")
def test_copies_of_a_snapshot_share_nothing(valkey: ValkeyServer, record_property: Record) -> None:
    """Connections, ids, lease tokens and jitter are each one's own, though pid and memory are the same."""
    script = [sys.executable, str(COPY), valkey.url, str(COPIES)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with (
        subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process,
        redis.Redis(port=valkey.port) as admin,
    ):
        copies = [json.loads(process.stdout.readline()) for _ in range(COPIES)]
        connections = {client["id"] for client in clients(valkey)}
        held = leases(valkey)
        tokens = admin.mget(admin.keys("tc1:*:lease"))
        process.communicate("go on\n", WAIT)
        assert 0 == process.returncode
        names = [f"copies|{copy['key']}" for copy in copies]
        entries = [unseal(admin.get(f"tc1:{{{name}}}"), name, max_bytes=1 << 20) for name in names]
    assert COPIES == len(held) == len(connections) == len(set(tokens))
    assert COPIES == len({copy["id"] for copy in copies}) == len({entry.fresh_for for entry in entries})
    record_property(
        "measured", f"{len(connections)} connections, {len(set(tokens))} tokens, {COPIES} ids, {COPIES} lives"
    )
