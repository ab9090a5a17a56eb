"""The protocol holds, and needs each of its rules. `TIERED_CACHE_MODEL=large` explores some millions of states more."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from explore import LARGE, SMALL, explore, reachable
from protocol import moves
from world import ALL, Container, Rule, Task, Thread, World, start

LEAST = {
    "two reads": 48_000,
    "two invalidations": 200_000,
    "two flights in a container": 48_000,
    "the log trimmed": 145_000,
    "the log lost": 80_000,
    "the invalidator at home": 78_000,
}
"""States to be reached at least: a model that stands still breaks no invariant."""

STEPS = (
    "another thread catches up",
    "another caller joins the flight",
    "joins another's flight",
    "begins a read, catches up with log and marker",
    "catches up with log and marker",
    "reads version 1 from L2",
    "misses in L2 and takes the lease",
    "misses in L2, finds the lease taken",
    "takes the lease",
    "finds the lease taken",
    "loads version 0 without the lease",
    "fills L2 with version 1",
    "is refused the fill, answers version 0",
    "does not keep it, answers version 0",
    "keeps it in L1, answers version 1",
    "deletes value and lease",
    "expires the value, deletes the lease",
    "seizes the lease",
    "takes the lease, and has no position",
    "reads version 0 from L2, takes the lease",
    "gives up its lease, answers version 0",
    "finds it in L1 meanwhile, answers version 1",
    "lets the lease expire",
)

QUIET = start((1, 1), 1)
TRIMMED = start((1, 1), 1, trims=1)
LOST = start((1, 1), 1, losses=1)
AT_HOME = start((2,), 1, at_home=True)
NEEDED = {
    **dict.fromkeys(Rule, QUIET),
    Rule.GAP_CHECK: TRIMMED,
    Rule.UNCONFIRM_ON_TRIM: TRIMMED,
    Rule.HELD_CHECK: start((2, 1), 1),
    Rule.UNCONFIRMED_IS_NOT_STALE: start((2, 1), 1, trims=1),
    Rule.MARKER_WITH_LOG: LOST,
    Rule.EPOCH_IN_BORN: LOST,
    Rule.UNCONFIRM_ON_LOSS: LOST,
    Rule.OWN_RECORDS: AT_HOME,
    Rule.NOTE_OWN: AT_HOME,
}
"""For each rule a small world that goes wrong without it."""


@pytest.mark.parametrize("name", SMALL)
def test_the_protocol_holds(name: str, record_property: Callable[[str, object], None]) -> None:
    """With all rules no interleaving breaks an invariant."""
    found = explore(SMALL[name])
    record_property("states", found.states)
    assert found.broken is None, str(found)
    assert found.states > LEAST[name]


@pytest.mark.skipif(os.environ.get("TIERED_CACHE_MODEL") != "large", reason="TIERED_CACHE_MODEL=large takes minutes")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LARGE)
def test_the_protocol_holds_at_large(name: str, record_property: Callable[[str, object], None]) -> None:
    """With more reads, invalidations and threads none does either."""
    found = explore(LARGE[name])
    record_property("states", found.states)
    assert found.broken is None, str(found)
    assert found.states > 140_000


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name)
def test_each_rule_is_needed(rule: Rule) -> None:
    """Without the rule some interleaving breaks an invariant, and the trace says which."""
    found = explore(NEEDED[rule], ALL - {rule})
    assert found.broken is not None, f"nothing goes wrong without {rule.name}: {found}"
    assert found.trace


def test_every_step_is_taken() -> None:
    """No step of the protocol is out of the exploration's reach."""
    done = explore(start((2,), 1, threads=2)).done | explore(start((1, 1), 1)).done
    assert [step for step in STEPS if step not in done] == []


@pytest.mark.parametrize("world", [start((2,), 1), start((2,), 1, at_home=True)], ids=["elsewhere", "at home"])
def test_a_read_that_catches_up_undisturbed_is_kept(world: World) -> None:
    """Whatever went before, a read alone that catches up ends with a value in L1 that is as new as the log."""
    alone = 0
    for here in reachable(world):
        container = here.containers[0]
        if here.task is Task.REST and container.reads and container.flights == (None,) and container.position:
            kept = _read(here._replace(invalidations=0))
            assert kept.l1 is not None
            assert kept.l1.version >= here.log.recorded
            alone += 1
    assert alone > 20


def _read(world: World) -> Container:
    """Do all that one read does, with nothing between."""
    begun = next(move.world for move in moves(world, ALL) if move.what.startswith("begins a read"))
    while begun.containers[0].flights[0] is not None:
        begun = next(move.world for move in moves(begun, ALL) if _goes_on(move.who, move.what))
    return begun.containers[0]


def _goes_on(who: str, what: str) -> bool:
    return who == str(Thread(0, 0)) and not what.startswith(("another", "begins a read"))
