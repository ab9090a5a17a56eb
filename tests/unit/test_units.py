"""Durations and sizes: every form that is allowed, and a clear refusal of every other."""

from __future__ import annotations

from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_cache import ConfigurationError
from tiered_cache._units import seconds, shown, size


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (1, 1.0),
        (0.25, 0.25),
        (timedelta(minutes=2), 120.0),
        ("90s", 90.0),
        ("250ms", 0.25),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        (" 1 h 30 m ", 5400.0),
        ("1D", 86400.0),
        ("2w", 1209600.0),
        ("1.5h", 5400.0),
    ],
)
def test_a_duration_is_read_in_every_form(given_: Any, expected: float) -> None:
    """Numbers, timedeltas and texts of number-unit pairs mean seconds."""
    assert expected == seconds("ttl", given_)


@pytest.mark.parametrize(
    "given_",
    [
        *(0, -1, -0.001, nan, inf, -inf, True, False, None, [], b"5s", timedelta(0), timedelta, 10**400),
        *("", " ", "5", "s", "5x", "-5s", "5s!", "!5s", "5s5s", "1h 2h", "1..5s", "\u0661s", "5 s ago", "1e3", "nan s"),
        *("infs", "9" * 400 + "s", "1" * 60 + "!"),
    ],
)
def test_what_is_no_duration_is_refused(given_: Any) -> None:
    """B01: the refusal names the argument and what is allowed, and comes at once for any text."""
    with pytest.raises(ConfigurationError, match=r"^ttl must be a finite duration above zero: seconds as a number, a "):
        seconds("ttl", given_)


def test_zero_is_a_duration_only_where_it_means_something() -> None:
    """`zero=True` lets 0 through and says 'zero or more' of the rest."""
    assert 0.0 == seconds("stale_if_error", 0, zero=True) == seconds("stale_if_error", "0s", zero=True)
    with pytest.raises(ConfigurationError, match="stale_if_error must be a finite duration zero or more.*got -1"):
        seconds("stale_if_error", -1, zero=True)


def test_the_whole_text_of_a_refused_duration() -> None:
    """The message has the argument, what is allowed, and what was given, in that order."""
    with pytest.raises(ConfigurationError) as caught:
        seconds("ttl", "5 parsecs")
    expected = (
        'ttl must be a finite duration above zero: seconds as a number, a timedelta, or text such as "90s", "5m", '
        '"1h30m", "1d"; got \'5 parsecs\''
    )
    assert expected == str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (1, 1),
        (2**40, 2**40),
        ("512", 512),
        ("64 MiB", 64 * 2**20),
        ("64MB", 64 * 10**6),
        ("0.5 KiB", 512),
        ("1 gib", 2**30),
    ],
)
def test_a_size_is_read_in_every_form(given_: Any, expected: int) -> None:
    """Whole numbers and texts with binary or decimal units mean bytes."""
    assert expected == size("max_bytes", given_)


@pytest.mark.parametrize(
    "given_",
    [0, -1, True, None, 1.5, 64.0, inf, [], "", "MiB", "64 XB", "-1 B", "0.5", "1 KiB 1 B", "9" * 400, "1.5b", "auto"],
)
def test_what_is_no_size_is_refused(given_: Any) -> None:
    """B03: the refusal names the argument and what is allowed."""
    with pytest.raises(
        ConfigurationError, match=r"^max_bytes must be a size of at least one byte: bytes as an int, or "
    ):
        size("max_bytes", given_)


def test_what_is_shown_of_a_bad_argument_is_short() -> None:
    """Short texts and plain numbers are shown; of anything else only the type, since it may hold a secret."""
    assert "'abc'" == shown("abc")
    assert "None" == shown(None)
    assert "1.5" == shown(1.5)
    assert "an object of type str" == shown("x" * 41)
    assert "an object of type bytes" == shown(b"secret")
    assert "an int of more than 128 bits" == shown(10**5000)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the parser fail in another way, and what is read is positive and finite."""
    for read in (seconds, size):
        try:
            number = read("ttl", text)
        except ConfigurationError:
            continue
        assert 0 < number < inf


@given(
    st.lists(
        st.tuples(st.integers(1, 1000), st.sampled_from(["ms", "s", "m", "h", "d", "w"])),
        min_size=1,
        unique_by=lambda pair: pair[1],
    )
)
def test_a_text_of_pairs_is_their_sum(pairs: list[tuple[int, str]]) -> None:
    """Each unit may stand once, in any order and with any spacing."""
    worth = {"ms": timedelta(milliseconds=1), "s": timedelta(seconds=1), "m": timedelta(minutes=1)}
    worth |= {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
    expected = sum((number * worth[unit] for number, unit in pairs), timedelta()).total_seconds()
    assert expected == pytest.approx(seconds("ttl", " ".join(f"{number}{unit}" for number, unit in pairs)))


def test_a_number_too_long_to_write_out_is_refused_like_any_other() -> None:
    """Python itself raises ValueError when asked for the digits of such an int; ours says what was wrong."""
    with pytest.raises(ConfigurationError, match="ttl must be .*; got an int of more than 128 bits"):
        seconds("ttl", 10**5000)
