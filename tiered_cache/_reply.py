"""What a shared tier answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tiered_cache._entry import Entry


class Reply(NamedTuple):
    """What the shared tier says of a key."""

    entry: Entry | None
    """What it holds, whatever its age; None if nothing, or nothing readable."""
    reached: bool
    """False if it could not be asked."""


ABSENT = Reply(None, True)
UNREACHED = Reply(None, False)
