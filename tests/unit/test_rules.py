"""The rules of freshness: their tables, and the properties that hold for any entry at any moment."""

from __future__ import annotations

from itertools import product
from math import exp, inf
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tiered_cache._entry import Entry
from tiered_cache._rules import (
    SKEW,
    Freshness,
    Move,
    Verdict,
    covers,
    early_at,
    fresh_until,
    is_unasked,
    jittered,
    judge,
    judge_data,
    kept_for,
    on_l1,
    on_l2,
    pause_after,
)
from tiered_cache._values import Answer, Reason

FRESH, REVALIDATE, UNCONFIRMED, FAILING, GONE = Verdict
T0 = 1_800_000_000.0
spans = st.integers(0, 200).map(float)
units = st.floats(0, 1, exclude_max=True)


def entry(
    fresh_for: float = 60, swr: float = 0, sie: float = 0, local: Freshness | None = None, at: float = T0
) -> Entry:
    data = Entry("v", loaded_at=T0, fresh_for=fresh_for, stale_while_revalidate=swr, stale_if_error=sie)
    return data.held(local, at, 0.0, lambda: 0.0)


entries = st.builds(
    lambda fresh_for, swr, sie, local, at: entry(fresh_for, swr, sie, local, T0 + at),
    spans,
    spans,
    spans,
    st.none() | st.builds(Freshness, spans, spans, spans, units),
    spans,
)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (-SKEW - 0.1, GONE),
        (-SKEW, FRESH),
        (0, FRESH),
        (59.9, FRESH),
        (60, REVALIDATE),
        (69.9, REVALIDATE),
        (70, FAILING),
        (99.9, FAILING),
        (100, GONE),
        (inf, GONE),
        (-inf, GONE),
        (float("nan"), GONE),
    ],
)
def test_data_pass_from_fresh_to_gone(age: float, expected: Verdict) -> None:
    """Both stale windows count from the end of freshness, each end is exclusive, a negative age is worth nothing."""
    assert expected is judge_data(entry(60, 10, 40), T0 + age)


@pytest.mark.parametrize(
    ("swr", "sie", "expected"), [(0, 0, GONE), (0, 5, FAILING), (5, 0, REVALIDATE), (5, 5, REVALIDATE)]
)
def test_a_window_that_is_not_set_is_not_there(swr: float, sie: float, expected: Verdict) -> None:
    """Right after its freshness an entry is worth what the windows allow, the refreshing one first."""
    assert expected is judge_data(entry(60, swr, sie), T0 + 60)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (10 - SKEW - 0.1, UNCONFIRMED),
        (10, FRESH),
        (14.9, FRESH),
        (15, REVALIDATE),
        (17.9, REVALIDATE),
        (18, UNCONFIRMED),
        (59.9, UNCONFIRMED),
        (60, REVALIDATE),
        (75, FAILING),
    ],
)
def test_l1_answers_for_its_own_ttl_within_the_datas(now: float, expected: Verdict) -> None:
    """An L1 entry confirmed at 10 with ttl 5 and a stale window of 3, of data that are fresh for 60."""
    assert expected is judge(entry(60, 10, 40, Freshness(5, 3, 100), T0 + 10), T0 + now)


def test_what_was_confirmed_never_is_unconfirmed() -> None:
    """After a step of the clock nothing is fresh in L1 until the next tier has vouched for it."""
    held = entry(60)
    held.confirmed_at = -inf
    assert UNCONFIRMED is judge(held, T0 + 1)


@given(entries, st.floats(0, 1000), st.floats(0, 1000))
def test_a_later_look_at_an_entry_never_gets_a_fresher_verdict(held: Entry, first: float, more: float) -> None:
    """By the data's own limit the verdicts come in one order; and what is no longer fresh in L1 never is again."""
    order = [FRESH, REVALIDATE, FAILING, GONE]
    now, later = T0 + first, T0 + first + more
    assert order.index(judge_data(held, now)) <= order.index(judge_data(held, later))
    if now >= held.confirmed_at and judge(held, now) is not FRESH:
        assert judge(held, later) is not FRESH


@given(entries, st.floats(-500, 1000))
def test_l1_never_finds_an_entry_fresher_than_its_data(held: Entry, age: float) -> None:
    """No tier outlives the data's own limit."""
    if judge(held, T0 + age) in (FRESH, UNCONFIRMED):
        assert judge_data(held, T0 + age) is FRESH
    if judge_data(held, T0 + age) is not FRESH:
        assert judge_data(held, T0 + age) is judge(held, T0 + age)


@given(entries, st.floats(-500, 1000))
def test_the_windows_bound_what_may_be_served(held: Entry, age: float) -> None:
    """Fresh only below fresh_for; stale only below it plus the longer window; a cover exactly where one is left."""
    verdict = judge_data(held, T0 + age)
    real = T0 + age - held.loaded_at  # as the arithmetic of floats has it
    assert (verdict is FRESH) == (-SKEW <= real and max(real, 0) < held.fresh_for)
    assert covers(held, T0 + age) == (verdict is not GONE)
    if verdict is not GONE:
        assert real < kept_for(held)


@given(entries, st.floats(-500, 1000), st.floats(-500, 1000), spans)
@example(entry(60, 0, 40), 30, -0.5, 0)  # by a clock that is a little behind that of the load
def test_what_is_expired_is_fresh_by_no_clock(held: Entry, at: float, now: float, ahead: float) -> None:
    """Whatever was read off it when, it covers as long as if its freshness had ended then, and again is as once."""
    kept = kept_for(held)
    stale_if_error = held.stale_if_error
    held.loaded_at += ahead
    held.expire(T0 + at)
    once = held.fresh_for, held.stale_while_revalidate, held.stale_if_error
    held.expire(T0 + now)
    assert once == (held.fresh_for, held.stale_while_revalidate, held.stale_if_error)
    assert judge_data(held, T0 + now) in (FAILING, GONE)
    assert judge(held, T0 + now) in (FAILING, GONE)
    assert held.hit_until() < T0 + now
    assert stale_if_error <= kept_for(held) <= kept


@given(entries, st.floats(0, 1000))
def test_a_plain_hit_ends_no_later_than_freshness(held: Entry, age: float) -> None:
    """`fresh_until` is the moment at which `judge` stops to say fresh."""
    now = T0 + age
    if now >= held.confirmed_at:
        assert (judge(held, now) is FRESH) == (
            now - held.loaded_at < held.fresh_for and now - held.confirmed_at < held.local_ttl
        )
        if now < fresh_until(held) - 1e-6:
            assert judge(held, now) is FRESH
        if now > fresh_until(held) + 1e-6:
            assert judge(held, now) is not FRESH


ON_L1 = {  # verdict: the move for (stale_ok, backing_off) = (True, False), (True, True), (False, False), (False, True)
    FRESH: (Move.SERVE, Move.SERVE, Move.SERVE, Move.SERVE),
    REVALIDATE: (Move.SERVE_AND_REFRESH, Move.SERVE_STALE, Move.ASK, Move.ASK),
    UNCONFIRMED: (Move.ASK, Move.ASK, Move.ASK, Move.ASK),
    FAILING: (Move.ASK, Move.SERVE_STALE, Move.ASK, Move.ASK),
    GONE: (Move.ASK, Move.ASK, Move.ASK, Move.ASK),
}
CASES = ((True, False), (True, True), (False, False), (False, True))


@pytest.mark.parametrize("verdict", Verdict)
def test_the_table_of_moves_after_a_look_into_l1(verdict: Verdict) -> None:
    """Each verdict, with and without stale_ok and a back-off; an early refresh changes the fresh row alone."""
    for (stale_ok, backing_off), expected in zip(CASES, ON_L1[verdict], strict=True):
        assert expected is on_l1(verdict, early=False, stale_ok=stale_ok, backing_off=backing_off)
        early = Move.SERVE_AND_REFRESH if verdict is FRESH and not backing_off else expected
        assert early is on_l1(verdict, early=True, stale_ok=stale_ok, backing_off=backing_off)


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("stale_ok", [False, True])
def test_who_leaves_a_refresh_to_others_looks_whether_they_have_done_it(verdict: Verdict, stale_ok: bool) -> None:
    """Once L1's own time is up, and only with what would be served otherwise."""
    for owed, backing_off in ((True, False), (False, True), (True, True)):
        usual = on_l1(verdict, early=False, stale_ok=stale_ok, backing_off=backing_off)
        assert usual is on_l1(verdict, early=False, stale_ok=stale_ok, backing_off=backing_off, owed=owed)
        stale = usual is Move.SERVE_STALE or usual is Move.SERVE_AND_REFRESH
        expected = Move.LOOK if stale else usual
        assert expected is on_l1(
            verdict, early=False, stale_ok=stale_ok, backing_off=backing_off, owed=owed, unasked=True
        )
    alone = on_l1(verdict, early=False, stale_ok=stale_ok, backing_off=False, unasked=True)
    assert alone is on_l1(verdict, early=False, stale_ok=stale_ok, backing_off=False)


@given(spans, spans, spans)
def test_l1_has_not_asked_once_its_time_and_its_stale_window_are_over(since: float, ttl: float, stale: float) -> None:
    """And where there is nobody to ask, it never has to."""
    assert is_unasked(entry(local=Freshness(ttl, stale)), T0 + since) is (since >= ttl + stale)
    assert not is_unasked(entry(), T0 + since)


ON_L2 = {
    FRESH: (Move.LOAD, Move.SERVE_STALE, Move.LOAD, Move.LOAD),  # not vouched for, and L2 was reached
    REVALIDATE: (Move.SERVE_AND_REFRESH, Move.SERVE_STALE, Move.LOAD, Move.LOAD),
    FAILING: (Move.LOAD, Move.SERVE_STALE, Move.LOAD, Move.LOAD),
    GONE: (Move.LOAD, Move.LOAD, Move.LOAD, Move.LOAD),
}


@pytest.mark.parametrize("verdict", ON_L2)
def test_the_table_of_moves_after_a_look_into_l2(verdict: Verdict) -> None:
    """Each verdict of the data; fresh ones are served if L2 vouches for them, or cannot be asked."""
    for (stale_ok, backing_off), expected in zip(CASES, ON_L2[verdict], strict=True):
        options = {"refreshing": False, "stale_ok": stale_ok, "backing_off": backing_off}
        for vouched, reached in product((False, True), repeat=2):
            move = expected
            if verdict is FRESH and vouched:
                move = Move.SERVE
            elif verdict is FRESH and not reached:
                move = Move.SERVE_UNCONFIRMED
            assert move is on_l2(verdict, vouched=vouched, reached=reached, **options)


MEANWHILE = {
    FRESH: (Move.SERVE_UNCONFIRMED,) * 4,
    REVALIDATE: (Move.SERVE_AND_REFRESH, Move.SERVE_STALE, Move.WAIT, Move.WAIT),
    FAILING: (Move.SERVE_MEANWHILE, Move.SERVE_STALE, Move.WAIT, Move.WAIT),
    GONE: (Move.WAIT,) * 4,
}


@pytest.mark.parametrize("verdict", MEANWHILE)
def test_the_table_of_moves_while_another_container_loads(verdict: Verdict) -> None:
    """Who may serve what it has does not wait; who refreshes leaves that to the other."""
    for (stale_ok, backing_off), expected in zip(CASES, MEANWHILE[verdict], strict=True):
        options = {"reached": True, "stale_ok": stale_ok, "backing_off": backing_off, "taken": True}
        for vouched in (False, True):
            move = Move.SERVE if verdict is FRESH and vouched else expected
            assert move is on_l2(verdict, vouched=vouched, refreshing=False, **options)
            if verdict is REVALIDATE and stale_ok:
                move = Move.SERVE_MEANWHILE
            assert move is on_l2(verdict, vouched=vouched, refreshing=True, **options)


@given(entries, st.floats(-500, 1000))
def test_what_is_doubtful_is_never_served_before_l2_was_asked(held: Entry, age: float) -> None:
    """It is neither fresh nor to be refreshed; all else is as without the doubt."""
    before = judge(held, T0 + age)
    held.doubtful = True
    after = judge(held, T0 + age)
    held.doubtful = False
    data = judge_data(held, T0 + age)
    assert after is {FRESH: UNCONFIRMED, REVALIDATE: FAILING}.get(data, before)


@pytest.mark.parametrize("verdict", [REVALIDATE, FAILING, GONE])
def test_an_owed_refresh_is_not_content_with_what_is_stale(verdict: Verdict) -> None:
    """Only fresh data of another container settle it; else the loader runs."""
    move = on_l2(verdict, vouched=True, reached=True, refreshing=True, stale_ok=True, backing_off=False)
    assert Move.LOAD is move


@given(spans, st.floats(0, 0.9), units)
def test_jitter_goes_downwards_only(ttl: float, jitter: float, uniform: float) -> None:
    """A time to live is never made longer, and never cut by more than its share."""
    assert ttl * (1 - jitter) <= jittered(ttl, jitter, uniform) + 1e-9
    assert jittered(ttl, jitter, uniform) <= ttl


@given(spans, st.floats(0.001, 100), st.floats(0.01, 100), units)
def test_an_early_refresh_is_due_before_the_expiry(
    expiry: float, load_time: float, weight: float, uniform: float
) -> None:
    """Never after it, whatever was drawn."""
    assert early_at(expiry, load_time, weight, 1.0 - uniform) <= expiry


@pytest.mark.parametrize(("load_time", "weight"), [(0, 1), (1, 0), (-1, 1), (0, 0)])
def test_without_weight_or_load_time_no_refresh_is_early(load_time: float, weight: float) -> None:
    """Zero is off."""
    assert inf == early_at(100, load_time, weight, 0.5)


def test_a_draw_of_zero_is_survived() -> None:
    """log(0) does not exist; the draw counts as the least float there is."""
    assert -inf < early_at(0, 1, 1, 0.0) < -700


@pytest.mark.parametrize(
    ("left", "load_time", "weight"), [(5, 10, 1), (10, 10, 1), (20, 10, 1), (5, 10, 0.5), (10, 10, 2)]
)
def test_early_refreshes_have_the_odds_of_xfetch(left: float, load_time: float, weight: float) -> None:
    """With t seconds left a refresh is due with probability exp(-t / (weight · load time)): 40,000 draws, fixed seed."""
    random, draws = Random(7), 40_000
    due = sum(early_at(100, load_time, weight, 1.0 - random.random()) <= 100 - left for _ in range(draws))
    odds = exp(-left / (weight * load_time))
    assert odds == pytest.approx(due / draws, abs=4 * (odds * (1 - odds) / draws) ** 0.5)


def test_pauses_double_up_to_a_limit() -> None:
    """1, 2, 4 … 64 times the back-off, each spread downwards by at most a quarter."""
    assert [1, 2, 4, 8, 16, 32, 64, 64, 64] == [pause_after(n, 1.0, 1.0) for n in range(1, 10)]
    assert [0.75, 1.5, 3.0] == [pause_after(n, 1.0, 0.0) for n in range(1, 4)]
    assert 0.0 == pause_after(5, 0.0, 0.5)


@given(entries, st.floats(0, 10), st.floats(0, 5), units)
def test_held_stamps_what_l1_adds_and_nothing_else(
    held: Entry, load_time: float, weight: float, uniform: float
) -> None:
    """The local ttl is jittered downwards; a hit ends at the first of the three ends."""
    held.load_time = load_time
    local = Freshness(30, 5, 5, 0.5)
    held.held(local, T0 + 3, weight, lambda: uniform)
    assert T0 + 3 == held.confirmed_at
    assert 15 <= held.local_ttl <= 30
    ends = (T0 + held.fresh_for if held.fresh_for else -inf, T0 + 3 + held.local_ttl, held.early_at)
    assert held.hit_until() == min(ends)


def test_the_repr_of_an_entry_shows_no_value() -> None:
    """Its type and its times alone."""
    assert "Entry(<str>, loaded_at=1800000000.000, fresh_for=60)" == repr(entry())


def test_the_repr_of_an_answer_shows_no_value() -> None:
    """Its type, and where it came from; it is a tuple all the same."""
    answer = Answer("4111 1111", "l1", 1.25, True, Reason.LOAD_FAILED)
    assert "Answer(<str>, tier='l1', age=1.250, stale=True, reason='load_failed')" == repr(answer) == f"{answer}"
    assert ("4111 1111", "l1", 1.25, True, "load_failed") == answer
