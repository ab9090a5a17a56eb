"""What stands under our keys and is none of ours, or of another version; and every server that is installed here."""

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
from rig import Rig
from watched import Load, stored

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.local.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache.testing import FakeClock

    RigOf = Callable[..., Rig]
    Measured = Callable[[str], None]

KEYS = [f"key-{number}" for number in range(20)]


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
    other = TieredCache(
        MemoryTier(ttl=60), RedisTier(server.url, ttl="1h", timeout=20), namespace="other", clock=rig.clock
    )
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
        rig = Rig(server.url, None, clock)
        assert rig.reads_l2()
        key = rig.plant()
        admin.script_flush()
        assert rig.ask(key).tier == "l2"
        rig.cache.delete(key)
        assert rig.ask(key).value == "loaded"
        assert rig.planter.get_many_or_load([key, rig.plant()], lambda _: {})
        server.pause()
        with rig.hurried():
            assert rig.ask().tier == "origin"
        server.resume()
        assert rig.recovers()
        info = admin.info("server")
        name = f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"
        measured(f"{name}: read, written, deleted, flushed, frozen, used again")
        assert rig.errors == {"timeout": 1}
        rig.close()
