"""Servers that crash, forget, are full or are replicas, while callers go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
from lossy import LossyRelay, needs_loss
from rig import Rig, free_port, wait_until
from watched import Load, leases, stored, value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache.local.valkey import ValkeyServer

    RigOf = Callable[..., Rig]
    Measured = Callable[[str], None]

KEYS = [f"key-{number}" for number in range(20)]


# Under load


def killed(server: ValkeyServer, _: redis.Redis) -> None:
    server.kill()
    server.restart()


def crashed(server: ValkeyServer, admin: redis.Redis) -> None:
    with pytest.raises(redis.ConnectionError):
        admin.execute_command("DEBUG", "SEGFAULT")
    wait_until(lambda: not server.running)
    server.restart()


def emptied(_: ValkeyServer, admin: redis.Redis) -> None:
    admin.flushall()


def without_scripts(_: ValkeyServer, admin: redis.Redis) -> None:
    admin.script_flush()


@pytest.mark.parametrize(
    ("strike", "errors"),
    [
        pytest.param(killed, {"refused", "reset"}, marks=pytest.mark.fault("F02", "a server killed under load")),
        pytest.param(
            crashed, {"refused", "reset", "timeout"}, marks=pytest.mark.fault("F19", "a crash, restarted empty")
        ),
        pytest.param(emptied, set(), marks=pytest.mark.fault("F20", "FLUSHALL under load")),
        pytest.param(without_scripts, set(), marks=pytest.mark.fault("F26", "SCRIPT FLUSH under load")),
    ],
)
def test_callers_go_on(strike: Any, errors: set[str], server: ValkeyServer, measured: Measured) -> None:
    """Two caches of four threads each: no call raises, no value is wrong, and L2 is used again."""
    admin = redis.Redis(port=server.port, retry=None)
    with Load([server.url, server.url], KEYS, threads=8) as load:
        load.until("l2")
        before = load.loads
        strike(server, admin)
        load.until("l2")
        measured(f"{load.check()}; {load.loads - before} loads after it, for {len(KEYS)} keys in 2 caches")
    assert set(load.errors) <= errors
    admin.close()


@pytest.mark.fault("F20", "a log that is lost while a container does nothing")
def test_the_log_is_lost(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, measured: Measured) -> None:
    """The next load notices it, and waits for nobody."""
    rig = rig_of(server.url)
    rig.ask()
    admin.flushall()
    rig.clock.advance(2)
    assert rig.ask("another key").value == "loaded"
    waited, left = rig.cache.stats().origin.waited, leases(admin)
    measured(f"1 load, {waited} waited for another's, {len(left)} leases left, {rig.l2.gaps} gap noticed")
    assert (waited, left) == (0, {})
    assert rig.planter.get("another key") == "loaded"


@pytest.mark.fault("F18", "a line that breaks while 5,000 values are written")
def test_a_pipeline_half_applied(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, measured: Measured) -> None:
    """The caller has all values; what landed in L2 is whole and right."""
    needs_loss()
    keys = [f"many-{number}" for number in range(5000)]
    values = {key: value_of(key) * 20 for key in keys}
    with LossyRelay(server.port) as relay:
        rig = rig_of(relay.url, server.url, timeout=4, compress_above=None)
        relay.lose_after(sum(map(len, values.values())) // 2)
        assert rig.cache.get_many_or_load(keys, lambda missing: {key: values[key] for key in missing}) == values
    landed = [key for key in keys if admin.exists(stored(key))]
    found = rig.planter.get_many_or_load(landed, lambda _: {})
    measured(f"{len(landed)} of {len(keys)} landed, all of them readable and right; errors {rig.errors}")
    assert found == {key: values[key] for key in landed}
    assert 0 < len(landed) < len(keys)
    assert rig.errors == {"timeout": 1}


# Reads go on


def full(_: ValkeyServer, admin: redis.Redis) -> None:
    admin.config_set("maxmemory", admin.info("memory")["used_memory"] + 100_000)


def replica(_: ValkeyServer, admin: redis.Redis) -> None:
    admin.replicaof("127.0.0.1", str(free_port()))


def without_replicas(_: ValkeyServer, admin: redis.Redis) -> None:
    admin.config_set("min-replicas-to-write", 1)


def mended(admin: redis.Redis) -> None:
    admin.config_set("maxmemory", 0)
    admin.config_set("min-replicas-to-write", 0)
    admin.replicaof("NO", "ONE")


@pytest.mark.parametrize(
    ("strike", "error"),
    [
        pytest.param(full, "out_of_memory", marks=pytest.mark.fault("F21", "a server that is full")),
        pytest.param(replica, "read_only", marks=pytest.mark.fault("F23", "a primary that became a replica")),
        pytest.param(without_replicas, "no_writes", marks=pytest.mark.fault("F24", "a primary without its replicas")),
    ],
)
def test_reads_go_on(
    strike: Any, error: str, rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, measured: Measured
) -> None:
    """Writes stop with the first that is refused, reads do not, and when it is mended writes go on."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(100)]
    strike(server, admin)
    for number in range(200):
        rig.cache.get_or_load(f"written-{number}", lambda: "x" * 2000)
    tiers = [rig.ask(key).tier for key in keys]
    measured(f"{tiers.count('l2')} of 100 reads from L2; {rig.l2.skipped} writes left out after errors {rig.errors}")
    assert tiers == ["l2"] * 100
    assert rig.errors.keys() == {error}
    assert rig.errors[error] < 5
    mended(admin)
    rig.clock.advance(61)
    written = rig.l2.writes
    rig.ask()
    assert rig.l2.writes == written + 1


@pytest.mark.parametrize(
    "strike",
    [
        pytest.param(full, marks=pytest.mark.fault("F21", "a server that is full, and 100 calls of set")),
        pytest.param(replica, marks=pytest.mark.fault("F23", "a primary that became a replica, and 100 calls of set")),
    ],
)
def test_what_is_not_taken_does_not_make_reads_dear(
    strike: Any, rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, measured: Measured
) -> None:
    """Invalidations that wait for delivery are not sent again with each read."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(100)]
    rig.cache.get("the log is followed", None)
    strike(server, admin)
    admin.config_set("maxmemory", 1 if strike is full else 0)
    for number in range(100):
        rig.cache.set(f"written-{number}", 1)
    before = admin.info("stats")
    tiers = [rig.ask(key).tier for key in keys]
    after = admin.info("stats")
    sent, made = (after[name] - before[name] for name in ("total_commands_processed", "total_connections_received"))
    measured(
        f"100 reads took {sent} commands, {made} new connections; {rig.l2.undelivered} undelivered; errors {rig.errors}"
    )
    assert tiers == ["l2"] * 100
    assert sent < 1000
    assert made < 10


@pytest.mark.fault("F27", "CLIENT PAUSE WRITE")
def test_writes_are_paused(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, measured: Measured) -> None:
    """What only reads is not held up."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(100)]
    assert rig.reads_l2()
    admin.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    tiers = [rig.ask(key).tier for key in keys]
    measured(f"{tiers.count('l2')} of 100 reads from L2, errors {rig.errors}")
    assert tiers == ["l2"] * 100
    admin.execute_command("CLIENT", "UNPAUSE")


@pytest.mark.fault("F24", "a replica without its primary")
def test_a_replica_without_its_primary(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, measured: Measured
) -> None:
    """MASTERDOWN is 'could not be asked': fresh values of L1 are served unconfirmed."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(10)]
    for key in keys:
        rig.ask(key)
    admin.config_set("replica-serve-stale-data", "no")
    replica(server, admin)
    rig.clock.advance(61)
    reasons = [str(rig.ask(key).reason) for key in keys]
    measured(f"{reasons.count('unconfirmed')} of 10 values served unconfirmed, errors {rig.errors}")
    assert reasons == ["unconfirmed"] * 10
    assert rig.errors.keys() == {"not_ready"}
    mended(admin)
    assert rig.recovers()


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-lru"])
@pytest.mark.fault("F22", "a server of 3 MB that evicts, 4,000 writes")
def test_everything_is_evicted(
    policy: str, rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, measured: Measured
) -> None:
    """Whatever it throws away, the log too, what is served is right, and the rest is loaded again."""
    admin.config_set("maxmemory", 3_000_000)
    admin.config_set("maxmemory-policy", policy)
    rig = rig_of(server.url)
    keys = [f"key-{number}" for number in range(4000)]
    for key in keys:
        assert rig.cache.get_or_load(key, lambda key=key: value_of(key) * 5) == value_of(key) * 5
        rig.clock.advance(0.1)
    answers = {key: rig.planter.get_entry_or_load(key, lambda key=key: value_of(key) * 5) for key in keys[::10]}
    assert all(answer.value == value_of(key) * 5 for key, answer in answers.items())
    from_l2 = sum(answer.tier == "l2" for answer in answers.values())
    evicted = admin.info("stats")["evicted_keys"]
    measured(
        f"{policy}: {evicted} evicted, the log lost {rig.l2.gaps} times; of 400 reads {from_l2} from L2, 0 wrong; "
        f"waited {rig.cache.stats().origin.waited} times; errors {rig.errors}"
    )
    assert evicted > 1000
    assert rig.errors == {}
    assert policy != "volatile-lru" or (rig.l2.gaps == 0 and from_l2 > 0)  # the log has no end to its life
