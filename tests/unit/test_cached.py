"""The decorator: which calls share a value, and which it refuses to tell apart."""

import asyncio
import copy
import functools
import inspect
import sys
from datetime import date
from decimal import Decimal
from uuid import UUID

import pytest

from tiered_cache import AsyncTieredCache, ConfigurationError, MemoryTier, TieredCache


def is_coroutine_function(function):
    return (inspect if sys.version_info >= (3, 12) else asyncio).iscoroutinefunction(function)


def marked_as(route):
    """As web frameworks do."""

    def mark(function):
        function.route = route
        return function

    return mark


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


def test_a_template_tells_apart_what_its_text_does(cache):
    """By itself not the type of an argument, nor where one ends and the next begins; as `repr` shows them, both."""

    def keys(template, *calls):
        shown = cache.cached(template)(lambda x, y: None)
        return {shown.cache_key(*call) for call in calls}

    for calls in ((("a:b", "c"), ("a", "b:c")), ((1, None), ("1", "None")), (("':'", ""), ("", "':'"))):
        assert len(keys("{x!r}:{y!r}", *calls)) == 2
    assert keys("{x}:{y}", ("a:b", "c"), ("a", "b:c")) == {"a:b:c"}
    assert keys("{x}:{y}", (1, None), ("1", "None")) == {"1:None"}


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
    [
        ([1], "list"),
        ({"a": 1}, "dict"),
        (object(), "object"),
        (float("nan"), "NaN"),
        (Decimal("NaN"), "NaN"),
        ((1, [2]), "list"),
    ],
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


class Unnamed:
    """An object that does not say how it looks: Python names its place in memory, where the next one may stand."""

    def __init__(self, number):
        self.number = number


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("page:{thing}", Unnamed),
        ("page:{thing!s}", Unnamed),
        ("page:{thing!r:.12}", Unnamed),
        ("page:{thing}", lambda number: [Unnamed(number)]),
        ("page:{thing}", lambda number: {"who": (Unnamed(number),)}),
        ("page:{thing}", lambda number: lambda: number),
        ("page:{thing.number}", lambda number: Unnamed(Unnamed(number))),
        ("page:{thing[0]}", lambda number: [Unnamed(number)]),
    ],
    ids=map(str, range(8)),
)
def test_a_place_in_memory_is_no_key(cache, template, made):
    """Neither as text, nor cut short, nor inside of what is shown: the next caller's object may be put there."""

    @cache.cached(template)
    def page(thing):
        return thing

    with pytest.raises(TypeError, match=r"argument thing.* makes no key by itself"):
        page(made(1))


def test_a_template_is_filled_as_format_fills_it(cache):
    """Conversions, attributes, places, specifications and the fields in them; a text may have any words."""

    class Said(Unnamed):
        def __str__(self):
            return f"no. {self.number}"

    @cache.cached("{a!r:>6}|{b:{width}.2f}|{c[0].number:03}|{d}|{e}|{{}}")
    def page(a, b, c, d, width, e):
        return None

    key = page.cache_key("x", 1.5, [Unnamed(7)], Said(8), 6, "<x at 0x7f>")
    assert key == "   'x'|  1.50|007|no. 8|<x at 0x7f>|{}"


def test_names_that_are_no_identifiers_cannot_feign_arguments(cache):
    """**{…} takes any text for a name; the keys of calls as they are mostly written stay as they were."""

    @cache.cached()
    def orders(*places, **filters):
        return (places, filters)

    calls = [((), {"status": "open", "zone": "eu"}), ((), {"status='open', zone": "eu"}), ((1,), {}), ((), {"*0": 1})]
    assert [orders(*args, **named) for args, named in calls] == calls
    assert orders.cache_key(1, zone="eu").endswith("orders(*0=1, zone='eu')")


def test_a_parameter_by_place_alone_leaves_its_name_to_others(cache):
    """`f(1, a=2)` is as legal as in Python, and `f(a=1)` as illegal."""

    @cache.cached()
    def page(a, /, **others):
        return (a, others)

    assert (page(1, a=2), page(1, a=3), page(2)) == ((1, {"a": 2}), (1, {"a": 3}), (2, {}))
    with pytest.raises(TypeError, match="page"):
        page(a=1)


def as_it_is(function):
    return function


def passed_on(function):
    """As Powertools' `tracer.capture_method` does."""

    @functools.wraps(function)
    def decorated(*args, **named):
        return function(*args, **named)

    return decorated


@pytest.mark.parametrize("decorate", [as_it_is, passed_on])
def test_a_function_that_a_factory_makes_again_is_refused(cache, decorate):
    """Its name and arguments alone do not tell whose values are whose; with a key they are told apart."""

    def table(cache, region, *key):
        @cache.cached(*key)
        @decorate
        def rates(currency="USD"):
            return f"{currency} in {region}"

        return rates

    assert table(cache, "eu")() == "USD in eu"
    with pytest.raises(
        TypeError, match=r"table\.<locals>\.rates was made and cached here before: .* Write cached\(key="
    ):
        table(cache, "us")
    assert table(cache, "us", "us {currency}")() == "USD in us"
    with TieredCache() as other:
        assert table(other, "us")() == "USD in us"


def test_a_function_that_sees_nothing_around_it_may_be_made_again(cache):
    """What it goes by is in its key, but not another function of the name."""

    def make(step, other):
        if other:

            @cache.cached()
            def count(number, step=step):
                return [number, step, "other"]

        else:

            @cache.cached()
            def count(number, step=step):
                return [number, step]

        return count

    assert (make(1, False)(7), make(2, False)(7)) == ([7, 1], [7, 2])
    with pytest.raises(TypeError, match="count was made and cached here before"):
        make(1, True)


def test_a_function_of_a_module_may_be_written_anew(cache):
    """It takes the place of the one before, as in a notebook, or where the module is reloaded."""
    names = {"cache": cache, "__name__": "typed"}
    exec("@cache.cached()\ndef rate(a):\n    return a", names)
    exec("@cache.cached()\ndef rate(a, b=1):\n    return a + b", names)
    assert names["rate"](1) == 2


def test_a_function_under_decorators_has_its_own_parameters(cache):
    """By place and by name are the same call, and a template may name them."""
    versions = iter(range(9))

    @cache.cached("customer:{customer_id}")
    @passed_on
    @passed_on
    def customer(customer_id):
        return {"id": customer_id}

    @cache.cached()
    @passed_on
    def rate(currency="EUR"):
        return next(versions)

    assert customer(7) == customer(customer_id=7) == {"id": 7}
    assert (rate(), rate("EUR"), rate(currency="EUR")) == (0, 0, 0)
    cache.delete(rate.cache_key("EUR"))
    assert rate(currency="EUR") == 1
    with pytest.raises(ConfigurationError, match="no such parameter; it has customer_id"):
        cache.cached("{nobody}")(passed_on(customer.__wrapped__))


def test_a_decorator_with_parameters_of_its_own_says_by_these_what_it_takes(cache):
    """It may give the function other arguments than it gets."""

    def load(connection, product):
        return f"{connection} {product}"

    @cache.cached("product:{product}")
    @functools.wraps(load)
    def connected(product):
        return load("connection", product)

    assert [connected(1), connected(2)] == ["connection 1", "connection 2"]


def test_a_field_that_a_call_does_not_give_is_named(cache):
    """Where **kwargs might have given it."""

    @cache.cached("orders:{zone}:{a-b}")
    def orders(**filters):
        return filters

    assert orders.cache_key(zone="eu", **{"a-b": 1}) == "orders:eu:1"
    page = cache.cached("{number.real}")(lambda number, **others: number)
    assert page.cache_key(1, **{"number.real": 2}) == "1"
    with pytest.raises(TypeError, match=r"orders\(\) names zone, which this call does not give"):
        orders()


@pytest.mark.parametrize("key", ["{}", "{0}", "{nobody}"])
def test_a_field_that_no_call_can_give_is_refused(cache, key):
    """At the decoration, whatever the function takes besides."""
    with pytest.raises(ConfigurationError, match="no such parameter"):
        cache.cached(key)(lambda *places: places)


def test_tags_that_can_be_read_but_once_serve_all_calls(cache):
    """As of a generator."""

    @cache.cached("page:{number}", tags=(tag for tag in ["pages"]))
    def page(number):
        return object()

    first = page(1)
    assert page(1) is first
    cache.invalidate_tag("pages")
    assert page(1) is not first


def test_the_decorator_without_its_parentheses_is_refused(cache):
    """At the call; before it, a function of the arguments may have been meant."""

    @cache.cached
    def page(number):
        return number

    for args, named in [((1,), {}), ((1, 2), {}), ((), {}), ((), {"number": 1})]:
        with pytest.raises(TypeError, match=r"write @cache.cached\(\), with the parentheses"):
            page(*args, **named)


@pytest.mark.parametrize("made", [classmethod, property])
@pytest.mark.parametrize("key", [None, "page:{number}", lambda number: f"page:{number}"])
def test_what_is_no_plain_function_is_told_from_forgotten_parentheses(cache, made, key):
    with pytest.raises(TypeError, match=rf"cached\(\) needs a plain function; got .*{made.__name__}"):
        cache.cached(key)(made(lambda number: number))


def test_a_coroutine_function_stays_one():
    """Frameworks ask before they await."""

    async def main():
        async with AsyncTieredCache() as cache:

            @cache.cached()
            async def double(number):
                return 2 * number

            assert await double(3) == 6
            return double

    double = asyncio.run(main())
    assert is_coroutine_function(double)
    with TieredCache() as cache:
        assert not is_coroutine_function(cache.cached()(as_it_is))


class Tenant:
    """Has cached methods, of which some are to be awaited."""

    waiting, plain = AsyncTieredCache(), TieredCache()

    def __init__(self, name):
        self.name = name

    @waiting.cached("tenant:{self.name}:{item}")
    async def fetch(self, item, *, times=1):
        """Fetch it."""
        return f"{self.name} {item}"

    @plain.cached("tenant:{self.name}:{item}")
    @marked_as("GET")
    def read(self, item, *, times=1):
        """Read it."""
        return f"{self.name} {item}"


def test_a_method_of_an_instance_is_known_for_what_it_is():
    """By what frameworks ask of a method before they call it, and by those who copy it."""
    fetch, read = Tenant("a").fetch, Tenant("b").read
    assert is_coroutine_function(fetch)
    assert is_coroutine_function(copy.copy(fetch))
    assert not is_coroutine_function(read)
    assert asyncio.run(fetch("x")) == "a x"
    assert read("x", times=2) == "b x" == read.__wrapped__("x")
    for method, function in ((fetch, Tenant.fetch), (read, Tenant.read)):
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            assert getattr(method, name) == getattr(function.__wrapped__, name)
        assert str(inspect.signature(method)) == "(item, *, times=1)"
    assert read.route == "GET"
    with pytest.raises(AttributeError, match="no attribute 'rout'"):
        _ = read.rout


def test_parameters_may_have_any_name(cache):
    """Also one that a method of ours has."""

    @cache.cached()
    def show(self, name):
        return f"{self} {name}"

    assert show(self=1, name=2) == "1 2"
    assert show.cache_key(self=1, name=2) == show.cache_key(1, 2)
