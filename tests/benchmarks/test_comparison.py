"""What got worse between two runs, and which budgets are missed, is told by the results alone."""

import json
from dataclasses import replace

import pytest

from tiered_cache.benchmarks import machine, results
from tiered_cache.benchmarks.comparison import OWED, changes, judged, missed, owed, show
from tiered_cache.benchmarks.harness import Result, figure
from tiered_cache.benchmarks.results import Document

TIMED = Result(
    group="L1 hit",
    name="ours",
    unit="s",
    median=2e-7,
    low=2e-7,
    high=2e-7,
    ratio=5.0,
    base="dict",
    noise=0.02,
    suite="peers",
)


def run(*results, quick=False):
    return Document({"at": "then", "python": "CPython 3.11"}, quick, list(results))


@pytest.mark.parametrize(("now", "word"), [(5.15, ""), (6.0, "WORSE"), (4.0, "better"), (4.9, "")])
def test_a_ratio_that_moved_by_more_than_the_noise_is_flagged(now, word):
    """The noise of both runs together, and never less than a twentieth."""
    (change,) = changes(run(TIMED), run(replace(TIMED, ratio=now)))
    assert change.word == word


def test_on_a_noisy_machine_less_is_flagged():
    """What the base does by itself is no change of ours."""
    noisy = replace(TIMED, noise=0.3)
    (change,) = changes(run(noisy), run(replace(noisy, ratio=7.0)))
    assert change.word == ""


def test_fewer_hits_are_worse():
    """A share is better when it grows, and everything else when it shrinks."""
    then, now = figure("trace", "lru", 0.5, "share"), figure("trace", "lru", 0.3, "share")
    assert [change.word for change in changes(run(then), run(now))] == ["WORSE"]
    assert [change.word for change in changes(run(now), run(then))] == ["better"]


def test_a_share_of_which_less_is_better_says_so(tmp_path):
    """As what the origin has to answer: twice of it is worse. That is written with it."""
    then, now = (figure("fleet", "the origin's", share, "share", better="less") for share in (0.1, 0.2))
    assert [change.word for change in changes(run(then), run(now))] == ["WORSE"]
    assert [change.word for change in changes(run(now), run(then))] == ["better"]
    results.write(run(then, figure("trace", "lru", 0.5, "share")), tmp_path / "file.json")
    written = json.loads((tmp_path / "file.json").read_text(encoding="utf-8"))["results"]
    assert [result["better"] for result in written] == ["less", "more"]


def test_a_file_that_does_not_say_what_is_better_is_read_by_its_units(tmp_path):
    """Those of earlier versions: of a share more, and else less."""
    document = replace(run(TIMED, figure("trace", "lru", 0.5, "share")), machine=machine.facts())
    results.write(document, tmp_path / "file.json")
    content = json.loads((tmp_path / "file.json").read_text(encoding="utf-8"))
    for result in content["results"]:
        del result["better"]
    (tmp_path / "file.json").write_text(json.dumps(content), encoding="utf-8")
    assert [result.better for result in results.read(tmp_path / "file.json").results] == ["less", "more"]


def test_seconds_are_not_compared():
    """They are the machine's of that day."""
    assert changes(run(figure("outage", "first call", 0.2, "s")), run(figure("outage", "first call", 0.9, "s"))) == []


def test_what_only_one_run_has_is_left_out():
    """A new peer is no regression."""
    assert changes(run(), run(TIMED)) == []
    assert changes(run(TIMED), run()) == []


def test_the_table_tells_what_cannot_be_compared(capsys):
    """Another Python, a quick run beside a long one."""
    then, now = run(TIMED), replace(run(replace(TIMED, ratio=9.0), quick=True), machine={"python": "CPython 3.13"})
    show(then, now)
    printed = capsys.readouterr().out
    assert "another python: CPython 3.11" in printed
    assert "one of them is quick" in printed
    assert "1 of 1 got worse" in printed


def test_what_was_not_compared_is_told(capsys):
    """The parts, with the reason; and figures that have another name now, as those of more accesses."""
    then = replace(
        run(TIMED, replace(TIMED, group="500 accesses")), seconds={"peers.l1": 1.0, "tiers.l2": 1.0, "x.old": 1}
    )
    now = replace(
        run(TIMED, replace(TIMED, group="900 accesses")), seconds={"peers.l1": 1.0, "tiers.l2": 1.0, "x.new": 1}
    )
    assert show(then, replace(now, failed={"tiers.l2": "KeyError: 1"}))
    printed = capsys.readouterr().out
    assert "  only then: tiers.l2 (failed: KeyError: 1), x.old\n" in printed
    assert "  only now: x.new\n" in printed
    assert "  1 figure only then, such as peers: 500 accesses: ours\n" in printed
    assert "  1 figure only now, such as peers: 900 accesses: ours\n" in printed
    assert show(replace(then, skipped={"tiers.l2": "no server"}), now)
    assert "  only now: tiers.l2 (skipped: no server), x.new\n" in capsys.readouterr().out


def test_runs_that_have_nothing_in_common_are_not_well(capsys):
    """That nothing of nothing got worse says nothing."""
    assert not show(run(TIMED), run(figure("outage", "first call", 0.9, "s")))
    printed = capsys.readouterr().out
    assert "Nothing can be compared" in printed
    assert "got worse" not in printed


def test_what_comes_of_nothing_is_a_change():
    """Though it has no ratio to it."""
    then, now = figure("stampede", "ours", 0, "loads"), figure("stampede", "ours", 1, "loads")
    assert [change.word for change in changes(run(then), run(now))] == ["WORSE"]
    assert [change.word for change in changes(run(then), run(then))] == [""]


@pytest.mark.parametrize(("ratio", "lines"), [(7.0, 0), (10.0, 0), (11.0, 1)])
def test_a_budget_is_missed_where_it_is_by_half_or_more(ratio, lines):
    """Less may be the machine."""
    assert len(missed(run(replace(TIMED, ratio=ratio, budget=7.0)))) == lines


def test_noise_excuses():
    """On a machine that is two thirds off by itself nothing can be said."""
    assert missed(run(replace(TIMED, ratio=11.0, budget=7.0, noise=0.7))) == []


def test_a_count_has_a_budget_too_and_seconds_have_none():
    """Two loads instead of one are no noise; a slow call on a loaded machine may be."""
    (line,) = missed(
        run(figure("stampede", "ours", 2, "loads", budget=1), figure("outage", "first", 9.0, "s", budget=1.0))
    )
    assert line == "stampede: ours: 2, and the budget is 1"


def test_what_is_owed_is_told_with_its_reason_and_fails_no_check():
    """As long as it is owed: each name is one that is measured."""
    for name, why in OWED.items():
        document = run(replace(TIMED, name=name, ratio=70.0, budget=7.0))
        assert missed(document) == []
        assert owed(document) == [f"L1 hit: {name}: 70.00x, and the budget is 7: {why}"]
        assert owed(run(replace(TIMED, name=name, ratio=7.0, budget=7.0))) == []
    assert OWED.keys() <= {"tiered_cache get_many_or_load"}


def test_what_can_be_judged_has_a_budget_of_a_ratio_or_a_count():
    """Seconds have none that a check could hold them to."""
    count = figure("stampede", "ours", 1, "loads", budget=1)
    seconds = figure("outage", "first", 9.0, "s", budget=1.0)
    assert judged(run(TIMED, count, seconds)) == [count]
