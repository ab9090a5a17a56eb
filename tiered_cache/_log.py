"""The library's logger, imported only when there is something to say: one line for each change of state."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger


def log() -> Logger:
    """The logger `tiered_cache`. What is given to it names no key, no value and no secret."""
    from logging import getLogger

    return getLogger("tiered_cache")


_SAID: set[str] = set()
MOST_SAID = 100


def warn_once(text: str, reason: object) -> None:
    """Warn of what each call would say again: only the first time in this process, for the first hundred reasons."""
    said = str(reason)
    if said not in _SAID and len(_SAID) < MOST_SAID:
        _SAID.add(said)
        log().warning(text, said)
