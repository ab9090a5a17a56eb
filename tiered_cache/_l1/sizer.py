"""How much memory a value keeps: the measure by which L1's budget in bytes is kept.

The rules:

- Deep: what a value refers to counts with it. An object that is reached twice counts once per value.
- Free: None, booleans, small ints, empty and one-character texts, and whatever else the interpreter keeps one of.
- Not followed, and free: classes, modules, functions, methods, code, frames. They are the program's, not the value's.
- An object with `nbytes` (a NumPy array, an Arrow table) counts as at least that, and is not followed.
- Each block is rounded up to 16 bytes, as CPython's allocator does, and the garbage collector's header counts.
- A container of more than 4,096 elements, and a level of the value that would have more than 65,536, is measured by an
  even sample and scaled up. In the sample an object counts in inverse proportion to the references to it, so that what
  all rows share counts about once. Elements of 64 KiB and more that stand in such a container itself count exactly.

Accuracy: within 15 % of the process's growth for rows, texts, bytes, numbers, objects and nested containers. Known
misses: sampled elements that differ wildly inside; in a sampled container, what two or three elements share counts up
to three times; memory that a C extension does not report through `__sizeof__` or `nbytes`.
"""

from __future__ import annotations

import gc
from collections import Counter, defaultdict, deque
from math import log2
from sys import getrefcount, getsizeof
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HUGE: Final = 4096
"""Elements above which a container is sampled."""
_LEVEL: Final = 65_536
"""Objects above which what the containers of one level hold is sampled."""
_SAMPLE: Final = 1024
_FEWEST: Final = 64
_HEAVY: Final = 65_536
"""Bytes from which on an element of a huge container counts by itself."""

_SINGLES: Final[tuple[object, ...]] = (
    *(None, True, False, Ellipsis, NotImplemented, (), "", b""),
    *range(-5, 257),
    *map(chr, range(256)),
    *(bytes(range(256))[code : code + 1] for code in range(256)),
)
_FREE: Final = frozenset(
    map(id, _SINGLES)
)  # the objects are kept too: an id means something only while its object lives
_NOT_THE_VALUES: Final = (
    type,
    ModuleType,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    CodeType,
    FrameType,
    TracebackType,
)
_COLLECTIONS: Final[tuple[Any, ...]] = (list, dict, tuple, set, frozenset, deque)
_ATOMS: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None)})

# Flags of a type in CPython: its objects may refer to others; they keep attributes outside what getsizeof sees.
_HAVE_GC: Final = 1 << 14
_MANAGED_DICT: Final = 1 << 4

_GOLDEN: Final = 0.6180339887498949
_Batch: TypeAlias = "tuple[list[Any], float]"
"""Objects, and how many of their like each stands for."""


def sizeof(value: Any) -> int:
    """Bytes of memory that keeping `value` costs the process, by the rules of this module."""
    if type(value) in _ATOMS:
        return 0 if id(value) in _FREE else _rounded(getsizeof(value))
    total = 0.0
    seen: set[int] = set()
    batches: list[_Batch] = [([value], 1.0)]
    while batches:
        found, weight = batches.pop()
        parts = {id(part): part for part in found if id(part) not in seen and id(part) not in _FREE}
        seen.update(parts)
        for group, share in _shares(found, parts, weight):
            kinds: set[type[object]] = {kind for kind in set(map(type, group)) if not issubclass(kind, _NOT_THE_VALUES)}
            total += share * _shallow(group, kinds)
            followed = {kind for kind in kinds if _refers(kind)}
            if followed:
                batches.extend(_inside([part for part in group if type(part) in followed], share))
    return int(total)


def _shares(found: list[Any], parts: dict[int, Any], weight: float) -> list[_Batch]:
    """The parts in groups, each with the number of objects that one of it stands for.

    A sampled object stands for `weight` others like it, unless it is shared: one that a thousand elements refer to is
    found as often as its references are many, and is there once.
    """
    if weight == 1.0:
        return [(list(parts.values()), 1.0)]
    times = Counter(map(id, found))
    groups: defaultdict[int, list[Any]] = defaultdict(list)
    for (identity, part), counted in zip(parts.items(), _references(parts), strict=True):
        sampled = times[identity]
        references = max(sampled, counted - sampled - _OWN_REFERENCES - _FORGIVEN)
        groups[round(4 * log2(max(1.0, weight * sampled / references)))].append(part)
    alone = round(4 * log2(weight))
    return [(group, weight if quarters == alone else 2 ** (quarters / 4)) for quarters, group in groups.items()]


def _references(parts: dict[int, Any]) -> list[int]:
    return [getrefcount(part) for part in parts.values()]


_OWN_REFERENCES: Final = _references({0: object()})[0]
"""What counting references adds to them, the dict's own included; it differs between versions of Python."""

_FORGIVEN: Final = 2
"""References that may be someone else's and soon gone: the caller's original, what a loader built it from."""


def _shallow(group: list[Any], kinds: set[type[object]]) -> int:
    """Bytes of the objects themselves that are of these types."""
    try:
        total = sum(_rounded(getsizeof(part)) for part in group if type(part) in kinds)
    except Exception:  # noqa: BLE001 - a foreign __sizeof__ may raise anything
        return sum(_rounded(type(part).__basicsize__) for part in group if type(part) in kinds)
    for kind in kinds:
        if _is_buffer(kind):
            total += sum(_beyond(part) for part in group if type(part) is kind)
        elif kind.__flags__ & _MANAGED_DICT:
            total += sum(_rounded(8 * len(gc.get_referents(part)) + 8) for part in group if type(part) is kind)
    return total


def _beyond(buffer: Any) -> int:
    """Bytes that a buffer holds and that its own size leaves out, as for a view of another's memory."""
    try:
        return max(0, int(buffer.nbytes) - getsizeof(buffer))
    except Exception:  # noqa: BLE001 - a foreign attribute may be anything
        return 0


def _rounded(size: int) -> int:
    return (size + 15) & -16


def _is_buffer(kind: type[object]) -> bool:
    return hasattr(kind, "nbytes") and kind is not memoryview  # a memoryview leads to the object whose memory it shows


def _refers(kind: type[object]) -> bool:
    return bool(kind.__flags__ & _HAVE_GC) and not _is_buffer(kind)


def _inside(holders: list[Any], weight: float) -> Iterator[_Batch]:
    """What the holders refer to: all of it, or an even sample where that is too much."""
    counts = list(map(_count, holders))
    small = [holder for holder, count in zip(holders, counts, strict=True) if count <= _HUGE]
    huge = [holder for holder, count in zip(holders, counts, strict=True) if count > _HUGE]
    expected = sum(count for count in counts if count <= _HUGE)
    factor = 1.0
    if expected > _LEVEL:
        kept = max(4 * _FEWEST, len(small) * _LEVEL // expected)
        if kept * 4 <= len(small):
            factor = len(small) / kept
            small = _even_sample(small, kept)
    parts = gc.get_referents(*small)
    for holder in small:
        if issubclass(type(holder), dict):  # the collector, whose view this is, leaves out keys that are text
            parts.extend(dict[Any, Any].keys(holder))
    yield parts, weight * factor
    for holder in huge:
        for elements in _elements(holder):
            yield from _sampled(elements, max(_FEWEST, _SAMPLE // len(huge)), weight)


def _count(holder: Any) -> int:
    base = _collection(holder)
    return 8 if base is None else base.__len__(holder)


def _elements(holder: Any) -> Iterator[Sequence[Any]]:
    base = _collection(holder)
    if type(holder) in (list, tuple):
        yield holder
    elif base is dict:
        yield from (list(dict[Any, Any].keys(holder)), list(dict[Any, Any].values(holder)))
    else:
        yield list(base.__iter__(holder))


def _collection(holder: object) -> Any:
    """The built-in collection that an object is or derives from: its methods tell the truth about what it holds."""
    return next((base for base in _COLLECTIONS if issubclass(type(holder), base)), None)


def _sampled(elements: Sequence[Any], count: int, weight: float) -> Iterator[_Batch]:
    sample = _even_sample(elements, count)
    try:
        largest = max(map(getsizeof, elements))
    except Exception:  # noqa: BLE001 - a foreign __sizeof__ may raise anything
        largest = 0
    if largest >= _HEAVY:
        yield [element for element in elements if getsizeof(element) >= _HEAVY], weight
        sample = [element for element in sample if getsizeof(element) < _HEAVY]
    yield sample, weight * len(elements) / count


def _even_sample(items: Sequence[Any], count: int) -> list[Any]:
    """Items spread evenly, and without a step that could fall in with a period in them."""
    return [items[int(place * _GOLDEN % 1.0 * len(items))] for place in range(count)]
