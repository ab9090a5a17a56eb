"""From which traffic on a Redis pays, as the benchmark keeps it."""

import json

import pytest

from tiered_cache.benchmarks import comparison, machine, plots, report
from tiered_cache.benchmarks.fleet import paying_from
from tiered_cache.benchmarks.results import Document


def kept(*found, high=100.0):
    return paying_from("Requests a second from which on a Redis pays", "Athena, newest", list(found), high)


def document(*found):
    return Document(machine.facts(), True, list(found))


@pytest.mark.parametrize(
    ("found", "low", "middle", "most", "note"),
    [
        ((0.08, 0.12, 0.094), 0.08, 0.094, 0.12, ""),
        ((40.0, None, 60.0), 40.0, 60.0, 100.0, "not up to 100 in 1 of 3 runs"),
        ((None, None), 100.0, 100.0, 100.0, "not up to 100 in 2 of 2 runs"),
    ],
)
def test_what_never_pays_is_kept_too(found, low, middle, most, note):
    """With the rate up to which it does not, and a word."""
    row = kept(*found)
    assert (row.low, row.median, row.high, row.note, row.n) == (low, middle, most, note, len(found))
    assert json.loads(json.dumps(row.median)) == row.median


def test_a_rate_below_one_a_second_is_read_wherever_it_stands(capsys):
    """In the tables, at the axis, and beside an earlier run."""
    rare, never = kept(0.0853, 0.103), kept(None, None)
    tables = report.markdown(document(rare, never))
    assert "| Athena, newest | 0.0941 | 0.0853 to 0.103 |" in tables
    assert "| Athena, newest | 100 | 100 to 100 | not up to 100 in 2 of 2 runs |" in tables
    assert comparison.show(document(kept(0.05)), document(kept(0.09)))
    printed = capsys.readouterr().out
    assert "0.05      0.09   +80.0%" in printed
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plots")
    drawn = plots.value_bars([rare, never])
    assert all(f">{text}</text>" in drawn for text in ("0.0941", "0.1", "10"))
    assert ">0</text>" not in drawn
