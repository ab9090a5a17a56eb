"""Servers that crash, forget, are full, are replicas, or hold what is none of ours, while callers go on."""

from __future__ import annotations

import json
import os
import pickle
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import redis
from lossy import LossyRelay, needs_loss
from rig import Rig, free_port, wait_until
from watched import Load, leases, value_of

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.local.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache.testing import FakeClock

    RigOf = Callable[..., Rig]
    Measured = Callable[[str], None]

KEYS = [f"key-{number}" for number in range(20)]


@pytest.fixture
def admin(server: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as client:
        yield client


def stored(key: str) -> str:
    """The name under which L2 has a key of the rig's namespace."""
    return f"tc1:{{test|{key}}}"


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
        rig = rig_of(relay.url, server.url, timeout=2, compress_above=None)

        def break_down() -> None:
            wait_until(lambda: bool(admin.exists(stored(keys[0]))))
            relay.lose(1)

        breaking = threading.Thread(target=break_down)
        breaking.start()
        assert rig.cache.get_many_or_load(keys, lambda missing: {key: values[key] for key in missing}) == values
        breaking.join()
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


# What stands under a key


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def other_version(entry: bytes, version: int) -> bytes:
    """An entry as a later version of this library might write it: its checksum is right."""
    head = entry[:3] + bytes([version]) + entry[4:92]
    return head + zlib.crc32(head).to_bytes(4, "big") + entry[96:]


@pytest.mark.fault("F28", "values of another type at our keys")
def test_a_foreign_type(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, measured: Measured) -> None:
    """A list, a hash, a set and a stream are misses with a counter, and are left alone by reads."""
    rig = rig_of(server.url)
    admin.lpush(stored("list"), "x")
    admin.hset(stored("hash"), "x", "y")
    admin.sadd(stored("set"), "x")
    admin.xadd(stored("stream"), {"x": "y"})
    names = ("list", "hash", "set", "stream")
    assert [rig.cache.get(name, None) for name in names] == [None] * 4
    kinds = [admin.type(stored(name)).decode() for name in names]
    assert [rig.cache.get_or_load(name, lambda: "loaded") for name in names] == ["loaded"] * 4
    measured(f"4 misses, the values left alone; errors {rig.errors}, breaker {rig.l2.breaker}")
    assert kinds == list(names)
    assert rig.errors["reply"] >= 4
    assert rig.l2.breaker == "closed"


@pytest.mark.fault("F29", "foreign bytes at our keys")
def test_foreign_bytes(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, tmp_path: Path, measured: Measured
) -> None:
    """Random bytes, a pickle, JSON, msgpack, another namespace's entry: each is a miss, and nothing is executed."""
    rig = rig_of(server.url)
    rig.plant()
    other = TieredCache(MemoryTier(ttl=60), RedisTier(server.url, ttl="1h"), namespace="other", clock=rig.clock)
    other.set("key", "of another namespace")
    other.close()
    foreign = {
        "random": os.urandom(300),
        "nothing": b"",
        "pickle": pickle.dumps(Trap(tmp_path / "executed")),
        "json": json.dumps({"value": 1}).encode(),
        "msgpack": msgpack.packb({"value": 1}),
        "namespace": admin.get("tc1:{other|key}"),
    }
    for name, data in foreign.items():
        admin.set(stored(name), data)
    found = {name: rig.cache.get(name, None) for name in foreign}
    loaded = [rig.cache.get_or_load(name, lambda: "loaded") for name in foreign]
    measured(f"{len(found)} misses, unreadable {dict(rig.l2.unreadable)}, errors {rig.errors}")
    assert set(found.values()) == {None}
    assert set(loaded) == {"loaded"}
    assert not (tmp_path / "executed").exists()


@pytest.mark.fault("F30", "a value copied from another key")
def test_the_value_of_another_key(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, measured: Measured) -> None:
    """The key inside the entry is compared."""
    rig = rig_of(server.url)
    admin.copy(stored(rig.plant("a value")), stored("b"))
    assert rig.ask("b").value == "loaded"
    measured(f"a miss, unreadable {dict(rig.l2.unreadable)}")
    assert set(rig.l2.unreadable) == {"key"}


@pytest.mark.fault("F31", "entries that the server does not expire")
def test_entries_that_do_not_expire(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, clock: FakeClock, measured: Measured
) -> None:
    """The times in the entry rule, not the server's."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(10)]
    admin.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    for key in keys:
        admin.persist(stored(key))
    clock.advance(3599)
    fresh = [rig.cache.get(key, None) for key in keys[:5]]
    clock.advance(2)
    late = [rig.cache.get(key, None) for key in keys[5:]]
    loaded = [rig.ask(key).value for key in keys[5:]]
    measured(f"{fresh.count(None)} of 5 missed in time, {late.count(None)} of 5 after their hour")
    assert fresh == keys[:5]
    assert late == [None] * 5
    assert loaded == ["loaded"] * 5


@pytest.mark.fault("F42", "two versions of the format in one L2")
def test_two_versions_at_once(server: ValkeyServer, admin: redis.Redis, measured: Measured) -> None:
    """While another version writes the same keys, each entry of its own is read, and each of the other's is a miss."""
    stop = threading.Event()

    def write_as_another_version() -> None:
        while not stop.wait(0.02):
            for key in KEYS:
                name = f"tc1:{{load|{key}}}"
                entry = admin.get(name)
                if entry is not None and entry[3] == 1:
                    admin.set(name, other_version(entry, 2), px=60_000)

    writing = threading.Thread(target=write_as_another_version)
    with Load([server.url], KEYS) as load:
        writing.start()
        load.until("origin", 100)
        load.until("l2", 100)
        stop.set()
        writing.join()
        shared = load.caches[0].stats().l2
        assert shared is not None
        measured(f"{load.check()}; unreadable {dict(shared.unreadable)}")
        assert set(shared.unreadable) == {"version"}


# Every server that is here


def engines() -> list[Any]:
    from tiered_cache.local.valkey import _in_wheels, find_binary

    found = {str(path): None for path in (Path(find_binary()), *_in_wheels()) if path.is_file()}
    return [pytest.param(path, id=Path(path).parts[-3] + "/" + Path(path).name) for path in found]


@pytest.mark.parametrize("binary", engines())
@pytest.mark.fault("F42", "each server that is installed")
def test_each_engine(binary: str, clock: FakeClock, measured: Measured) -> None:
    """A value goes to L2 and comes back, is deleted, survives a script flush, and is loaded while the server is frozen."""
    with ValkeyServer(binary=binary) as server, redis.Redis(port=server.port) as admin:
        rig = Rig(server.url, None, clock, timeout=0.5)
        assert rig.reads_l2()
        key = rig.plant()
        admin.script_flush()
        assert rig.ask(key).tier == "l2"
        rig.cache.delete(key)
        assert rig.ask(key).value == "loaded"
        assert rig.planter.get_many_or_load([key, rig.plant()], lambda _: {})
        server.pause()
        assert rig.ask().tier == "origin"
        server.resume()
        assert rig.recovers()
        info = admin.info("server")
        name = f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"
        measured(f"{name}: read, written, deleted, flushed, frozen, used again")
        assert rig.errors == {"timeout": 1}
        rig.close()
