"""Entries that earlier versions have written, kept as files: this version must still read them.

Files are added and never changed. Those of format 1 that are missing are written by

    python tests/compat/test_stored_entries.py v1
"""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from tiered_cache._l2.codec import MsgpackCodec
from tiered_cache._l2.envelope import Kind, Stored, rewritten_header, seal, unseal

HERE = Path(__file__).parent
BERLIN = ZoneInfo("Europe/Berlin")
FACTS = Stored(
    "orders:1", Kind.VALUE, 1.7e9, 3600.0, 600.0, 86400.0, 0.5, (1_700_000_000_000, 3), None, None, (), 1, b"", 4096
)

VALUES: dict[str, Any] = {
    "plain": {"id": 7, "name": "Zoë", "price": 1.5, "tags": ["a", None, True], "raw": b"\x00\xff"},
    "collections": [(1, (2,), []), {3, "x"}, frozenset({(4, 5)}), {None: 1, 2: "b", (3, "k"): {}}, (), set()],
    "numbers": [2**64, -(2**63) - 1, 10**50, 2**64 - 1, Decimal("-0.10"), Decimal("1E+30"), float("inf"), -0.0],
    "times": [
        date(2024, 2, 29),
        time(1, 2, 3, 4),
        time(1, 2, tzinfo=timezone(timedelta(hours=2), "CEST")),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, 5, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
        datetime(2024, 1, 1, 5, tzinfo=timezone(timedelta(microseconds=-5))),
        timedelta(days=-1, microseconds=7),
        UUID(int=2**100),
    ],
    "compressed": ["the same line again and again"] * 50,
}
OTHERS: dict[str, Stored] = {
    "validators": FACTS._replace(etag='"e-1"', last_modified="", tags=("customer:1", "ü"), payload=b"\xc0"),
    "negative": FACTS._replace(kind=Kind.NEGATIVE, codec_id=0),
    "pending": FACTS._replace(kind=Kind.PENDING, codec_id=0, payload=b"query-42"),
}


def entry(name: str) -> Stored:
    """The entry that a file holds."""
    return OTHERS[name] if name in OTHERS else FACTS._replace(payload=MsgpackCodec().encode(VALUES[name]))


@pytest.mark.parametrize("name", [*VALUES, *OTHERS])
def test_entries_of_format_1_are_read(name: str) -> None:
    """Every fact and every value in the file comes back, with its type."""
    stored = unseal((HERE / "v1" / name).read_bytes(), "orders:1", max_bytes=1 << 20)
    if name in OTHERS:
        assert stored == OTHERS[name]
    else:
        assert stored._replace(payload=b"") == FACTS
        value = MsgpackCodec().decode(stored.payload)
        assert value == VALUES[name]
        assert repr(value) == repr(VALUES[name]) or name == "collections"


def test_headers_of_format_1_are_rewritten() -> None:
    """An old entry can be made fresh again in place."""
    data = (HERE / "v1" / "plain").read_bytes()
    header = rewritten_header(data, loaded_at=1.8e9)
    assert unseal(header + data[len(header) :], "orders:1", max_bytes=1 << 20).loaded_at == 1.8e9


if __name__ == "__main__":
    folder = HERE / sys.argv[1]
    folder.mkdir(exist_ok=True)
    for missing in (name for name in [*VALUES, *OTHERS] if not (folder / name).exists()):
        (folder / missing).write_bytes(seal(entry(missing), compress_above=1000))
