"""The decorator `cache.cached`: a function whose results are read through the cache, and how its keys are made."""

from __future__ import annotations

from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from tiered_cache._errors import ConfigurationError
from tiered_cache._options import check_loader_kind
from tiered_cache._units import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._asynchronous import AsyncTieredCache
    from tiered_cache._cache import TieredCache

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN = (str, int, float, bool, bytes, type(None))
_PLAIN_ELSEWHERE = frozenset(
    {"decimal.Decimal", "uuid.UUID", "datetime.date", "datetime.datetime", "datetime.timedelta"}
)


class CachedFunction(Generic[P, R]):
    """A function behind a cache. Called as it was; `cache_key(...)` gives the key of the same call."""

    def __init__(
        self,
        function: Callable[P, R],
        cache: TieredCache | AsyncTieredCache,
        key: object,
        options: dict[str, Any],
        *,
        asynchronous: bool = False,
    ) -> None:
        check_loader_kind(function, "cached()", asynchronous=asynchronous)
        self._function = function
        self._cache = cache
        self._options = options
        self._parameters = _Parameters(function)
        self._key = _key_maker(function, key, self._parameters)
        update_wrapper(self, function)

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


class _Parameters:
    """A function's parameters, as far as they tell which argument is which; importing `inspect` would burden a cold start."""

    def __init__(self, function: Any) -> None:
        code = function.__code__
        self.name = function.__qualname__
        self.positional: tuple[str, ...] = code.co_varnames[: code.co_argcount]
        self.names: tuple[str, ...] = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        self._takes_more = bool(code.co_flags & 0x04)  # *args
        self._takes_names = bool(code.co_flags & 0x08)  # **kwargs
        self.open = self._takes_more or self._takes_names
        defaults = function.__defaults__ or ()
        self._defaults = dict(zip(self.positional[len(self.positional) - len(defaults) :], defaults, strict=True))
        self._defaults |= function.__kwdefaults__ or {}

    def bound(self, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, in the order of the parameters, with defaults filled in."""
        first = dict(zip(self.positional, args, strict=False))
        given = self._defaults | first | named
        surplus = len(args) > len(self.positional) and not self._takes_more
        if surplus or first.keys() & named.keys() or not given.keys() >= set(self.names):
            raise TypeError(f"{self.name}() takes {', '.join(self.names) or 'no arguments'}, each given once")
        filled = {name: given.pop(name) for name in self.names}
        if given and not self._takes_names:
            raise TypeError(f"{self.name}() has no parameter {min(given)}; it takes {', '.join(self.names)}")
        more = {f"*{place}": value for place, value in enumerate(args[len(self.positional) :])}
        return filled | more | {name: given[name] for name in sorted(given)}


def _key_maker(function: Any, key: object, parameters: _Parameters) -> Callable[..., str]:
    if callable(key):
        return cast("Callable[..., str]", key)  # the cache checks what it returns
    if isinstance(key, str):
        return _from_template(key, parameters)
    if key is not None:
        raise ConfigurationError(
            f'key must be a template such as "customer:{{customer_id}}", a function of the arguments, or None; got {shown(key)}'
        )
    if function.__name__ == "<lambda>":
        raise TypeError('a lambda has no name to make keys of: write cached(key="…") or use def')
    prefix = f"{function.__module__}.{function.__qualname__}"

    def from_arguments(*args: Any, **named: Any) -> str:
        parts = (f"{name}={_literal(name, value)}" for name, value in parameters.bound(args, named).items())
        return f"{prefix}({', '.join(parts)})"

    return from_arguments


def _from_template(template: str, parameters: _Parameters) -> Callable[..., str]:
    from string import Formatter

    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ConfigurationError(f"key is no template that str.format can fill: {error}") from None
    for field in fields:
        name = field.split(".")[0].split("[")[0]
        if name not in parameters.names and not parameters.open:
            names = ", ".join(parameters.names) or "none"
            raise ConfigurationError(
                f"key names {field!r}, and {parameters.name} has no such parameter; it has {names}"
            )
    if not fields and parameters.names:
        raise ConfigurationError(
            f"key has no field, so that all calls of {parameters.name} would share one value; "
            f"name its parameters, such as {{{parameters.names[0]}}}, or give a function"
        )
    return lambda *args, **named: template.format_map(parameters.bound(args, named))


def _literal(name: str, value: Any) -> str:
    """`value` as text that tells 1 from 1.0, True and "1"."""
    kind = type(value)
    if kind is float and value != value:  # noqa: PLR0124  # NaN, without importing math
        raise TypeError(f"argument {name} is NaN, which equals nothing and so makes no key")
    if kind in _PLAIN:
        return repr(value)
    if kind is tuple:
        return f"({', '.join(_literal(name, part) for part in value)},)"
    if f"{kind.__module__}.{kind.__qualname__}" in _PLAIN_ELSEWHERE:
        return repr(value)
    raise TypeError(
        f"argument {name} of type {kind.__qualname__} makes no key by itself: "
        f'write cached(key="…{{{name}.id}}…") or key=lambda …: "…" with what tells its values apart'
    )
