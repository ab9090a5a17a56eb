"""What stands in L2 may be anything: it is the entry that was written, or a miss. Nothing else comes of it."""

from __future__ import annotations

import decimal
import itertools
import random
import subprocess
import sys
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from bombs import (
    bombs,
    colliding_keys,
    foreign_formats,
    kinds_that_hold_no_value,
    mapping,
    packed_bombs,
    slow_pairs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import ACCIDENTS, FORGERIES, extension
from stored import (
    CODEC,
    ENTRIES,
    GENUINE,
    KEY,
    MAX_BYTES,
    OTHERS,
    holding,
    judge_accident,
    judge_forgery,
    malformation,
    read,
    same,
    signed,
)

from tiered_cache._l2.envelope import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY_PER_BYTE = 100  # an empty dict takes one byte in msgpack, 64 here, 8 in its list, and 8 for the collector


def test_what_was_written_is_read() -> None:
    """Each of the entries that are damaged below comes back as it was."""
    for name, data in GENUINE.items():
        found = judge_accident(data).entry
        assert found is not None
        assert same(found, ENTRIES[name]), name
        assert malformation(found) is None


@pytest.mark.parametrize("name", GENUINE)
def test_every_cut_is_a_miss(name: str) -> None:
    """No beginning of an entry, and no end of it, is taken."""
    data = GENUINE[name]
    for size in range(len(data)):
        assert judge_accident(data[:size]).fault is not None
        assert judge_accident(data[size + 1 :]).fault is not None


@pytest.mark.parametrize("name", GENUINE)
def test_every_flipped_bit_is_a_miss(name: str) -> None:
    """No bit of an entry can change unnoticed, and with the checksums made right again nothing worse than a value comes."""
    data = bytearray(GENUINE[name])
    for place in range(len(data) * 8):
        data[place // 8] ^= 1 << place % 8
        assert judge_accident(bytes(data)).fault is not None
        judge_forgery(signed(bytes(data)))
        data[place // 8] ^= 1 << place % 8
    assert bytes(data) == GENUINE[name]


def test_every_byte_of_a_header_takes_every_value() -> None:
    """Each other byte is a miss as it stands; signed, it is a well-formed entry or a miss."""
    data = GENUINE["facts"]
    for place in range(96):
        for byte in set(range(256)) - {data[place]}:
            changed = data[:place] + bytes([byte]) + data[place + 1 :]
            assert judge_accident(changed).fault is not None
            judge_forgery(signed(changed))


def test_an_entry_of_another_key_is_a_miss() -> None:
    """Copied under this key, it is told by the key that it holds."""
    assert {judge_accident(data).fault for data in OTHERS} == {Fault.KEY}
    assert {judge_accident(data, KEY + "x").fault for data in GENUINE.values()} == {Fault.KEY}


@pytest.mark.parametrize("mutate", ACCIDENTS, ids=lambda mutate: mutate.__name__)
def test_accidents_are_misses(mutate: Callable[[random.Random], bytes]) -> None:
    """Whatever an accident makes of an entry, a value is read from the genuine bytes alone."""
    for seed in range(4000):
        judge_accident(mutate(random.Random(seed)))


@pytest.mark.parametrize("mutate", FORGERIES, ids=lambda mutate: mutate.__name__)
def test_forgeries_are_misses_or_entries(mutate: Callable[[random.Random], bytes]) -> None:
    """With right checksums there is a well-formed entry or a miss, and some of both."""
    outcomes = [judge_forgery(mutate(random.Random(seed))) for seed in range(4000)]
    assert any(outcome.entry for outcome in outcomes)
    assert any(outcome.fault for outcome in outcomes)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 200), st.sampled_from(sorted(GENUINE)), st.booleans())
def test_any_bytes_are_a_miss(noise: bytes, kept: int, name: str, is_signed: bool) -> None:
    """Any bytes at all, alone or after the beginning of an entry."""
    data = GENUINE[name][:kept] + noise
    judge_forgery(signed(data)) if is_signed else judge_accident(data)


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=300), st.booleans(), st.sampled_from([None, 0]))
def test_any_payload_is_a_value_or_a_miss(payload: bytes, is_wrapped: bool, compress_above: int | None) -> None:
    """A payload of any bytes is a value of the codec's types, or no value."""
    judge_forgery(holding(extension(4, payload) if is_wrapped else payload, compress_above=compress_above))


def test_foreign_formats_are_misses() -> None:
    """Another format, version or codec, and what is no bytes at all: each is told apart by a reason of its own."""
    for name, data in foreign_formats().items():
        fault = read(data).fault
        first = name.split()[0]
        expected = {"version": Fault.VERSION, "codec": Fault.CODEC}.get(first, Fault.NOT_OURS)
        if name == "an envelope after another":
            expected = Fault.CHECKSUM
        if name == "the magic":
            expected = Fault.HEADER
        assert (name, fault) == (name, expected)


def test_nothing_runs() -> None:
    """A pickle that would say so if it were loaded is bytes like any other, under every guise."""

    class Trap:
        def __reduce__(self) -> Any:
            return pytest.fail, ("a pickle was loaded",)

    import pickle

    armed = pickle.dumps(Trap())
    for data in (armed, holding(armed), holding(b"\xc4\x05" + armed), holding(armed, codec_id=2)):
        assert read(data).entry is None


@pytest.mark.parametrize(("name", "data"), kinds_that_hold_no_value().items(), ids=lambda part: str(part)[:30])
def test_what_is_no_value_is_not_served(name: str, data: bytes) -> None:
    """A load that goes on elsewhere, and an absence without a text, are no answers."""
    assert judge_forgery(data).fault in (Fault.CODEC, Fault.SHAPE), name


def test_bombs_are_misses_or_entries() -> None:
    """Each is over soon, as the time limit of the tests sees to, and leaves a well-formed entry or a miss."""
    for make in (bombs, packed_bombs):
        for name, data in make().items():
            outcome = judge_forgery(data)
            assert outcome.entry is not None or outcome.fault in (
                Fault.CODEC,
                Fault.COMPRESSION,
                Fault.TOO_LARGE,
            ), name


def test_bombs_take_bounded_memory() -> None:
    """However little is stored, no more is taken than a value of `max_value_bytes` can take."""
    for name, data in packed_bombs().items():
        if name.startswith("extension") or "say that they are long" in name:
            continue  # many of a few bytes; places that are reserved and never touched, which tests/unit/test_codec.py sees to
        tracemalloc.start()
        outcome = read(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_PER_BYTE * MAX_BYTES, name
        assert outcome


@pytest.mark.parametrize("kind", colliding_keys(0))
def test_keys_made_to_collide_are_a_miss(kind: str) -> None:
    """Some hundred keys of one hash are read; thousands, whose dict would take time by their square, are not."""
    few, many = colliding_keys(300)[kind], colliding_keys(3000)[kind]
    found = read(holding(extension(4, mapping(few)))).entry
    assert found is not None
    assert len(found.value) == 300
    assert read(holding(extension(4, mapping(many)))).fault is Fault.CODEC
    assert read(holding(extension(4, b"\xdc\x0b\xb9\xc7\x00\x02" + b"".join(many)))).fault is Fault.CODEC


@pytest.mark.parametrize(
    "value",
    [
        dict.fromkeys(itertools.product(range(-2, 3), repeat=6), 1),
        set(itertools.product((-1, -2), repeat=7)),
        {frozenset({last, *range(number)}) for last in (-1, -2) for number in range(100)},
        [{-1: "a", -2: "b", -1.0 * 2**61: "c", Decimal(-2 - (2**61 - 1)): "d"}] * 1000,
        {UUID(int=number) for number in range(3000)} | {2**70 + number for number in range(3000)},
    ],
    ids=["grid", "corners", "sets", "numbers", "many"],
)
def test_keys_that_collide_by_nature_are_read(value: Any) -> None:
    """-1 and -2 have one hash, and so have tuples and sets of them: what may be written can be read."""
    assert CODEC.decode(CODEC.encode(value)) == value


def test_keys_that_are_slow_to_compare_are_a_miss() -> None:
    """Comparing a large int with a Decimal takes time by the square of its length."""
    for payload in slow_pairs(1000).values():
        assert read(holding(payload)).entry is not None
    for payload in slow_pairs(100_000).values():
        assert read(holding(payload)).fault is Fault.CODEC


def test_a_context_that_lets_anything_pass_changes_nothing() -> None:
    """What is no number is a miss, though the caller's decimal context would make NaN of it."""
    with decimal.localcontext() as context:
        context.traps[decimal.InvalidOperation] = False
        context.prec = 2
        assert read(holding(extension(6, b"x"))).fault is Fault.CODEC
        found = read(holding(extension(6, b"1.23456"))).entry
    assert found is not None
    assert str(found.value) == "1.23456"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is set with RLIMIT_AS")
def test_no_memory_left_is_a_miss() -> None:
    """A value for which the process has no memory is not read, and nothing is raised."""
    program = (
        "import resource, sys, zlib\n"
        "from bombs import compressed\n"
        "from stored import read\n"
        "size = 200 << 20\n"
        "packer = zlib.compressobj(1)\n"
        "data = compressed(packer.compress(b'\\xc6') + packer.compress((size - 5).to_bytes(4, 'big'))"
        " + b''.join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush(), size)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "print(read(data, max_bytes=2 * size).fault)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
    )
    assert shown.stdout.strip() == Fault.COMPRESSION


def test_the_long_run_finds_nothing_in_a_short_time() -> None:
    """`make fuzz` works: every kind occurs, and it ends well."""
    arguments = ("--count", "4000", "--seed", "1", "--processes", "1")
    program = [sys.executable, str(Path(__file__).with_name("run.py")), *arguments]
    shown = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    assert "0 wrong values, 0 exceptions" in shown
    for mutate in (*ACCIDENTS, *FORGERIES):
        assert mutate.__name__ in shown
