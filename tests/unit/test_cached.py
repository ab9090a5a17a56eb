"""The decorator: which calls share a value, and which it refuses to tell apart."""

import asyncio
import functools
from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from tiered_cache import ConfigurationError, MemoryTier, TieredCache


@pytest.fixture
def cache():
    with TieredCache(MemoryTier(ttl=60), refresh="inline") as cache:
        yield cache


def test_a_call_with_the_same_arguments_runs_the_function_once(cache):
    """However the arguments are written: by place, by name, in another order, or left to their defaults."""
    calls = []

    @cache.cached()
    def price(product, currency="EUR", *, gross=True):
        calls.append(product)
        return f"{product} {currency} {gross}"

    answers = {price("a"), price(product="a"), price("a", "EUR"), price(gross=True, currency="EUR", product="a")}
    assert answers == {"a EUR True"}
    assert calls == ["a"]


def test_arguments_that_compare_equal_but_differ_in_type_do_not_share(cache):
    """1, 1.0, True and "1" are four calls, in tuples too."""

    @cache.cached()
    def kind(value):
        return repr(value)

    values = [1, 1.0, True, "1", b"1", None, (1,), (1.0,), ((1,),), Decimal(1), date(2026, 1, 1), UUID(int=1)]
    assert [kind(value) for value in values] == [repr(value) for value in values]
    assert len({kind.cache_key(value) for value in values}) == len(values)


def test_functions_of_the_same_name_in_different_places_do_not_share(cache):
    """The qualified name is part of the key."""

    class Left:
        @staticmethod
        def get(key):
            return f"left {key}"

    class Right:
        @staticmethod
        def get(key):
            return f"right {key}"

    left, right = cache.cached()(Left.get), cache.cached()(Right.get)
    assert (left("x"), right("x")) == ("left x", "right x")


def test_more_arguments_than_parameters_are_part_of_the_key(cache):
    """*args and **kwargs tell calls apart, the latter whatever their order."""

    @cache.cached()
    def collect(first, *rest, **named):
        return (first, rest, named)

    assert collect(1, 2, 3) != collect(1, 3, 2)
    assert collect.cache_key(1, a=1, b=2) == collect.cache_key(1, b=2, a=1)
    assert collect.cache_key(1, a=1) != collect.cache_key(1, a=2)


def test_a_template_names_what_tells_values_apart(cache):
    """A field may reach into an argument, and defaults are filled in."""

    class Customer:
        id = 7

    @cache.cached("customer:{customer.id}:{view}", ttl="1m", tags=["customers"])
    def page(customer, view="short"):
        return f"{customer.id} {view}"

    assert page(Customer()) == "7 short"
    assert page.cache_key(Customer()) == "customer:7:short"


def test_a_key_may_be_a_function_of_the_arguments(cache):
    """What it returns is the key."""
    page = cache.cached(lambda customer: f"page:{customer['id']}")(lambda customer: customer["name"])
    assert page({"id": 1, "name": "Ada"}) == "Ada"
    assert page({"id": 1, "name": "changed"}) == "Ada"


def test_the_key_of_a_call_can_be_deleted(cache):
    """cache_key gives what cache.delete takes."""
    versions = iter("ab")

    @cache.cached("v:{name}")
    def version(name):
        return next(versions)

    assert version("x") == "a"
    cache.delete(version.cache_key("x"))
    assert version("x") == "b"


def test_a_method_is_cached_by_what_its_template_says(cache):
    """The instance is an argument like any other, and its class is left as it was."""

    class Shop:
        def __init__(self, name):
            self.name = name

        @cache.cached("shop:{self.name}:{item}")
        def price(self, item):
            """Its price."""
            return f"{self.name} {item}"

    assert Shop("a").price("pen") == "a pen"
    assert Shop("b").price("pen") == "b pen"
    assert Shop("a").price.cache_key("pen") == "shop:a:pen"
    assert Shop.price.__doc__ == "Its price."


@pytest.mark.parametrize(
    ("value", "says"),
    [([1], "list"), ({"a": 1}, "dict"), (object(), "object"), (float("nan"), "NaN"), ((1, [2]), "list")],
)
def test_an_argument_that_makes_no_key_is_refused(cache, value, says):
    """The error names the argument and says what to write instead."""

    @cache.cached()
    def any_of(thing):
        return thing

    with pytest.raises(TypeError, match=rf"argument thing .*{says}"):
        any_of(value)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (asyncio.sleep, "coroutine"),
        (lambda: (yield), "generator"),
        (lambda x: x, "lambda has no name"),
        (len, "plain function"),
        (functools.partial(print, 1), "plain function"),
        (3, "plain function"),
    ],
)
def test_what_is_no_plain_function_is_refused(cache, function, says):
    """At the decoration, not at the first call."""
    with pytest.raises(TypeError, match=says):
        cache.cached()(function)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("customer:{nobody}", "no such parameter; it has customer"),
        ("customer", "all calls of .* would share"),
        ("customer:{", "no template"),
        (7, "key must be a template"),
    ],
)
def test_a_key_that_cannot_tell_calls_apart_is_refused(cache, key, says):
    """At the decoration, with the parameters that there are."""

    def load(customer):
        return customer

    with pytest.raises(ConfigurationError, match=says):
        cache.cached(key)(load)


def test_a_misspelt_option_is_refused_at_the_decoration(cache):
    """Not at the first call."""
    with pytest.raises(ConfigurationError, match="did you mean ttl"):
        cache.cached("k", tll=5)


def test_a_function_without_parameters_needs_no_field(cache):
    """It has one value only."""
    assert cache.cached("rates")(lambda: 1)() == 1


def test_a_call_that_python_would_refuse_gets_no_cached_value(cache):
    """Too many, too few, unknown and doubly given arguments are TypeErrors, with or without a template."""

    def load(x, y=2):
        return (x, y)

    for function in (cache.cached("g:{x}")(load), cache.cached()(load)):
        assert function(1) == (1, 2)
        for args, named in [((1, 2, 3), {}), ((), {}), ((1,), {"x": 1}), ((1,), {"z": 1})]:
            with pytest.raises(TypeError, match="load"):
                function(*args, **named)
