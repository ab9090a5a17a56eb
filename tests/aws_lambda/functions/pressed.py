"""Handlers in little memory: a limit on the address space stands for the function's."""

import os
import resource
from pathlib import Path

from origin import WallClock, given

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler

MIB = 2**20
SHAPES = {
    "bytes": lambda: bytes(2 * MIB),
    "text": lambda: "é" * MIB,
    "set": lambda: set(range(50_000)),
    "dict": lambda: {str(number): number for number in range(25_000)},
}
clock = WallClock(os.environ["GATES"])
l2 = RedisTier(os.environ["URL"], ttl="1d", timeout=5, **given("L2"))
cache = TieredCache(MemoryTier(ttl="1h", max_bytes="auto", **given("L1")), l2, clock=clock)
cache.warm_up()


def taken():
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def limit(size):
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def told():
    stats = cache.stats()
    named = {"l1": stats.l1._asdict(), "errors": dict(stats.l2.errors), "unserializable": stats.l2.unserializable}
    return named | {"pid": os.getpid(), "breaker": stats.l2.breaker, "writes": stats.l2.writes}


def value_of(number, size):
    """So many bytes, which cannot be compressed, and say whose they are."""
    value = bytearray(os.urandom(64 * 1024)) * (size // (64 * 1024))
    value[-1] = number
    return value


@lambda_handler(cache)
def handler(event, context):
    """Ask for values of these sizes, by number."""
    limit(taken() + event["room"])
    right = []
    for number, size in event["asked"]:
        value = cache.get_or_load(f"key-{number}", lambda: bytes(value_of(number, size)))
        right.append((len(value), value[-1]) == (size, number))
        del value
    return told() | {"right": right}


def outcome(shape, room, by_many):
    """What a call comes to that has so many bytes left for what it does with a value that is there."""
    value, loads, ballast = SHAPES[shape](), [], []

    def load(keys=None):
        loads.append(keys)
        return value if keys is None else dict.fromkeys(keys, value)

    reserve = bytearray(room)
    limit(taken())
    for size in (MIB, 64 * 1024, 4096, 512):
        try:
            while True:
                ballast.append(bytearray(size))
        except MemoryError:
            pass
    del reserve
    try:
        found = cache.get_many_or_load([shape], load)[shape] if by_many else cache.get_or_load(shape, load)
        came = "right" if found is value or found == value else "wrong"
    except MemoryError:
        came = "MemoryError" if loads else "none"
    finally:
        ballast.clear()
        limit(resource.RLIM_INFINITY)
    return came


@lambda_handler(cache)
def starved(event, context):
    """Ask for values while next to no memory is left."""
    outcomes = []
    for by_many in (False, True):
        for shape in SHAPES:
            for room in event["rooms"]:
                cache.delete(shape)
                outcomes.append([shape, room, by_many, outcome(shape, room, by_many)])
                clock.go_ahead(61)  # past the breaker's pause, so that the next one has L2 again
                assert cache.get_or_load("small", lambda: 1) == 1
    return told() | {"outcomes": outcomes}
