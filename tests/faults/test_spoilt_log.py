"""The log of invalidations lost, trimmed, spoilt or out of reach, at the worst moment: after a deletion, before a look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rig import Rig, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tiered_cache.local.valkey import ValkeyServer

    RigOf = Callable[..., Rig]
    Measured = Callable[[str], None]

LOG, MARKS = "tc1:{test|}:log", "tc1:{test|}:marks"


def epoch(admin: redis.Redis) -> str:
    found = admin.hget(MARKS, "epoch")
    assert found is not None
    return str(found.decode())


LOST: dict[str, Callable[[redis.Redis], object]] = {
    "all keys gone": lambda admin: admin.flushall(),
    "the log gone": lambda admin: admin.delete(LOG),
    "the markers gone": lambda admin: admin.delete(MARKS),
    "the log trimmed to nothing": lambda admin: admin.xtrim(LOG, 0),
    "the log trimmed to one record": lambda admin: admin.xtrim(LOG, 1, approximate=False),
    "a record of another version": lambda admin: admin.xadd(LOG, {"hello": "world"}, id=f"{epoch(admin)}-*"),
    "another epoch": lambda admin: admin.hset(MARKS, "epoch", "7"),
    "no epoch at all": lambda admin: admin.hset(MARKS, "epoch", "junk"),
    "another end": lambda admin: admin.hset(MARKS, "end", "junk"),
}
SPOILT: dict[str, Callable[[redis.Redis], object]] = {
    "a string at the log's key": lambda admin: admin.set(LOG, "x"),
    "a list at the markers' key": lambda admin: (admin.delete(MARKS), admin.lpush(MARKS, "x")),
    "strings at both": lambda admin: (admin.set(LOG, "x"), admin.set(MARKS, "x")),
}
REFUSED: dict[str, Callable[[redis.Redis], object]] = {
    "a replica without its primary": lambda admin: (
        admin.config_set("replica-serve-stale-data", "no"),
        admin.replicaof("127.0.0.1", str(free_port())),
    ),
    "a permission taken away": lambda admin: admin.execute_command("ACL", "SETUSER", "reader", "resetkeys", "~other:*"),
}


@pytest.fixture
def rig(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> Rig:
    """A container that has just learnt of something, so that it expects news."""
    admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "&*", "+@all")
    rig = rig_of(f"redis://reader:pw@127.0.0.1:{server.port}", server.url)
    rig.ask("before")
    rig.planter.delete("something")
    rig.clock.advance(61)
    rig.ask("before")
    return rig


@pytest.mark.parametrize("how", LOST)
@pytest.mark.fault("F20", "the log lost after a deletion, before a look")
def test_the_log_is_lost_before_a_look(how: str, rig: Rig, admin: redis.Redis, measured: Measured) -> None:
    """Whatever became of the log: in the next invocation nobody gets what was deleted, held in L1 as it may be."""
    assert rig.cache.get_or_load("key", lambda: "old") == "old"
    rig.planter.delete("key")
    rig.planter.delete("another")  # which a log trimmed to one record still has
    LOST[how](admin)
    with rig.cache.invocation(lambda: 30.0):
        found = rig.cache.get_or_load("key", lambda: "new")
    again = rig.planter.get_or_load("key", lambda: "newer")
    measured(f"{how}: then {found!r}, and {again!r} elsewhere; {rig.l2.gaps} gap(s) noticed, errors {rig.errors}")
    assert found == "new"
    assert again in ("new", "newer")


def outcome(call: Callable[[], Any]) -> str:
    try:
        return str(call())
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize(
    "how",
    [
        *(pytest.param(how, marks=pytest.mark.fault("F28", "foreign values in place of the log")) for how in SPOILT),
        *(pytest.param(how, marks=pytest.mark.fault("F33", "the log out of reach")) for how in REFUSED),
    ],
)
def test_the_log_cannot_be_read(how: str, rig: Rig, admin: redis.Redis, measured: Measured) -> None:
    """No read raises; an invalidation that cannot be told to others says so."""
    (SPOILT | REFUSED)[how](admin)
    rig.clock.advance(61)
    reads: dict[str, Callable[[], Any]] = {
        "a value that is held": lambda: rig.cache.get_or_load("before", lambda: "loaded"),
        "a new one": lambda: rig.cache.get_or_load("new", lambda: "loaded"),
        "several": lambda: rig.cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, "loaded")),
        "get": lambda: rig.cache.get("nothing", "loaded"),
    }
    found = {name: outcome(call) for name, call in reads.items()}
    deleted = outcome(lambda: rig.cache.delete("before"))
    measured(f"{how}: {found['a new one']!r}; delete: {deleted}; errors {rig.errors}")
    assert all("loaded" in each for each in found.values()), found
    assert deleted == "InvalidationNotDelivered"
