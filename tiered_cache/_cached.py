"""The decorator `cache.cached`: a function whose results are read through the cache."""

from __future__ import annotations

from functools import update_wrapper
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from tiered_cache._call_keys import key_maker, name_of
from tiered_cache._options import Plan, check_loader_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tiered_cache._asynchronous import AsyncTieredCache
    from tiered_cache._cache import TieredCache

P = ParamSpec("P")
R = TypeVar("R")


def decorator(
    cache: TieredCache | AsyncTieredCache,
    names: dict[str, Any],
    key: object,
    options: Mapping[str, Any],
    *,
    asynchronous: bool = False,
) -> Callable[..., Any]:
    """What `cache.cached(key, **options)` gives. `names`: gets the functions of which keys are made by name."""
    checked = dict(options)
    plan = Plan().with_options(checked)
    if "tags" in checked:
        checked["tags"] = plan.tags  # an iterator gives them but once

    def decorate(*functions: Any, **named: Any) -> CachedFunction[..., Any]:
        if named or len(functions) != 1 or (callable(key) and not _is_for_a_decorator(functions[0])):
            raise TypeError("cached() got no function to decorate: write @cache.cached(), with the parentheses")
        check_loader_kind(functions[0], "cached()", asynchronous=asynchronous)
        make_key = key_maker(functions[0], key)
        if key is None:
            _take(names, functions[0])
        decorated: CachedFunction[..., Any] = CachedFunction(functions[0], cache, make_key, checked)
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
    ) -> None:
        self._function = function
        self._cache = cache
        self._options = options
        self._key = make_key
        update_wrapper(self, function)

    def __call__(self, /, *args: P.args, **named: P.kwargs) -> R:
        key = self._key(*args, **named)
        return self._cache.get_or_load(key, lambda: self._function(*args, **named), **self._options)  # type: ignore[return-value]

    def cache_key(self, /, *args: P.args, **named: P.kwargs) -> str:
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
        self.__doc__, self.__module__ = cached.__doc__, cached.__module__  # and not those of this class

    def __call__(self, /, *args: Any, **named: Any) -> Any:
        return self._cached(self._instance, *args, **named)

    def cache_key(self, /, *args: Any, **named: Any) -> str:
        return self._cached.cache_key(self._instance, *args, **named)

    @property
    def __wrapped__(self) -> Any:
        return MethodType(self._cached.__wrapped__, self._instance)

    def __getattr__(self, name: str) -> Any:
        """As Python's methods do: what it cannot say by itself, such as its name and whether to await it, its function does."""
        if name in ("_cached", "__signature__"):  # not there yet, in a copy that is being made; with the instance in it
            raise AttributeError(name)
        return getattr(self._cached, name)


def _take(names: dict[str, Any], function: Any) -> None:
    """Let keys be made by the name of `function`. Raises TypeError where it was made by a factory that made it before."""
    name = name_of(function)
    earlier = names.setdefault(name, function)
    is_made = "<locals>" in name  # a later one of a module takes the place of the earlier, as when that is reloaded
    sees_nothing = function.__closure__ is None and function.__code__ == earlier.__code__
    if is_made and earlier is not function and not sees_nothing:
        raise TypeError(
            f"{name} was made and cached here before: what it sees around it is no part of its key, by which both would share "
            'values. Write cached(key="…") or key=lambda …: "…" with what tells them apart'
        )


def _mark_asynchronous(cached: Any) -> None:
    """Have it known for a coroutine function, by which frameworks tell what to await."""
    import inspect
    import sys

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(cached)
    else:
        from asyncio import coroutines

        cached._is_coroutine = coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001
