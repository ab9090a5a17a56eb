"""Who asks a container's APIs for what comes next: the runtime, and the extensions."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiered_cache.local._lambda_http import Line
    from tiered_cache.local._lambda_invocation import Invocation


@dataclass(eq=False, slots=True)
class Extension:
    """A registered extension. `seat` is its call of `next`, while it waits there."""

    name: str
    events: frozenset[str]
    external: bool
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    seat: asyncio.Future[dict[str, Any]] | None = None

    @property
    def waits(self) -> bool:
        return self.seat is not None and not self.seat.done()

    def say_farewell(self, event: dict[str, Any]) -> None:
        """Give it the SHUTDOWN event, if it has asked for such events."""
        if "SHUTDOWN" in self.events:
            self.give(event)

    def give(self, event: dict[str, Any]) -> None:
        if self.waits:
            assert self.seat is not None
            self.seat.set_result(event)


@dataclass(eq=False, slots=True)
class Seat:
    """The runtime's call of `next`, on this connection."""

    line: Line
    given: asyncio.Future[Invocation]
