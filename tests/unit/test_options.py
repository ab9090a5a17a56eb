"""Bad input, wherever a user can put it: refused at once, by a text that names the argument and what is allowed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cachetools
import pytest
import redis.asyncio

from tiered_cache import MISSING, ClosedError, ConfigurationError, LoadContext, Loaded, MemoryTier, TieredCache
from tiered_cache._entry import Entry
from tiered_cache._l1.hit import plain_hit
from tiered_cache._options import Limit, LoadOptions, Plan, check_key, check_loader, checked_tags, limit, unknown_option
from tiered_cache.testing import FakeClock, InMemorySharedTier

SECRET = "rediss://:hunter2@cache:6379"


def cache(**options: Any) -> TieredCache:
    return TieredCache(MemoryTier(ttl=60, sizer=len), clock=FakeClock(), **options)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), True, "soon", None, []])
@pytest.mark.parametrize("tier", [MemoryTier, InMemorySharedTier])
def test_a_bad_ttl_is_refused_when_the_tier_is_made(tier: Callable[..., Any], bad: Any) -> None:
    """B01: the text names ttl, says what is allowed, and what was given."""
    with pytest.raises(ConfigurationError, match=r"^ttl must be a finite duration above zero: .*; got "):
        tier(ttl=bad)


@pytest.mark.parametrize("name", ["stale_while_revalidate", "stale_if_error"])
def test_a_bad_stale_window_is_refused(name: str) -> None:
    """B01: windows may be zero and nothing below."""
    MemoryTier(ttl=1, **{name: 0})
    with pytest.raises(ConfigurationError, match=f"^{name} must be a finite duration zero or more: .*; got -1$"):
        MemoryTier(ttl=1, **{name: -1})


@pytest.mark.parametrize("name", ["negative_ttl", "soft_timeout", "hard_timeout", "ttl"])
@pytest.mark.parametrize("bad", [0, -5, True, "abc", float("nan")])
def test_a_bad_duration_of_one_call_is_refused_at_the_call(name: str, bad: Any) -> None:
    """B01, B42: also for the options of a single call, before any loader runs."""
    with pytest.raises(ConfigurationError, match=f"^{name} must be a finite duration above zero: "):
        cache().get_or_load("k", lambda: pytest.fail("ran"), **{name: bad})


def test_a_negative_back_off_is_refused() -> None:
    """B01: zero means no pause; below zero means nothing."""
    cache(error_backoff=0)
    with pytest.raises(ConfigurationError, match="^error_backoff must be a finite duration zero or more"):
        cache(error_backoff=-1)


@pytest.mark.parametrize(
    ("soft", "hard", "text"),
    [
        (5, 2, "soft_timeout (5 s) must not be above hard_timeout (2 s)"),
        ("1m", "30s", "soft_timeout (60 s) must not be above hard_timeout (30 s)"),
        ("80%", "40%", "soft_timeout (80%) must not be above hard_timeout (40%)"),
    ],
)
def test_a_soft_timeout_above_the_hard_one_is_refused(soft: Any, hard: Any, text: str) -> None:
    """B02: the text names both values, in the form in which they were given."""
    with pytest.raises(ConfigurationError) as caught:
        cache(soft_timeout=soft, hard_timeout=hard)
    assert text == str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        cache(soft_timeout=soft).get_or_load("k", int, hard_timeout=hard)
    assert text == str(caught.value)


@pytest.mark.parametrize(("soft", "hard"), [(1, 1), (1, "50%"), ("100%", 1), (None, 1), (1, None), ("50%", "50%")])
def test_limits_that_can_hold_together_are_accepted(soft: Any, hard: Any) -> None:
    """Equal limits, and a duration beside a share, whose order depends on the invocation, are left alone."""
    cache(soft_timeout=soft, hard_timeout=hard)


@pytest.mark.parametrize("bad", ["0%", "101%", "-5%", "%", "x%", "nan%", "inf%"])
def test_a_share_of_the_remaining_time_is_above_none_and_at_most_all(bad: str) -> None:
    """B42: a share outside of (0 %, 100 %] is refused."""
    with pytest.raises(ConfigurationError, match=r"^hard_timeout must be above 0% and at most 100%; got '"):
        limit("hard_timeout", bad)


def test_a_share_counts_only_where_the_remaining_time_is_known() -> None:
    """Outside of an invocation "40%" is no limit, and a duration always is one."""
    share, fixed = limit("soft_timeout", " 40% "), limit("soft_timeout", "2s")
    assert share == Limit(None, 0.4)
    assert fixed == Limit(2.0, None)
    assert share.within(None) is None
    assert 4.0 == share.within(10.0)
    assert 2.0 == fixed.within(None) == fixed.within(10.0)


@pytest.mark.parametrize("bad", [0, -1, "0 MiB", "64 XB", 1.5, True, None])
def test_a_bad_byte_budget_is_refused(bad: Any) -> None:
    """B03: the text names max_bytes and the forms that are allowed."""
    with pytest.raises(ConfigurationError, match=r"^max_bytes must be a size of at least one byte: .*; got "):
        MemoryTier(ttl=1, max_bytes=bad)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "10"])
def test_a_bad_number_of_entries_is_refused(bad: Any) -> None:
    """B03: max_entries is a whole number of at least 1, or None."""
    with pytest.raises(ConfigurationError, match="^max_entries must be a whole number of at least 1, or None; got "):
        MemoryTier(ttl=1, max_entries=bad)


def test_a_budget_of_the_whole_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """B03: the text has the function's memory and what was given."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
    with pytest.raises(ConfigurationError) as caught:
        MemoryTier(ttl=1, max_bytes="512 MiB")
    expected = "max_bytes must leave room within the function's memory of 512 MiB; got 536870912 bytes"
    assert expected == str(caught.value)
    assert 512 * 2**20 - 1 == MemoryTier(ttl=1, max_bytes=512 * 2**20 - 1).max_bytes


@pytest.mark.parametrize("bad", ["", "0", "-1", "1.5", "lots"])
def test_a_malformed_environment_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    """B41: the text names the variable."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", bad)
    with pytest.raises(
        ConfigurationError, match="^AWS_LAMBDA_FUNCTION_MEMORY_SIZE must be the function's memory in MB"
    ):
        MemoryTier(ttl=1)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: MemoryTier(tll=1), "MemoryTier: tll is not an option; did you mean ttl?"),
        (lambda: cache(namspace="a"), "TieredCache: namspace is not an option; did you mean namespace?"),
        (lambda: cache().get_or_load("k", int, tll=1), "tll is not an option; did you mean ttl?"),
        (
            lambda: cache().get_entry_or_load("k", int, stale_okay=True),
            "stale_okay is not an option; did you mean stale_ok?",
        ),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest_one(make: Callable[[], Any], text: str) -> None:
    """B05: for constructors and for single calls."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert text == str(caught.value)


def test_an_option_like_no_other_is_answered_with_all_there_are() -> None:
    """B05: without a near name the text lists the valid ones."""
    assert "qqq is not an option; there are: scope, ttl" == unknown_option("qqq", ["ttl", "scope"])


def test_two_likely_names_are_both_offered() -> None:
    """B05: at most two, joined by 'or'."""
    assert "soft_timeou is not an option; did you mean soft_timeout or hard_timeout?" == unknown_option(
        "soft_timeou", ["soft_timeout", "hard_timeout", "ttl"]
    )


@pytest.mark.parametrize("bad", ["redis://h", 5, MemoryTier(ttl=1), MemoryTier, [InMemorySharedTier(ttl=1)] * 2])
def test_an_l2_of_a_wrong_kind_is_refused(bad: Any) -> None:
    """B06: also two of them; the text says what to write."""
    with pytest.raises(ConfigurationError, match="^l2 must be a RedisTier"):
        cache(l2=bad)


def test_a_url_in_place_of_a_tier_shows_no_password() -> None:
    """B06, B07: whatever is given in a tier's place, its text does not come back."""
    for make in (lambda: TieredCache(SECRET), lambda: cache(l2=SECRET)):
        with pytest.raises(ConfigurationError, match="must be a (Memory|Redis)Tier") as caught:
            make()
        assert "hunter2" not in str(caught.value)


def test_a_redis_client_in_place_of_a_tier_is_told_what_to_write() -> None:
    """B06, B10: sync and async clients alike."""
    for client in (redis.Redis, redis.asyncio.Redis):
        with pytest.raises(
            ConfigurationError, match=r"^l2 must be a RedisTier: write RedisTier\(url, ttl=…\); got an object"
        ):
            cache(l2=client.from_url("redis://localhost:1"))


@pytest.mark.parametrize(
    "bad", [None, 1, 1.0, float("nan"), True, b"k", [], ["a"], {"a": 1}, ("a", 1), object(), frozenset("a")]
)
def test_a_key_that_is_no_text_is_refused_by_every_method(bad: Any) -> None:
    """B12, B16: a TypeError that says what to write instead; so 1, 1.0, True and "1" are never mixed up."""
    subject = cache()
    for call in (
        lambda: subject.get_or_load(bad, int),
        lambda: subject.get_entry_or_load(bad, int),
        lambda: subject.get(bad),
        lambda: subject.set(bad, 1),
        lambda: subject.delete(bad),
    ):
        with pytest.raises(
            TypeError, match=f"^key must be a non-empty str; got {type(bad).__name__}. Build the text from"
        ):
            call()


def test_an_empty_key_is_refused() -> None:
    """B13: by a ValueError that says so."""
    with pytest.raises(ValueError, match="^key must not be empty$"):
        cache().get_or_load("", int)


def test_a_lone_surrogate_is_refused_with_its_place() -> None:
    """B15: no encoding carries it; the text says where it stands and not what the key is."""
    with pytest.raises(ValueError, match="^key has a lone surrogate at position 2, which UTF-8 cannot carry: "):
        check_key("ab\ud800")


@pytest.mark.parametrize("key", ["\0", "a\nb", "\u202eabc", "🗝", "{}", "{a}|b", " ", "k" * 5000, "é", "1"])
def test_a_strange_key_is_a_key(key: str) -> None:
    """B14, B15: NUL, newline, right-to-left, emoji, braces and long keys come back with their own value."""
    subject = cache(l2=InMemorySharedTier(ttl=60))
    subject.set(key, ["value of", key])
    assert ["value of", key] == subject.get(key)
    assert MISSING is subject.get(key + "x")


@pytest.mark.parametrize("bad", ["", "a|b", "a{b", "a}b", "a b", "é", "x" * 65, "a\n", "a/b"])
def test_a_namespace_with_a_separator_or_of_a_wrong_length_is_refused(bad: str) -> None:
    """B17: the text has the allowed alphabet and length."""
    with pytest.raises(ConfigurationError, match=r"^namespace must have 1 to 64 letters, digits and \._:- \(no |"):
        cache(namespace=bad)


@pytest.mark.parametrize("bad", [None, 5, b"a"])
def test_a_namespace_that_is_no_text_is_refused(bad: Any) -> None:
    """B17: the text names the argument."""
    with pytest.raises(ConfigurationError, match=r"^namespace must be a str of 1 to 64 letters"):
        cache(namespace=bad)


async def coroutine() -> int: ...


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


def needs_one(a: int) -> int: ...


def needs_named(*, a: int) -> int: ...


class NoContext:
    def load(self) -> int: ...


class TwoArguments:
    def load(self, context: LoadContext, more: int) -> int: ...


class AsyncLoad:
    async def load(self, context: LoadContext) -> int: ...


class OfKeys(NamedTuple):
    """As `DynamoDBOrigin.items` gives them."""

    number: int = 0

    def __call__(self, missing_keys: Any, /) -> dict[str, int]: ...


class AsyncCall:
    async def __call__(self) -> int: ...


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (None, "loader must be a callable without arguments or an object with load(context); got NoneType"),
        (42, "got int. To pass a value at hand, write cache.set(key, value)"),
        (coroutine, "loader got a coroutine function, and this cache is synchronous: pass a plain function"),
        (AsyncLoad(), "loader got a coroutine function"),
        (generator, "loader got a generator function, which has no one value: return a list or a tuple instead"),
        (async_generator, "loader got a generator function"),
        (needs_one, "loader must take no arguments: bind what it needs, for example with lambda: fetch(customer_id)"),
        (needs_named, "loader must take no arguments"),
        (NoContext(), "load(context) must take the context alone"),
        (TwoArguments(), "load(context) must take the context alone"),
        (
            OfKeys(),
            "loader must take no arguments: bind what it needs, for example with lambda: fetch(customer_id); one that",
        ),
        (OfKeys(), "one that takes the missing keys is for get_many_or_load"),
        (AsyncCall(), "loader got a coroutine function"),
    ],
)
def test_a_loader_that_cannot_load_is_refused_before_it_runs(bad: Any, text: str) -> None:
    """B26: not callable, of the wrong arity, a coroutine or a generator function; the text says what to write."""
    with pytest.raises(TypeError) as caught:
        cache().get_or_load("k", bad)
    assert text in str(caught.value)


class Callable_:
    def __call__(self) -> int: ...

    def method(self) -> int: ...

    @staticmethod
    def plain() -> int: ...

    @classmethod
    def ofclass(cls) -> int: ...


class Object:
    def load(self, context: LoadContext) -> int: ...


class Variadic:
    def load(self, *args: Any) -> int: ...


class Static:
    @staticmethod
    def load(context: LoadContext) -> int: ...


@pytest.mark.parametrize(
    "good",
    [
        lambda: 1,
        lambda a=1: a,
        lambda *a, **k: 1,
        lambda *, a=1: a,
        int,
        dict,
        functools.partial(needs_one, 1),
        time.time,
        Callable_(),
        Callable_().method,
        Callable_.plain,
        Callable_.ofclass,
        Object(),
        Variadic(),
        Static(),
    ],
    ids=map(str, range(15)),
)
def test_what_can_load_is_accepted(good: Any) -> None:
    """B26: functions with defaults, classes, partials, builtins, methods, callable objects, objects with load(context)."""
    check_loader(good)


@pytest.mark.parametrize("bad", ["customers", 5, None])
def test_tags_that_are_no_collection_are_refused(bad: Any) -> None:
    """A bare text is refused too, since its letters are never what was meant."""
    with pytest.raises(TypeError, match=r"^tags must be a tuple or list of str, such as \('customers',\); got "):
        cache().get_or_load("k", int, tags=bad)


@pytest.mark.parametrize("bad", [(1,), [None], (["a"],), b"ab"])
def test_a_tag_that_is_no_text_is_refused(bad: Any) -> None:
    """Also one that cannot be hashed; the text names the type."""
    with pytest.raises(TypeError, match="^each tag must be a str; got one of type "):
        Loaded(1, tags=bad)


def test_tags_are_kept_once_and_in_order() -> None:
    """Repeats go; an empty tag and a lone surrogate are refused as in keys."""
    assert ("b", "a") == checked_tags(iter(["b", "a", "b"]))
    with pytest.raises(ValueError, match="^tag must not be empty$"):
        checked_tags([""])


@pytest.mark.parametrize("bad", ["forever", None, 1, ""])
def test_a_scope_that_does_not_exist_is_refused(bad: Any) -> None:
    """The text lists the words that are allowed."""
    with pytest.raises(ConfigurationError, match=r"^scope must be one of 'container', 'invocation'; got "):
        cache().get_or_load("k", int, scope=bad)


@pytest.mark.parametrize("name", ["force_refresh", "stale_ok"])
@pytest.mark.parametrize("bad", [1, 0, None, "yes"])
def test_a_switch_is_true_or_false(name: str, bad: Any) -> None:
    """1, 0, None and texts are refused."""
    with pytest.raises(ConfigurationError, match=f"^{name} must be True or False; got "):
        cache().get_or_load("k", int, **{name: bad})


@pytest.mark.parametrize("bad", [-0.1, 1001, float("nan"), True, "1", None])
def test_the_weight_of_early_refreshes_has_bounds(bad: Any) -> None:
    """B42: from 0 to 1000, NaN refused."""
    with pytest.raises(ConfigurationError, match="^early_refresh must be a number from 0 to 1000; got "):
        cache(early_refresh=bad)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"jitter": 0.95}, "jitter must be a number from 0 to 0.9; got 0.95"),
        ({"share": "both"}, "share must be one of 'reference', 'copy'; got 'both'"),
        ({"policy": "fifo"}, "policy must be one of 'lru'"),
        ({"policy": cachetools.LRUCache(10)}, "policy must be one of 'lru'"),
        ({"detect_mutation": 1}, "detect_mutation must be True or False; got 1"),
        ({"sizer": 5}, "sizer must be a function of a value that gives bytes; got 5"),
    ],
)
def test_a_bad_option_of_l1_is_refused(options: dict[str, Any], text: str) -> None:
    """Each by a text that names it, says what is allowed and what was given."""
    with pytest.raises(ConfigurationError) as caught:
        MemoryTier(ttl=1, **options)
    assert str(caught.value).startswith(text.split("'lru'", maxsplit=1)[0])


@pytest.mark.parametrize("policy", [dict, cachetools.TTLCache])
def test_a_policy_that_cannot_be_made_is_refused_by_the_cache(policy: Any) -> None:
    """A class that is not made as cachetools.LRUCache is: the text says how it is called."""
    with pytest.raises(ConfigurationError, match=r"^policy must be a class .*policy\(max_bytes, getsizeof="):
        TieredCache(MemoryTier(ttl=1, policy=policy, sizer=len))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clock": 5}, "clock must be a function that gives wall-clock seconds; got 5"),
        ({"clock": lambda: None}, "clock must give wall-clock seconds as a finite number; it gave None"),
        ({"clock": lambda: float("nan")}, "clock must give wall-clock seconds as a finite number; it gave nan"),
        ({"on_failure": "ignore"}, "on_failure must be one of 'raise', 'queue'; got 'ignore'"),
        ({"coherence": "always"}, 'coherence (other than "ttl" and "invocation") must be a finite duration above zero'),
        ({"coherence": 0}, 'coherence (other than "ttl" and "invocation") must be a finite duration above zero'),
        ({"refresh": "later"}, 'refresh must be "auto", "inline", "thread", "after_response"'),
        ({"refresh": 5}, 'refresh must be "auto", "inline", "thread", "after_response"'),
    ],
)
def test_a_bad_option_of_the_cache_is_refused(options: dict[str, Any], text: str) -> None:
    """Each by a text that names it, says what is allowed and what was given."""
    with pytest.raises(ConfigurationError) as caught:
        TieredCache(MemoryTier(ttl=1, sizer=len), **options)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("options", [{"etag": 5}, {"etag": b"x"}, {"last_modified": time.localtime()}])
def test_a_validator_that_is_no_text_is_refused(options: dict[str, Any]) -> None:
    """What the shared tier could not keep is refused in the loader, where it can be mended."""
    with pytest.raises(TypeError, match="^(etag|last_modified) must be a str; got "):
        Loaded(1, **options)


@pytest.mark.parametrize("bad", [None, 5, b"x"])
def test_a_handle_that_is_no_text_is_refused(bad: Any) -> None:
    """A resumable load's handle crosses processes, so it is a str."""
    with pytest.raises(TypeError, match="^handle must be a str; got "):
        LoadContext("k").pending(bad)


@pytest.mark.parametrize("bad", [0, -1, "x", True])
def test_a_ttl_given_by_a_loader_is_checked(bad: Any) -> None:
    """B01: `Loaded(ttl=…)` too."""
    with pytest.raises(ConfigurationError, match="^ttl must be a finite duration above zero"):
        Loaded(1, ttl=bad)


def test_a_closed_cache_says_so_in_every_method() -> None:
    """B40: ClosedError from each, also from a hit that was armed; stats() and a second close() still work."""
    subject = cache()
    subject.get_or_load("k", lambda: "v")
    subject.close()
    for call in (
        lambda: subject.get_or_load("k", lambda: pytest.fail("ran")),
        lambda: subject.get_entry_or_load("k", lambda: pytest.fail("ran")),
        lambda: subject.get("k"),
        lambda: subject.set("k", 1),
        lambda: subject.delete("k"),
        lambda: subject.warm_up(),
        lambda: subject.invocation().__enter__(),
    ):
        with pytest.raises(ClosedError, match="^this cache was closed, and what it held is gone: make a new one$"):
            call()
    subject.close()
    assert 0 == subject.stats().l1.entries


def test_the_options_of_a_call_win_over_the_caches() -> None:
    """A plan changed by one call keeps what that call did not name."""
    plan = Plan().with_options({"negative_ttl": "1m", "stale_ok": False})
    changed = plan.with_options({"ttl": 5, "stale_ok": True, "negative_ttl": None})
    assert (5.0, True, None) == (changed.ttl, changed.stale_ok, changed.negative_ttl)
    assert (None, False, 60.0) == (plan.ttl, plan.stale_ok, plan.negative_ttl)


def test_options_of_loads_leave_a_plain_hit_plain() -> None:
    """All but those that change what may be served; an unknown one goes the long way, where it is refused."""
    armed = {"k": ("v", math.inf, Entry("v", loaded_at=0.0, fresh_for=math.inf))}
    get_or_load, _ = plain_hit(armed, lambda: 0.0, lambda key, loader, options: sorted(options))
    of_loads = {name: object() for name in LoadOptions.__annotations__ if name not in ("scope", "force_refresh")}
    assert "v" == get_or_load("k", int, **of_loads)
    assert ["scope", "ttl"] == get_or_load("k", int, scope="invocation", ttl=1)
    assert ["force_refresh"] == get_or_load("k", int, force_refresh=True)
    assert ["tll"] == get_or_load("k", int, tll=1)
    assert sorted(of_loads) == get_or_load("another", int, **of_loads)


def test_a_bad_option_is_refused_where_a_load_may_be_needed() -> None:
    """And a misspelt one always; a value that is fresh at hand needs none of them."""
    subject = cache()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="did you mean ttl"):
            subject.get_or_load("k", int, tll=5)
        with pytest.raises(ConfigurationError, match="ttl must be"):
            subject.get_or_load("other", int, ttl=-5)
        assert "v" == subject.get_or_load("k", lambda: "v", ttl=5)


def test_the_quick_method_is_known_by_the_name_and_words_of_the_slow_one() -> None:
    """As errors and `help` show it."""
    subject = cache()
    assert TieredCache.get_or_load.__doc__ == subject.get_or_load.__doc__
    with pytest.raises(
        TypeError, match=r"^TieredCache.get_or_load\(\) missing 1 required positional argument: 'loader'"
    ):
        subject.get_or_load("k")  # type: ignore[call-arg]
