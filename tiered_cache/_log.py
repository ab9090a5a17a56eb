"""The library's logger, imported only when there is something to say: one line for each change of state."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger


def log() -> Logger:
    """The logger `tiered_cache`. What is given to it names no key, no value and no secret."""
    from logging import getLogger

    return getLogger("tiered_cache")
