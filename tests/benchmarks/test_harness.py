"""What is said of a measurement follows from its samples, whatever the machine did meanwhile."""

import pytest

from tiered_cache.benchmarks.harness import (
    AGAIN,
    Timing,
    figure,
    interleaved,
    one_by_one,
    results_of,
    show,
    shown,
    throughput,
    times,
    verdict,
)


def results(budgets=None, **rounds):
    return results_of("group", [Timing(name, values) for name, values in rounds.items()], "base", budgets)


def test_a_ratio_is_taken_turn_by_turn():
    """A machine that becomes ten times slower on the way, or stumbles once, does not change who is how much slower."""
    base, other = results(base=[1.0, 1.0, 10.0], other=[3.0, 30.0, 30.0])
    assert base.ratio == 1
    assert other.ratio == 3
    assert other.base == "base"


def test_the_noise_is_how_far_the_base_is_from_itself():
    """Measured twice, it ought to be one; what it is not, no other ratio can tell either."""
    twin = AGAIN.format("base")
    quiet = results(**{"base": [1.0] * 8, "other": [2.0] * 8, twin: [1.01] * 8})
    loud = results(**{"base": [1.0] * 8, "other": [2.0] * 8, twin: [0.6, 1.4] * 4})
    assert [result.noise for result in quiet] == [pytest.approx(0.01)] * 3
    assert [result.noise for result in loud] == [pytest.approx(0.4)] * 3


def test_a_machine_that_is_too_noisy_is_told(capsys):
    """The table says so, and a budget that is missed by less is not said to be missed."""
    made = results({"other": 2.0}, **{"base": [1.0] * 8, "other": [2.2] * 8, AGAIN.format("base"): [0.6, 1.4] * 4})
    show("title", made)
    printed = capsys.readouterr().out
    assert "too noisy" in printed
    assert "above 2x, within the noise" in printed


@pytest.mark.parametrize(("ratio", "word"), [(1.9, "within 2x"), (2.1, "ABOVE 2x")])
def test_a_budget_is_kept_or_missed(ratio, word):
    """By its ratio."""
    _, other = results({"other": 2.0}, base=[1.0] * 4, other=[ratio] * 4)
    assert word in verdict(other)


def test_a_figure_without_a_base_is_held_against_its_budget_itself():
    """As a count of loads is."""
    assert figure("stampede", "ours", 1, "loads", budget=1).spent == 1
    assert figure("stampede", "another", 50, "loads", budget=1).spent == 50
    assert figure("stampede", "a third", 50, "loads").spent is None


def test_a_percentile_is_kept_where_there_are_samples_for_it():
    """The 99.9th of a hundred samples would be the largest under another name."""
    few, _ = results_of("group", [Timing("base", [1.0], range(1, 101)), Timing("other", [1.0], range(100))], "base")
    many, _ = results_of("group", [Timing("base", [1.0], range(1, 1001)), Timing("other", [1.0], range(9))], "base")
    assert few.percentile(99) == 99
    assert few.percentile(99.9) is None
    assert many.percentile(99.9) == 999
    assert many.percentile(100) == 1000


def test_who_is_measured_after_whom_changes_from_turn_to_turn():
    """So that what one leaves behind, in the processor's caches say, is not always the same one's to bear."""
    order = []
    operations = {name: lambda name=name: order.append(name) for name in "abc"}
    interleaved(operations, rounds=200, calls=1)
    turns = ["".join(order[first : first + 3]) for first in range(3, 603, 3)]
    assert {*turns} == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert min(map(turns.count, turns)) > 15
    assert all(order[3:].count(name) == 200 for name in "abc")


def test_what_is_warmed_is_done_once_more_in_each_turn():
    """Untimed, and by the same one."""
    order = []
    operations = {name: lambda name=name: order.append(name) for name in "ab"}
    interleaved(operations, rounds=5, calls=1, warmed=True)
    assert order[2::2] == order[3::2]
    assert len(order) == 2 + 2 * 2 * 5


def test_the_base_is_measured_again_where_it_is_named():
    """Under another name, by the same turns."""
    timings = one_by_one({"base": int, "other": int}, rounds=2, calls=5, base="base")
    assert [timing.name for timing in timings] == ["base", "other", "base, again"]
    assert [len(timing.rounds) for timing in timings] == [2, 2, 2]
    assert [len(timing.calls) for timing in timings] == [10, 10, 10]


@pytest.mark.parametrize(
    ("ratio", "text"), [(2e-5, "1/50,000"), (0.17, "0.17x"), (1.0, "1.00x"), (7541.3, "7,541x"), (0, "0.00x")]
)
def test_a_ratio_is_written_so_that_it_can_be_read(ratio, text):
    """No ratio that is not nothing is shown as nothing."""
    assert times(ratio) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1_234.4, "1,230 s"),
        (0.9996, "1 s"),
        (0.9994, "999 ms"),
        (0.01996, "20 ms"),
        (999.6e-6, "1 ms"),
        (999.6e-9, "1 µs"),
        (35.4e-9, "35 ns"),
        (0, "0"),
    ],
)
def test_seconds_are_written_in_the_unit_of_what_is_written(seconds, text):
    """Never as 1e+03 of a smaller one."""
    assert shown(seconds, "s") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.09408, "0.0941"),
        (0, "0"),
        (1, "1"),
        (42.19, "42.2"),
        (99.97, "100"),
        (16_777_205, "16,777,205"),
        (-5.5, "-5.5"),
    ],
)
@pytest.mark.parametrize("unit", ["requests/s", "loads", "cents", "bytes"])
def test_a_small_number_is_not_written_as_none(unit, value, text):
    """Three digits of it, and all of a large one's."""
    assert shown(value, unit) == text


def test_a_table_has_the_columns_that_say_something(capsys):
    """And the note of a row behind it."""
    show(
        "counts",
        [figure("counts", "ours", 1, "loads", budget=1), figure("counts", "another", 50, "loads", note="late")],
    )
    heading, ours, another = capsys.readouterr().out.splitlines()[2:]
    assert heading.split() == ["median"]
    assert ours.split() == ["ours", "1", "within", "1"]
    assert another.split() == ["another", "50", "late"]


def test_the_slow_ones_may_do_fewer_calls_in_a_turn():
    """The figure is that of a call all the same, and the clock is the one that was given."""
    now = iter(range(1_000))
    calls = {"base": 10, "slow": 2}
    timings = interleaved({"base": int, "slow": int}, rounds=2, calls=calls, base="base", clock=lambda: next(now))
    assert {timing.name: timing.median for timing in timings} == {"base": 0.1, "slow": 0.5, "base, again": 0.1}


def test_what_a_call_takes_is_told_as_calls_a_second_too(capsys):
    """A point of a curve for each place, without the second measurement of the base."""
    place = {"curve": "as it grows", "axis": "threads"}
    timings = [Timing("base", [0.001] * 3), Timing("other", [0.002] * 3), Timing(AGAIN.format("base"), [0.001] * 3)]
    found = [result for at in (1, 1_000) for result in results_of(f"by {at}", timings, "base", at=at, **place)]
    told = throughput("hits a second", found)
    assert [(result.name, result.at, result.median, result.unit) for result in told] == [
        (name, at, pytest.approx(rate), "hits/s")
        for at in (1, 1_000)
        for name, rate in (("base", 1_000), ("other", 500))
    ]
    assert {result.curve for result in told} == {"hits a second"}
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["threads", "1", "1,000"] in printed
    assert ["other", "500", "500"] in printed
