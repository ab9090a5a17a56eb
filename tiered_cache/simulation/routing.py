"""Which of the idle containers an event goes to. What Lambda does is not documented, so each answer is an option.

A policy keeps the numbers of the containers that are idle; numbers are given in the order of creation. `add` is called
when a container becomes idle, `take` removes the one that is next and gives its number, or None where none is left.
Containers that went away while they were idle stay in here: whoever takes one throws it away and takes another.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Protocol

from tiered_cache._errors import ConfigurationError
from tiered_cache._units import shown

if TYPE_CHECKING:
    from collections.abc import Callable


class Idle(Protocol):
    """The idle containers, under one policy."""

    def add(self, number: int, /) -> None: ...
    def take(self) -> int | None: ...


class Oldest:
    """The one that was created first."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def add(self, number: int) -> None:
        heappush(self._numbers, number)

    def take(self) -> int | None:
        return heappop(self._numbers) if self._numbers else None


class Newest:
    """The one that was created last: what Mahmoudi and Khazaei's model of Lambda has (SimFaaS, 2021)."""

    def __init__(self) -> None:
        self._negated: list[int] = []

    def add(self, number: int) -> None:
        heappush(self._negated, -number)

    def take(self) -> int | None:
        return -heappop(self._negated) if self._negated else None


class Recent:
    """The one that became idle last."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self.add = self._numbers.append

    def take(self) -> int | None:
        return self._numbers.pop() if self._numbers else None


class Rested:
    """The one that has been idle longest, so that all take turns."""

    def __init__(self) -> None:
        self._numbers: deque[int] = deque()
        self.add = self._numbers.append

    def take(self) -> int | None:
        return self._numbers.popleft() if self._numbers else None


class AtRandom:
    """Any of them, each as likely as the next."""

    def __init__(self, uniform: Callable[[], float]) -> None:
        self._uniform = uniform
        self._numbers: list[int] = []
        self.add = self._numbers.append

    def take(self) -> int | None:
        numbers = self._numbers
        if not numbers:
            return None
        place = int(self._uniform() * len(numbers))
        number, numbers[place] = numbers[place], numbers[-1]
        numbers.pop()
        return number


ROUTINGS = ("newest", "oldest", "recent", "rested", "random")
"""The names of the policies."""


def routing(name: str, seed: object) -> Idle:
    """The policy `name` with no container in it; `seed` is for the one that draws. Raises ConfigurationError."""
    match name:
        case "newest":
            return Newest()
        case "oldest":
            return Oldest()
        case "recent":
            return Recent()
        case "rested":
            return Rested()
        case "random":
            return AtRandom(Random(f"{seed}/routing").random)  # noqa: S311  # a simulation is to be repeatable
        case _:
            raise ConfigurationError(f"routing must be one of {', '.join(ROUTINGS)}; got {shown(name)}")
