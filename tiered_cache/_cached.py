"""The decorator `cache.cached`: a function whose results are read through the cache."""

from __future__ import annotations

from functools import update_wrapper
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from tiered_cache._call_keys import innermost, key_maker, name_of
from tiered_cache._options import Plan, check_loader_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tiered_cache._asynchronous import AsyncTieredCache
    from tiered_cache._cache import TieredCache

P = ParamSpec("P")
R = TypeVar("R")


def decorator(
    cache: TieredCache | AsyncTieredCache,
    names: Names,
    key: object,
    options: Mapping[str, Any],
    *,
    asynchronous: bool = False,
) -> Callable[..., Any]:
    """What `cache.cached(key, **options)` gives. `names`: of the functions that this cache has decorated."""
    checked = dict(options)
    plan = Plan().with_options(checked)
    if "tags" in checked:
        checked["tags"] = plan.tags  # an iterator gives them but once

    def decorate(*functions: Any, **named: Any) -> CachedFunction[..., Any]:
        if named or len(functions) != 1 or (callable(key) and not _is_for_a_decorator(functions[0])):
            raise TypeError("cached() got no function to decorate: write @cache.cached(), with the parentheses")
        check_loader_kind(functions[0], "cached()", asynchronous=asynchronous)
        make_key = key_maker(functions[0], key)
        earlier = names.take(functions[0]) if key is None else None
        decorated: CachedFunction[..., Any] = CachedFunction(functions[0], cache, make_key, checked, earlier)
        if asynchronous:
            _mark_asynchronous(decorated)
        return decorated

    return decorate


def _is_for_a_decorator(given: object) -> bool:
    """Rather than an argument of the function that was taken for the key: a function, or what another made of one."""
    return callable(given) or hasattr(type(given), "__get__")  # such as a class method, of which it is then said


class CachedFunction(Generic[P, R]):
    """A function behind a cache. Called as it was; `cache_key(...)` gives the key of the same call."""

    __wrapped__: Callable[P, R]

    def __init__(
        self,
        function: Callable[P, R],
        cache: TieredCache | AsyncTieredCache,
        make_key: Callable[..., str],
        options: dict[str, Any],
        earlier: Any = None,
    ) -> None:
        self._function = function
        self._cache = cache
        self._options = options
        self._key = make_key if earlier is None else self._compared_first(earlier, make_key)
        update_wrapper(self, function)

    def _compared_first(self, earlier: Any, make_key: Callable[..., str]) -> Callable[..., str]:
        """Makes keys as `make_key` does, once it is known that the function sees what `earlier` does."""

        def key(*args: Any, **named: Any) -> str:
            function = self._function
            if not _Comparison(earlier, function, early=False).are_same(_seen_by(earlier), _seen_by(function)):
                raise _taken(name_of(function))
            self._key = make_key
            return make_key(*args, **named)

        return key

    def __call__(self, *args: P.args, **named: P.kwargs) -> R:
        key = self._key(*args, **named)
        return self._cache.get_or_load(key, lambda: self._function(*args, **named), **self._options)  # type: ignore[return-value]

    def cache_key(self, *args: P.args, **named: P.kwargs) -> str:
        """The key under which the result of this call is kept, for `cache.delete` and the like."""
        return self._key(*args, **named)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """As a method, the instance goes first; the key must then be one that is made of it, or without it."""
        if instance is None:
            return self
        return _Bound(self, instance)


class _Bound:
    """A cached method of one instance."""

    def __init__(self, cached: CachedFunction[..., Any], instance: object) -> None:
        self._cached = cached
        self._instance = instance

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._cached(self._instance, *args, **named)

    def cache_key(self, *args: Any, **named: Any) -> str:
        return self._cached.cache_key(self._instance, *args, **named)


class Names:
    """The functions of which one cache makes keys by their names: each name stands for one of them."""

    def __init__(self) -> None:
        self._functions: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def take(self, function: Any) -> Any:
        """Raises TypeError if another function has this name here, or the same one that sees other things around it.

        Gives the earlier one, if this was made anew of the same code: what will be set later can be compared only then.
        """
        name, sees = name_of(function), _seen_by(function)
        earlier, saw = self._functions.setdefault(name, (function, sees))
        if earlier is function:
            return None
        if _is_same_code(earlier, function) and _Comparison(earlier, function, early=True).are_same(saw, sees):
            return earlier
        if not _is_typed_anew(innermost(earlier), innermost(function)):
            raise _taken(name)
        self._functions[name] = function, sees
        return None


def _taken(name: str) -> TypeError:
    return TypeError(
        f"another function named {name} is cached here already, or this one with other values around it: by name and "
        'arguments alone they would share values. Write cached(key="…") or key=lambda …: "…" with what tells them apart'
    )


_UNSET = object()


def _seen_by(function: Any) -> tuple[Any, ...]:
    """What the function sees of those around it, as of now."""
    return tuple(_content(cell) for cell in function.__closure__ or ())


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _UNSET


def _is_same_code(one: Any, other: Any) -> bool:
    return bool(one.__code__ == other.__code__ and one.__code__.co_filename == other.__code__.co_filename)


def _is_typed_anew(earlier: Any, later: Any) -> bool:
    """Whether a function was written over by hand: a cell of a notebook is a file of its own, and a prompt is none."""
    filename = later.__code__.co_filename
    is_by_hand = filename != earlier.__code__.co_filename or filename.startswith("<")
    return is_by_hand and not _is_same_code(earlier, later)


class _Comparison:
    """Of two functions of the same code, by what they see. Functions among that are the same if what these see is.

    early: what is not set yet does not tell them apart.
    """

    def __init__(self, one: Any, other: Any, *, early: bool) -> None:
        self._early = early
        self._compared = [(one, other)]
        """Functions that are being compared already, since one may see itself."""

    def are_same(self, some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
        return all(self._is_same(one, other) for one, other in zip(some, others, strict=True))

    def _is_same(self, one: Any, other: Any) -> bool:
        if one is other or (self._early and (one is _UNSET or other is _UNSET)):
            return True
        if type(one) is not type(other):
            return False
        if isinstance(one, CachedFunction):
            return self._is_same(one.__wrapped__, other.__wrapped__)
        if isinstance(one, FunctionType):
            return self._is_same_function(one, other)
        try:
            return (one == other) is True
        except Exception:  # noqa: BLE001  # whatever an object does when it is compared, it is not known to be the same
            return False

    def _is_same_function(self, one: Any, other: Any) -> bool:
        if any(one is first and other is second for first, second in self._compared):
            return True
        self._compared.append((one, other))
        defaults = (one.__defaults__, one.__kwdefaults__) == (other.__defaults__, other.__kwdefaults__)
        return defaults and _is_same_code(one, other) and self.are_same(_seen_by(one), _seen_by(other))


def _mark_asynchronous(cached: Any) -> None:
    """Have it known for a coroutine function, by which frameworks tell what to await."""
    import inspect
    import sys

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(cached)
    else:
        from asyncio import coroutines

        cached._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001
