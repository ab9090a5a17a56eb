"""Locks in a process that was forked while another thread of its parent held one, which nobody would ever give back."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet

_OWNERS: WeakSet[ForkSafe] = WeakSet()


class ForkSafe:
    """Has a lock, `_lock`, that is free in each forked process."""

    def __init__(self, kind: Any = threading.Lock) -> None:
        self._kind = kind
        self._lock = kind()
        _OWNERS.add(self)

    def forked(self) -> None:
        """This is a process that was just forked, with one thread. What the lock guards may have been cut in mid-change."""
        self._lock = self._kind()


def _forked() -> None:
    for owner in list(_OWNERS):
        owner.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
