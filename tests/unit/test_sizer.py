"""The sizer: what it says against what the process grows by, and what it does to awkward values."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from array import array
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiered_cache._l1.sizer import sizeof

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = 20_000
START = datetime(2024, 1, 1, tzinfo=UTC)


class Plain:
    def __init__(self, place: int) -> None:
        self.number = place + 1000
        self.text = str(place) * 3


@dataclass(slots=True)
class Slotted:
    number: int
    text: str


class Named(NamedTuple):
    number: int
    text: str


def rows_that_share() -> list[dict[str, Any]]:
    categories = [f"category {place} " * 20 for place in range(500)]
    return [{"id": place + 1000, "category": categories[place % 500], "x": place * 1.5} for place in range(ROWS)]


SHAPES: dict[str, Callable[[], Any]] = {
    "rows": lambda: [
        {"id": i + 1000, "name": f"name {i}", "x": i * 1.5, "note": f"note {i} " * 3} for i in range(ROWS)
    ],
    "rows that share texts": rows_that_share,
    "bytes": lambda: [os.urandom(100 + i % 400) for i in range(ROWS)],
    "one text": lambda: "x" * 5_000_000,
    "floats": lambda: [i * 1.1 for i in range(ROWS * 5)],
    "tuples": lambda: [(i + 1000, f"k{i}", i * 0.5) for i in range(ROWS)],
    "dict": lambda: {f"key:{i}": f"value {i} " * 4 for i in range(ROWS)},
    "nested": lambda: {f"k{i}": {"tags": [f"t{i}", f"u{i}"], "at": {"geo": (i * 1.5, i * 2.5)}} for i in range(ROWS)},
    "sets": lambda: [{f"a{i}", f"b{i}", i + 1000} for i in range(ROWS)],
    "a set": lambda: {f"member {i}" for i in range(ROWS)},
    "decimals and times": lambda: [(Decimal(i) / 7, START + timedelta(seconds=i)) for i in range(ROWS)],
    "objects": lambda: [Plain(i) for i in range(ROWS)],
    "slots": lambda: [Slotted(i + 1000, str(i) * 3) for i in range(ROWS)],
    "named tuples": lambda: [Named(i + 1000, str(i) * 3) for i in range(ROWS)],
    "many lists": lambda: [[f"x{i}/{j}" for j in range(100)] for i in range(1000)],
    "few large lists": lambda: [[f"x{i}/{j}" for j in range(10_000)] for i in range(10)],
    "the same row": lambda: [{"a": 1, "b": "x" * 1000}] * ROWS,
    "one large among small": lambda: [b"x" * 40, *(os.urandom(40) for _ in range(ROWS)), os.urandom(3_000_000)],
    "deque": lambda: deque(f"item {i}" for i in range(ROWS)),
    "small": lambda: [{"id": i + 1000, "name": f"name {i}"} for i in range(100)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_size_is_what_the_process_grows_by(shape: str) -> None:
    """Within a quarter of the bytes that were asked for; the allocator's rounding, which is none of those, included."""
    make = SHAPES[shape]
    make()  # so that what is made once only, such as a class's shared keys, is not counted
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    value = make()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.8 <= sizeof(value) / grown <= 1.25


def test_what_the_interpreter_keeps_anyway_is_free() -> None:
    """Singletons and small ints cost nothing, nor do classes, modules and functions that a value leads to."""
    for free in (
        None,
        True,
        False,
        0,
        -5,
        256,
        "",
        chr(97),
        b"",
        b"ab"[:1],
        (),
        Ellipsis,
        os,
        len,
        Plain,
        Plain.__init__,
    ):
        assert sizeof(free) == 0
    assert sizeof([None, 7, "", os, Plain, len]) == sizeof([1] * 6)


def test_an_object_counts_once() -> None:
    """A text that stands in a value many times costs its bytes once, and its places."""
    text = "x" * 10_000
    assert sizeof([text] * 5) == sizeof([None] * 5) + sizeof(text)
    assert sizeof({"a": [text], "b": (text,)}) < 1.1 * sizeof(text)
    assert sizeof([text, str(text + "y")]) > 2 * len(text)


def test_rings_and_depth_are_no_trouble() -> None:
    """A value that holds itself ends, and 100,000 levels need no stack."""
    ring: list[Any] = ["x" * 1000]
    ring.append({"again": ring})
    assert 1000 < sizeof(ring) < 2000
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    assert sizeof(deep) >= 100_000 * sys.getsizeof([None])
    ring.extend([ring] * 10_000)
    assert sizeof(ring) < 100_000


@pytest.mark.parametrize("kind", [list, tuple, deque, bytearray, OrderedDict.fromkeys, frozenset, set])
def test_every_collection_counts_with_what_is_in_it(kind: Callable[[Any], Any]) -> None:
    """No collection hides what it holds, few elements or many."""
    for count in (10, 10_000):
        if kind is bytearray:
            assert sizeof(bytearray(count)) >= count
        else:
            assert sizeof(kind([f"{place:0100}" for place in range(count)])) > 0.9 * count * sys.getsizeof("x" * 100)


def test_subclasses_of_collections_count_with_what_is_in_them() -> None:
    """Elements are found by the built-in methods, whatever a subclass makes of its own."""

    class Silent(dict[str, str]):
        def __len__(self) -> int:
            return 0

        def __iter__(self) -> Any:
            raise RuntimeError

    for count in (10, 10_000):
        entries = {f"{place:0100}": "x" for place in range(count)}
        for subclass in (Silent, lambda given: defaultdict(str, given)):
            assert sizeof(subclass(entries)) > 0.9 * count * sys.getsizeof("x" * 100)


def test_buffers_count_with_their_bytes() -> None:
    """Arrays, views and whatever has `nbytes` count with what they keep, without any library being imported."""

    class View:
        nbytes = 70_000

    class Odd:
        @property
        def nbytes(self) -> int:
            raise RuntimeError

    assert sizeof(array("d", [0.0] * 1000)) >= 8000
    assert 10_000 <= sizeof(memoryview(bytes(10_000))[:10]) < 11_000
    assert 70_000 <= sizeof([View()]) < 71_000
    assert sizeof([Odd()]) > 0


def test_an_object_that_does_not_tell_its_size_counts_by_its_type() -> None:
    """A broken `__sizeof__` is no reason to fail, and what it refers to still counts."""

    class Broken:
        __slots__ = ("text",)

        def __init__(self) -> None:
            self.text = "x" * 5000

        def __sizeof__(self) -> int:
            raise RuntimeError

    assert 5000 < sizeof(Broken()) < 6000
    assert 5000 < sizeof([Broken()]) < 6000
    assert sizeof([Broken() for _ in range(10_000)]) > 0.9 * 50_000_000


def test_attributes_cost_their_places() -> None:
    """An object with free attributes still costs a pointer for each, few objects or sampled ones."""

    class Wide:
        def __init__(self) -> None:
            for place in range(20):
                setattr(self, f"attribute_{place}", None)

    for count in (1, 10_000):
        assert sizeof([Wide() for _ in range(count)]) >= count * (object.__sizeof__(Wide()) + 20 * 8)


def test_measuring_leaves_no_trace() -> None:
    """Attributes stay where they are: an object's dict is not made in order to be measured."""
    before = Plain(1)
    sizeof(before)
    assert not any(type(part) is dict for part in gc.get_referents(before))


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    )
)
def test_a_value_costs_at_least_what_it_holds(value: Any) -> None:
    """Putting a value into a list never makes it cheaper, and no size is negative."""
    assert 0 <= sizeof(value) <= sizeof([value])
