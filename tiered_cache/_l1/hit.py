"""The one function that a plain L1 hit runs."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from tiered_cache._options import OF_LOADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._entry import Entry


def plain_hit(
    hot: dict[str, tuple[Any, float, Entry]],
    clock: Callable[[], float],
    otherwise: Callable[[str, Any, dict[str, Any]], Any],
) -> tuple[Callable[..., Any], Callable[[float], None]]:
    """`get_or_load` for armed entries, and the setter of the moment before which no plain hit is answered.

    That moment is the latest that the long way has seen: a clock that reads earlier has stepped back, and the long way
    must look into it. It is closed over, as are the other two, since an attribute look-up is a tenth of a hit. Options that
    are about loads alone need no look: the long way checks them where there is one.
    """
    floor = -inf

    def get_or_load(key: str, loader: Any, **options: Any) -> Any:
        try:
            now = clock()
            if floor <= now:  # before the look: another thread drops what it hears of, and then lowers the floor
                value, until, entry = hot[key]
                if now < until and (not options or options.keys() <= OF_LOADS):
                    entry.hits += 1
                    return value
        except (KeyError, TypeError):  # TypeError: an unhashable key, and the long way says so better
            pass
        return otherwise(key, loader, options)

    def not_before(moment: float) -> None:
        nonlocal floor
        floor = moment

    return get_or_load, not_before
