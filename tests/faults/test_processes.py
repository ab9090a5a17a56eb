"""Processes that are killed, frozen, copied and starved of CPU, and what that does to the others."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from children import LEASE, NAMESPACE, VICTIMS_KEYS, Child, cache_at
from rig import Rig, wait_until, within
from watched import leases, value_of

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache._l2.codec import MsgpackCodec
from tiered_cache._l2.envelope import Stored, unseal
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache.local.proxy import FaultProxy
    from tiered_cache.local.valkey import ValkeyServer

    RigOf = Callable[..., Rig]
    Measured = Callable[[str], None]


@pytest.fixture
def admin(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=valkey.port) as client:
        yield client


def entry_of(admin: redis.Redis, key: str) -> Stored | None:
    """What L2 holds under `key`, unsealed. Raises Unreadable."""
    data = admin.get(f"tc1:{{{NAMESPACE}|{key}}}")
    return None if data is None else unseal(data, f"{NAMESPACE}|{key}", max_bytes=1 << 20)


# Killed


@pytest.mark.faults
@pytest.mark.fault("F61", "500 processes killed in mid-call")
def test_killed_in_mid_call(valkey: ValkeyServer, admin: redis.Redis, measured: Measured) -> None:
    """After each SIGKILL every entry is whole, and no lease lasts longer than it may."""
    kills, seed = 500, int(os.environ.get("TIERED_CACHE_SEED", "1"))
    seen: dict[str, int] = {"entries": 0, "leases": 0}
    longest = 0
    with Child("victims", url=valkey.url, kills=kills, seed=seed) as child:
        for _ in range(kills):
            assert child.says() == signal.SIGKILL
            for key in VICTIMS_KEYS:
                stored = entry_of(admin, key)
                if stored is not None:
                    assert MsgpackCodec().decode(stored.payload) == value_of(key)
                    seen["entries"] += 1
            left = leases(admin).values()
            assert all(milliseconds <= 1000 * LEASE for milliseconds in left)
            seen["leases"] += len(left)
            longest = max(longest, *left, 0)
            child.tell()
    with cache_at(valkey.url) as cache, within(60):
        answers = [cache.get_or_load(key, lambda key=key: value_of(key)) for key in VICTIMS_KEYS]
    assert answers == [value_of(key) for key in VICTIMS_KEYS]
    assert not leases(admin)
    measured(
        f"seed {seed}: {seen['entries']} entries looked at, 0 unreadable; {seen['leases']} leases left behind, "
        f"of {longest} ms at most"
    )


# Copied


@pytest.mark.fault("F64", "20 copies of one warm process")
def test_copies_of_a_warm_process(valkey: ValkeyServer, admin: redis.Redis, measured: Measured) -> None:
    """No two of them share a connection, a lease's token or a random number."""
    copies = 20
    with Child("clones", url=valkey.url, copies=copies) as child:
        names = {child.says() for _ in range(copies)}  # all are in their loaders now
        connections = len(admin.client_list(_type="normal")) - 1
        tokens = admin.mget(leases(admin))
        child.tell()
        assert child.says() == "done"
    lives = [entry.fresh_for for name in names if (entry := entry_of(admin, name)) is not None]
    measured(
        f"{connections} connections, {len(set(tokens))} tokens in {len(tokens)} leases, "
        f"{len(set(lives))} lives of between {min(lives):.0f} and {max(lives):.0f} s"
    )
    assert connections >= copies
    assert len(set(tokens)) == len(tokens) == copies
    assert len(set(lives)) == len(lives) == copies


# Clocks


class TrueClock(FakeClock):
    """Keeps the time that has truly gone by, and by how much the wall clock was ever set back."""

    def __init__(self) -> None:
        super().__init__()
        self.true = 0.0
        self.set_back = 0.0

    def move(self, chance: random.Random) -> None:
        """Let time pass, freeze, or correct the wall clock by up to an hour either way; or start the monotonic one anew."""
        seconds = chance.choice((0.3, 7.0, 60.0, 300.0, 3600.0))
        match chance.randrange(5):
            case 0 | 1:
                self.advance(seconds)
                self.true += seconds
            case 2:
                self.freeze(seconds)
                self.true += seconds
            case 3:
                step = chance.choice((-seconds, seconds))
                self.step(step)
                self.set_back += max(0.0, -step)
            case _:
                self._steady = 1.0


@pytest.mark.parametrize("tiers", ["L1 alone", "L1 and L2"])
@pytest.mark.fault("F63", "clocks that jump by up to an hour, stall and restart")
def test_clocks_that_jump(tiers: str, valkey: ValkeyServer, measured: Measured) -> None:
    """No value is served longer than its TTL. What L2 holds may live on by as much as the wall clock was set back.

    By calls that hold the wall clock against the monotonic one, as plain hits of L1 do not.
    """
    ttl, calls, oldest, beyond = 600.0, 0, 0.0, 0.0
    for seed in range(20):
        chance, clock = random.Random(seed), TrueClock()
        tier = None if tiers == "L1 alone" else RedisTier(valkey.url, ttl=ttl, timeout=20)
        local = MemoryTier(ttl=ttl if tier is None else 60)
        with TieredCache(local, tier, namespace=f"clock-{seed}", clock=clock, coherence="ttl") as cache:
            for _ in range(200):
                clock.move(chance)
                answer = cache.get_entry_or_load("key", lambda clock=clock: (clock.true, clock.set_back))
                began, set_back = answer.value
                age = clock.true - began
                oldest = max(oldest, age)
                beyond = max(beyond, age - ttl - (0.0 if tier is None else clock.set_back - set_back))
                calls += 1
    measured(
        f"{tiers}: {calls} calls, oldest value {oldest:.0f} s at a TTL of {ttl:.0f} s, {beyond:.1f} s beyond the bound"
    )
    assert beyond <= 1.0  # a step of up to a second is not noticed


@pytest.mark.fault("F63", "another machine's monotonic clock")
def test_another_monotonic_clock(valkey: ValkeyServer, measured: Measured) -> None:
    """A process whose monotonic clock shows something else reads what this one wrote."""
    under = ["unshare", "--time", "--monotonic", "1000000", "--boottime", "1000000", "--fork"]
    tried = subprocess.run([*under, "true"], capture_output=True, text=True) if shutil.which("unshare") else None
    if tried is None or tried.returncode:
        pytest.skip(f"needs a time namespace: {tried.stderr.strip() if tried else 'the command unshare is not there'}")
    keys = [f"key-{number}" for number in range(20)]
    with cache_at(valkey.url) as cache:
        for key in keys:
            cache.set(key, key)
    with Child("reader", under=under, url=valkey.url, keys=keys) as child:
        said = child.says()
    ahead = said["monotonic"] - time.monotonic()
    measured(f"{len(said['found'])} values read at a monotonic clock {ahead:.0f} s ahead, errors {said['errors']}")
    assert said["found"] == keys
    assert ahead > 900_000


# Interrupted


class Alarm(BaseException):
    """What a signal's handler raises. An Exception could not be told from one of the connection's own."""


@pytest.mark.fault("F68", "SIGALRM in mid-read")
def test_a_signal_in_mid_read(proxy: FaultProxy, valkey: ValkeyServer, rig_of: RigOf, measured: Measured) -> None:
    """What a handler raises reaches the caller, and the next call gets its own reply."""
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)
    keys = [rig.plant() for _ in range(20)]
    assert rig.reads_l2()

    def ring(*_: object) -> None:
        raise Alarm

    before, rung = signal.signal(signal.SIGALRM, ring), 0
    try:
        for key in keys[:10]:
            proxy.hang()
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.03)
                rig.cache.get(key)
            except Alarm:
                rung += 1
            proxy.ok()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    values = [rig.ask(key).value for key in keys]
    right = sum(map(str.__eq__, values, keys))
    measured(f"{rung} of 10 alarms reached the caller, {right} of 20 values right after it, errors {rig.errors}")
    assert rung == 10
    assert values == keys


@pytest.mark.fault("F68", "a thread that is ended in mid-read")
def test_a_thread_ended_in_mid_read(proxy: FaultProxy, valkey: ValkeyServer, rig_of: RigOf, measured: Measured) -> None:
    """An exception put into a waiting thread ends it; no flight and no reply of it stays."""
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)
    keys = [rig.plant() for _ in range(10)]
    assert rig.reads_l2()
    ended: list[str] = []

    def ask() -> None:
        try:
            rig.ask(keys[0])
        except SystemExit:
            ended.append("SystemExit")

    proxy.hang()
    with rig.hurried():
        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.05)  # it waits for the reply now, or will be ended before
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        thread.join(60)
    proxy.ok()
    assert not thread.is_alive()
    rig.clock.advance(61)
    values = [rig.ask(key).value for key in keys]
    measured(f"ended with {ended}; {sum(map(str.__eq__, values, keys))} of 10 right after")
    assert values == keys


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.fault("F68", "a fork with open connections")
def test_a_fork_with_open_connections(valkey: ValkeyServer, rig_of: RigOf, measured: Measured) -> None:
    """Parent and child call at the same time, and each gets what is its own."""
    rig = rig_of(valkey.url)
    keys = [rig.plant() for _ in range(200)]
    assert rig.reads_l2()
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            right = sum(rig.ask(key).value == key for key in keys[:100])
            os.write(into, bytes([right, len(rig.errors)]))
        finally:
            os._exit(0)
    right = sum(rig.ask(key).value == key for key in keys[100:])
    os.waitpid(child, 0)
    of_child, errors = os.read(out, 2)
    os.close(out)
    os.close(into)
    measured(f"{right} of 100 right in the parent, {of_child} of 100 in the child, errors {rig.errors}")
    assert (right, of_child, errors, rig.errors) == (100, 100, 0, {})


@pytest.fixture
def starved() -> Iterator[list[str]]:
    """What puts a command into a control group with 7 % of a CPU: what Lambda gives with 128 MB."""
    name = f"tiered-cache-{os.getpid()}"
    for root, limit in ((Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us"), (Path("/sys/fs/cgroup"), "cpu.max")):
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            assert (group / "cgroup.procs").exists()  # else it is a folder as any other
            (group / limit).write_text("7000" if "quota" in limit else "7000 100000")
        except (AssertionError, OSError):
            group.rmdir()
            continue
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
        return
    pytest.skip("needs a writable control group for the CPU (root, /sys/fs/cgroup)")


@pytest.mark.faults
@pytest.mark.fault("F68", "7 % of a CPU, as Lambda gives with 128 MB")
def test_a_small_share_of_a_cpu(starved: list[str], valkey: ValkeyServer, measured: Measured) -> None:
    """Importing and connecting are slow there, and the values are right; what is too late is a miss, and not wrong."""
    keys = [f"key-{number}" for number in range(200)]
    with cache_at(valkey.url) as cache:
        for key in keys:
            cache.set(key, key)
    began = time.monotonic()
    with Child("reader", under=starved, url=valkey.url, keys=keys, timeout=0.5) as child:
        said = child.says()
    right = sum(map(str.__eq__, keys, (str(found) for found in said["found"])))
    measured(
        f"{right} of 200 reads right, {said['found'].count(None)} missed, in {said['took']:.2f} s "
        f"({time.monotonic() - began:.1f} s with the start), errors {said['errors']}"
    )
    assert right + said["found"].count(None) == 200
