"""What may be set for all loads of a cache and for one call, checked once and turned into plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeAlias, TypedDict, TypeVar

from tiered_cache._errors import ConfigurationError
from tiered_cache._rules import Freshness
from tiered_cache._units import Duration, seconds, shown

Scope: TypeAlias = Literal["container", "invocation"]
P = ParamSpec("P")
S = TypeVar("S")


class Limit(NamedTuple):
    """A time limit: so many seconds, or a share of the time that the invocation has left."""

    seconds: float | None
    share: float | None

    def within(self, remaining: float | None) -> float | None:
        """The limit in seconds; None where it is a share and no remaining time is known."""
        if self.share is None:
            return self.seconds
        return None if remaining is None else self.share * remaining

    def __str__(self) -> str:
        return f"{self.seconds:g} s" if self.share is None else f"{100 * self.share:g}%"


class LoadOptions(TypedDict, total=False):
    """The options of one call. Each but `ttl`, `tags`, `scope` and `force_refresh` can be set for the whole cache too.

    A bad one is refused. Where a fresh value of L1 is at hand, the values of those that are about loads are not looked at.
    """

    ttl: Duration | None
    """How long the data are fresh, in place of the outermost tier's `ttl`. `Loaded(ttl=…)` wins over it."""
    tags: Iterable[str]
    """Names kept with the entry, besides those of `Loaded(tags=…)`, by which `cache.invalidate_tag` finds it."""
    scope: Scope
    """`"invocation"`: kept apart from all other values until the invocation ends; never in L2, never logged. Refused for
    resumable loaders, and beside options that say nothing of such a value: all but `ttl` and `force_refresh`.
    """
    force_refresh: bool
    """Run the loader whatever the tiers hold. If it fails for a passing reason, what they hold may cover for it."""
    soft_timeout: Duration | None
    """A stale value is served when the load takes longer; the load goes on in a thread. Seconds, or such as `"40%"`."""
    hard_timeout: Duration | None
    """`LoadTimeout` when the load takes longer; the load goes on in a thread. Seconds, or such as `"80%"`."""
    early_refresh: float
    """XFetch's weight: 0 is off, 1 the value of the paper, more refreshes earlier."""
    negative_ttl: Duration | None
    """How long a NotFound is remembered; None: not at all."""
    error_backoff: Duration
    """The pause after a failed load while a stale value is served; doubles with each further failure, up to 64 times."""
    stale_ok: bool
    """False: insist on a fresh value; then a failing load reaches the caller though a stale value is there."""


class Plan(NamedTuple):
    """The options of a call, resolved."""

    ttl: float | None = None
    tags: tuple[str, ...] = ()
    scope: Scope = "container"
    force_refresh: bool = False
    soft_timeout: Limit | None = None
    hard_timeout: Limit | None = None
    early_refresh: float = 0.0
    negative_ttl: float | None = None
    error_backoff: float = 1.0
    stale_ok: bool = True

    def with_options(self, options: Mapping[str, Any]) -> Plan:
        """This plan, changed by the options of one call. Raises ConfigurationError for a bad or an unknown one."""
        for name in options:
            if name not in _CHECKS:
                raise ConfigurationError(unknown_option(name, _CHECKS))
        if options.get("scope") == "invocation":
            meaningless = tuple(name for name in _CHECKS if name not in ("scope", "ttl", "force_refresh"))
            refuse_options(options, meaningless, 'with scope="invocation"')
        changed = self._replace(**{name: _CHECKS[name](name, given) for name, given in options.items()})
        _check_order(changed.soft_timeout, changed.hard_timeout)
        return changed


def _check_order(soft: Limit | None, hard: Limit | None) -> None:
    if soft is None or hard is None:
        return
    for soft_bound, hard_bound in zip(soft, hard, strict=True):
        if soft_bound is not None and hard_bound is not None and soft_bound > hard_bound:
            raise ConfigurationError(f"soft_timeout ({soft}) must not be above hard_timeout ({hard})")


def limit(name: str, given: object) -> Limit | None:
    """A time limit: None, a duration, or text such as "40%" of the time that the invocation has left."""
    if given is None:
        return None
    if isinstance(given, str) and given.strip().endswith("%"):
        try:
            percent = float(given.strip()[:-1])
        except ValueError:
            percent = -1.0
        if not 0 < percent <= 100:
            raise ConfigurationError(f"{name} must be above 0% and at most 100%; got {shown(given)}")
        return Limit(None, percent / 100)
    return Limit(seconds(name, given), None)


def optional_seconds(name: str, given: object) -> float | None:
    """A duration or None."""
    return None if given is None else seconds(name, given)


def number(name: str, given: object, least: float, most: float) -> float:
    """A number in [least, most]."""
    if isinstance(given, int | float) and not isinstance(given, bool) and least <= given <= most:
        return float(given)
    raise ConfigurationError(f"{name} must be a number from {least:g} to {most:g}; got {shown(given)}")


def freshness(ttl: Duration, stale_while_revalidate: Duration, stale_if_error: Duration, jitter: float) -> Freshness:
    """A tier's policy, as its options state it."""
    return Freshness(
        seconds("ttl", ttl),
        seconds("stale_while_revalidate", stale_while_revalidate, zero=True),
        seconds("stale_if_error", stale_if_error, zero=True),
        number("jitter", jitter, 0, 0.9),
    )


def flag(name: str, given: object) -> bool:
    """True or False."""
    if isinstance(given, bool):
        return given
    raise ConfigurationError(f"{name} must be True or False; got {shown(given)}")


def one_of(name: str, given: object, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    if isinstance(given, str) and given in allowed:
        return given
    words = ", ".join(repr(word) for word in allowed)
    raise ConfigurationError(f"{name} must be one of {words}; got {shown(given)}")


def checked_tags(given: object) -> tuple[str, ...]:
    """Tags as a tuple without repeats. A bare str is refused, since its letters are never what was meant."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"tags must be a tuple or list of str, such as ('customers',); got {shown(given)}")
    tags: dict[str, None] = {}
    for tag in given:
        if not isinstance(tag, str):
            raise TypeError(f"each tag must be a str; got one of type {type(tag).__qualname__}")
        check_text("tag", tag)
        tags[tag] = None
    return tuple(tags)


def check_key(key: object) -> None:
    """Refuse what cannot be a key. Raises TypeError for another type than str, ValueError for a str that cannot serve."""
    if not isinstance(key, str):
        raise TypeError(
            f"key must be a non-empty str; got {type(key).__qualname__}. "
            'Build the text from the parts that tell values apart, for example f"customer:{customer_id}"'
        )
    check_text("key", key)


def check_text(what: str, text: str) -> None:
    """Refuse an empty text, and one with a lone surrogate, which no encoding carries."""
    if not text:
        raise ValueError(f"{what} must not be empty")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{what} has a lone surrogate at position {error.start}, which UTF-8 cannot carry: "
                "decode the bytes it came from with errors='replace' or hash them"
            ) from None


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "ttl": optional_seconds,
    "tags": lambda _, given: checked_tags(given),
    "scope": lambda name, given: one_of(name, given, ("container", "invocation")),
    "force_refresh": flag,
    "soft_timeout": limit,
    "hard_timeout": limit,
    "early_refresh": lambda name, given: number(name, given, 0, 1000),
    "negative_ttl": optional_seconds,
    "error_backoff": lambda name, given: seconds(name, given, zero=True),
    "stale_ok": flag,
}
CACHE_WIDE = ("soft_timeout", "hard_timeout", "early_refresh", "negative_ttl", "error_backoff", "stale_ok")
"""The load options that can be set for a whole cache."""
OF_LOADS = frozenset(_CHECKS) - {"scope", "force_refresh"}
"""The options that say nothing of what may be served while it is fresh in L1."""


def unknown_option(name: str, valid: Iterable[str]) -> str:
    """The text for an option that does not exist, with the nearest that do."""
    from difflib import get_close_matches

    names = sorted(valid)
    near = get_close_matches(name, names, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names)}"
    return f"{name} is not an option; {hint}"


def refuse_options(options: Mapping[str, Any], meaningless: tuple[str, ...], where: str) -> None:
    """Refuse what would be ignored in silence. Raises ConfigurationError."""
    for name in meaningless:
        if name in options:
            raise ConfigurationError(f"{name} means nothing {where}: leave it out")


def refuse_unknown_options(init: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """A constructor that answers a misspelt option with a ConfigurationError that names the nearest one."""
    code = init.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]

    @wraps(init)
    def checked(self: S, /, *args: P.args, **options: P.kwargs) -> None:
        for name in options:
            if name not in names:
                raise ConfigurationError(f"{type(self).__name__}: {unknown_option(name, names)}")
        init(self, *args, **options)

    return checked


def check_loader_kind(function: object, what: str, *, asynchronous: bool = False) -> None:
    """Refuse a generator function, a coroutine function unless `asynchronous`, and what is no function. Raises TypeError."""
    code = getattr(function, "__code__", None)
    if code is None:
        raise TypeError(f"{what} needs a plain function; got {shown(function)}")
    if code.co_flags & 0x80 and not asynchronous:  # inspect.CO_COROUTINE, without importing inspect
        hint = "and nobody would await it: pass a plain function"
        if what not in ("after_response", "lambda_handler"):
            hint = "and this cache is synchronous: pass a plain function, or use AsyncTieredCache"
        raise TypeError(f"{what} got a coroutine function, {hint}")
    if code.co_flags & 0x220:  # inspect.CO_GENERATOR | CO_ASYNC_GENERATOR
        raise TypeError(f"{what} got a generator function, which has no one value: return a list or a tuple instead")


def check_loader(loader: object, *, asynchronous: bool = False) -> None:
    """Refuse what cannot load: neither callable without arguments nor an object with `load(context)`. Raises TypeError.

    asynchronous: coroutine functions will do.
    """
    code = getattr(loader, "__code__", None)
    if code is not None and not (code.co_argcount or code.co_kwonlyargcount or code.co_flags & 0x2A0):
        return  # nearly always: a plain function without parameters
    target: Any = getattr(loader, "load", None)
    wants_context = callable(target)
    if not wants_context:
        if not callable(loader):
            raise TypeError(
                "loader must be a callable without arguments or an object with load(context); got "
                f"{type(loader).__qualname__}. To pass a value at hand, write cache.set(key, value)"
            )
        target = loader
    if not isinstance(target, type) and not hasattr(target, "__code__"):  # an object that is called as a method is
        target = target.__call__
    plain = getattr(target, "__func__", target)
    code = getattr(plain, "__code__", None)
    if code is None:
        return  # a class, a partial or a builtin: what it takes is seen when it is called
    check_loader_kind(plain, "loader", asynchronous=asynchronous)
    given = (plain is not target) + wants_context
    needed = code.co_argcount - len(getattr(plain, "__defaults__", None) or ())
    required_names = code.co_kwonlyargcount - len(getattr(plain, "__kwdefaults__", None) or ())
    takes_any = bool(code.co_flags & 0x04)
    if needed > given or required_names > 0 or (given > code.co_argcount and not takes_any):
        wanted, hint = "loader must take no arguments", "; one that takes the missing keys is for get_many_or_load"
        if wants_context:
            wanted, hint = "load(context) must take the context alone", ""
        raise TypeError(f"{wanted}: bind what it needs, for example with lambda: fetch(customer_id){hint}")


def check_batch_loader(loader: object) -> None:
    """Refuse what cannot load many keys: neither callable nor an object with `load_many(keys, context)`. Raises TypeError."""
    if not callable(loader) and not callable(getattr(loader, "load_many", None)):
        raise TypeError(
            "loader must be a callable of the missing keys that gives a mapping, or an object with "
            f"load_many(keys, context); got {shown(loader)}"
        )
