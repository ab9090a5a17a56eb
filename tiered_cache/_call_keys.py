"""How the key of a call is made, for `cache.cached`: of the function's name and all arguments, or by a template over them.

A key tells apart whatever calls the function tells apart, or is refused: another caller's value is worse than an error.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tiered_cache._errors import ConfigurationError
from tiered_cache._units import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from string import Formatter

_PLAIN = (str, int, float, bool, bytes, type(None))
_PLAIN_ELSEWHERE = frozenset(
    {"decimal.Decimal", "uuid.UUID", "datetime.date", "datetime.datetime", "datetime.timedelta"}
)


class Arguments(NamedTuple):
    """What a call was given."""

    own: dict[str, Any]
    """By the function's parameters, in their order, with defaults filled in."""
    more: tuple[Any, ...]
    """For `*args`."""
    others: dict[str, Any]
    """For `**kwargs`, sorted by name."""


class Parameters:
    """A function's parameters, as far as they tell which argument is which; importing `inspect` would burden a cold start."""

    def __init__(self, function: Any) -> None:
        self.name = function.__qualname__
        function = innermost(function)
        code = function.__code__
        self.positional: tuple[str, ...] = code.co_varnames[: code.co_argcount]
        self.names: tuple[str, ...] = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        self._by_name = frozenset(self.names[code.co_posonlyargcount :])
        self._takes_more = bool(code.co_flags & 0x04)  # *args
        self.takes_names = bool(code.co_flags & 0x08)  # **kwargs
        defaults = function.__defaults__ or ()
        self._defaults = dict(zip(self.positional[len(self.positional) - len(defaults) :], defaults, strict=True))
        self._defaults |= function.__kwdefaults__ or {}

    def bound(self, args: tuple[Any, ...], named: dict[str, Any]) -> Arguments:
        """The arguments of a call. Raises TypeError for those that Python would refuse."""
        by_place = dict(zip(self.positional, args, strict=False))
        by_name = {name: given for name, given in named.items() if name in self._by_name}
        given = self._defaults | by_place | by_name
        surplus = len(args) > len(self.positional) and not self._takes_more
        if surplus or by_place.keys() & by_name.keys() or len(given) < len(self.names):
            raise TypeError(f"{self.name}() takes {', '.join(self.names) or 'no arguments'}, each given once")
        others = {name: named[name] for name in sorted(named) if name not in self._by_name}
        if others and not self.takes_names:
            raise TypeError(f"{self.name}() takes no argument named {min(others)}; it takes {', '.join(self.names)}")
        return Arguments({name: given[name] for name in self.names}, args[len(self.positional) :], others)


def innermost(function: Any) -> Any:
    """The function that decorators made with `functools.wraps` pass their arguments on to.

    One that takes neither `*args` nor `**kwargs`, or has a `__signature__`, says by itself what it takes.
    """
    while function.__code__.co_flags & 0x0C and not hasattr(function, "__signature__"):
        wrapped = getattr(function, "__wrapped__", None)
        if not hasattr(wrapped, "__code__"):
            break
        function = wrapped
    return function


def name_of(function: Any) -> str:
    """The function's name, with which the keys of its calls begin. Raises TypeError for a lambda."""
    if function.__name__ == "<lambda>":
        raise TypeError('a lambda has no name to make keys of: write cached(key="…") or use def')
    return f"{function.__module__}.{function.__qualname__}"


def key_maker(function: Any, key: object) -> Callable[..., str]:
    """What makes the keys of calls of `function`, as `cached(key)` says."""
    if callable(key):
        return cast("Callable[..., str]", key)  # the cache checks what it returns
    if isinstance(key, str):
        return _from_template(key, Parameters(function))
    if key is not None:
        raise ConfigurationError(
            f'key must be a template such as "customer:{{customer_id}}", a function of the arguments, or None; got {shown(key)}'
        )
    prefix, parameters = name_of(function), Parameters(function)

    def from_arguments(*args: Any, **named: Any) -> str:
        own, more, others = parameters.bound(args, named)
        parts = [f"{name}={_literal(name, value)}" for name, value in own.items()]
        parts += [f"*{place}={_literal(f'*{place}', value)}" for place, value in enumerate(more)]
        for name, value in others.items():
            unmistakable = name if name.isidentifier() else repr(name)  # as of **{"any text": 1}
            parts.append(f"{unmistakable}={_literal(name, value)}")
        return f"{prefix}({', '.join(parts)})"

    return from_arguments


def _from_template(template: str, parameters: Parameters) -> Callable[..., str]:
    try:
        parts = tuple(
            (literal, field, field is not None and field.isidentifier(), spec, conversion)
            for literal, field, spec, conversion in _formatter().parse(template)
        )
        names = [_name_in(field) for field in _fields(template)]
    except ValueError as error:
        raise ConfigurationError(f"key is no template that str.format can fill: {error}") from None
    surely_given = frozenset(parameters.names)
    for name in names:
        if name not in surely_given and (not parameters.takes_names or not name or name.isdigit()):
            known = ", ".join(parameters.names) or "none"
            raise ConfigurationError(f"key names {name!r}, and {parameters.name} has no such parameter; it has {known}")
    if not names and parameters.names:
        raise ConfigurationError(
            f"key has no field, so that all calls of {parameters.name} would share one value; "
            f"name its parameters, such as {{{parameters.names[0]}}}, or give a function"
        )
    to_look_for = [name for name in names if name not in surely_given]

    def from_template(*args: Any, **named: Any) -> str:
        own, _, others = parameters.bound(args, named)
        for name in to_look_for:
            if name not in others:
                raise TypeError(f"the key of {parameters.name}() names {name}, which this call does not give by name")
        return _filled(parts, others | own if others else own)

    return from_template


@cache
def _formatter() -> Formatter:
    from string import Formatter

    return Formatter()


def _fields(template: str) -> Iterator[str]:
    """The fields of a template, with those inside of their format specifications."""
    for _, field, spec, _ in _formatter().parse(template):
        if field is not None:
            yield field
            yield from _fields(spec or "")


def _name_in(field: str) -> str:
    return field.partition(".")[0].partition("[")[0]


def _filled(parts: tuple[Any, ...], given: dict[str, Any]) -> str:
    """The text that `str.format` would make; but what makes no key is refused."""
    made: list[str] = []
    for literal, field, is_name, spec, conversion in parts:
        made.append(literal)
        if field is not None:
            value = given[field] if is_name else _formatter().get_field(field, (), given)[0]
            if not spec and not conversion and type(value) in _PLAIN:
                made.append(str(value))  # nearly always
            else:
                spec_filled = _formatter().vformat(spec, (), given) if "{" in spec else spec
                made.append(_text(field, value, spec_filled, conversion))
    return "".join(made)


def _text(field: str, value: Any, spec: str, conversion: str | None) -> str:
    if isinstance(value, str):
        return format(_formatter().convert_field(value, conversion), spec) if conversion else format(value, spec)
    if not conversion:
        return _telling(field, value, format(value, spec))
    return format(_telling(field, value, _formatter().convert_field(value, conversion)), spec)


def _telling(name: str, value: Any, text: str) -> str:
    """`text`, unless it names a place in memory, as that of an object which does not say how it looks, and of whatever
    holds such objects. The next object may be put in that very place.
    """
    if " at 0x" in text and type(value) not in _PLAIN:
        raise _no_key(name, value)
    return text


def _literal(name: str, value: Any) -> str:
    """`value` as text that tells 1 from 1.0, True and "1"."""
    kind = type(value)
    if kind in _PLAIN and kind is not float:
        return repr(value)
    if kind is tuple:
        return f"({', '.join(_literal(name, part) for part in value)},)"
    if kind is float or f"{kind.__module__}.{kind.__qualname__}" in _PLAIN_ELSEWHERE:
        if value != value:  # noqa: PLR0124  # NaN, without importing math
            raise TypeError(f"argument {name} is NaN, which equals nothing and so makes no key")
        return _telling(name, value, repr(value))
    raise _no_key(name, value)


def _no_key(name: str, value: Any) -> TypeError:
    return TypeError(
        f"argument {name} of type {type(value).__qualname__} makes no key by itself: "
        f'write cached(key="…{{{name}.id}}…") or key=lambda …: "…" with what tells its values apart'
    )
