"""SnapStart: what is done before a snapshot of the initialised function is taken, and in each copy made from it.

(AWS Lambda Developer Guide, "Improving startup performance with Lambda SnapStart", runtime hooks.) A hook that raises
takes the function down, so none here does; and none connects to anything, since copies have 10 s to start in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiered_cache._log import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._asynchronous import AsyncTieredCache
    from tiered_cache._cache import TieredCache


_REGISTERED: set[TieredCache | AsyncTieredCache] = set()


def register(cache: TieredCache | AsyncTieredCache) -> bool:
    """Have `cache` made ready before the snapshot, and anew in each copy; whether there is somebody to do so.

    Once, however many handlers it has: each copy is one container.
    """
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ImportError:
        log().warning("SnapStart without the module snapshot_restore_py: the cache cannot tell copies from each other")
        return False
    if cache in _REGISTERED:
        return True
    _REGISTERED.add(cache)
    register_before_snapshot(guarded, cache.before_snapshot)
    register_after_restore(guarded, cache.after_restore)
    return True


def guarded(hook: Callable[[], None]) -> None:
    """Run `hook`; what it raises is logged, and the function lives."""
    try:
        hook()
    except Exception as error:  # noqa: BLE001  # whatever it is, the function works without
        log().error("a SnapStart hook failed: %s", type(error).__name__)
