"""`tiered-cache simulate`: hit rates, origin calls, latency and cost of a fleet, with a Redis and without."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import floor, log10
from multiprocessing import active_children, get_context
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tiered_cache._simulate_options import Case, cases, trace_of
from tiered_cache._units import whole
from tiered_cache.simulation.costs import Costs, Prices, Usage, monthly, read_prices
from tiered_cache.simulation.fleet import number
from tiered_cache.simulation.paying import Paying, Refused, paying
from tiered_cache.simulation.scenario import MOST, MOST_RATE, Figures, Scenario, steady

if TYPE_CHECKING:
    from tiered_cache.simulation.recorded import Recorded

Told: TypeAlias = Callable[[Iterable[Any], int, str], Iterable[Any]]
DOUBT = " Do not rely on that: at such a rate what is simulated is too short for the TTLs."


class Found(NamedTuple):
    """What came of a case: the run with the median costs, and the costs of all."""

    case: Case
    with_l2: bool
    figures: Figures
    costs: Costs
    totals: Sequence[float]

    @property
    def scenario(self) -> Scenario:
        """What was simulated."""
        return self.case.scenario if self.with_l2 else self.case.scenario.without_l2()


class Answer(NamedTuple):
    """From which traffic on the Redis pays, run by run: requests a second, None for never up to the most that was tried."""

    case: Case
    rates: Sequence[float | None]
    low: float
    high: float
    refused: Sequence[Refused] = ()
    """Of each run at its rate."""

    @property
    def is_steady(self) -> bool:
        """Whether both fleets' caches had the time to fill at that rate: a trace that is to come faster is over sooner."""
        fastest = max((rate for rate in self.rates if rate is not None), default=self.high)
        scenario = replace(self.case.scenario, rate=fastest)
        return scenario.is_steady and scenario.without_l2().is_steady

    def __str__(self) -> str:
        """The answer, with what there is to be said against it."""
        return f"{self._answer}{self._refusing}{'' if self.is_steady else DOUBT}"

    @property
    def _refusing(self) -> str:
        without, beside = (max((run[which] for run in self.refused), default=0.0) for which in (0, 1))
        if not without and not beside:
            return ""
        shares = f"{_share(without)} of the requests without it and {_share(beside)} with it"
        return f" Containers run out: {shares} are refused there; costs are those of an answered request."

    @property
    def _answer(self) -> str:
        paying = sorted(rate for rate in self.rates if rate is not None)
        runs = f"{len(self.rates)} runs" if len(self.rates) > 1 else "one run"
        if not paying:
            return f"The Redis does not pay up to {_rate(self.high)} requests/s at these prices ({runs})."
        if len(paying) < len(self.rates):
            return (
                f"The Redis pays from {_rate(paying[0])} to above {_rate(self.high)} requests/s on ({runs} disagree)."
            )
        if paying[-1] == self.low:
            return f"The Redis pays at these prices, from {_rate(self.low)} requests/s on at the latest ({runs})."
        spread = f"{_rate(paying[0])} to {_rate(paying[-1])} in {runs}" if len(paying) > 1 else runs
        return f"From about {_rate(median(paying))} requests/s on the Redis pays at these prices ({spread})."


def simulate(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Do what the arguments say; gives the exit code."""
    prices = read_prices(given.prices)
    high = number("up-to", 1_000.0 if given.up_to is None else given.up_to, above_zero=True, most=MOST_RATE)
    whole("jobs", given.jobs, least=1)
    seeds = [given.seed + turn for turn in range(whole("repeat", given.repeat, least=1))]
    trace = trace_of(given)
    all_cases = cases(given, parser, trace)
    asked = [] if given.no_answer or given.no_l2 else cases(given, parser, trace, rates=False)
    with _progress(quiet=given.json) as told, _workers(given.jobs) as mapped:
        found = _fleets(all_cases, seeds, prices, lambda tasks: told(mapped(_run, tasks), len(tasks), "fleets"))
        low = min(0.1, high / 10)
        pays = partial(_paying, prices=prices, low=low, high=high)
        tasks = [(case, seed) for case in asked for seed in seeds]
        runs = iter(list(told(mapped(pays, tasks), len(tasks), "from which traffic on a Redis pays")))
    answers = [_answer_of(case, [next(runs) for _ in seeds], low, high) for case in asked]
    notes = list(_notes(found, trace))
    if given.json:
        print(json.dumps(_as_json(found, answers, prices, notes), indent=1))
    else:
        _show(found, answers, prices, notes)
    return 0


def _fleets(
    all_cases: Sequence[Case],
    seeds: Sequence[int],
    prices: Prices,
    ran: Callable[[Sequence[tuple[Case, bool, int]]], Iterable[Figures]],
) -> list[Found]:
    """Each case without L2 and with it."""
    variants = [(case, with_l2) for case in all_cases for with_l2 in (False, True) if case.scenario.l2 or not with_l2]
    figures = iter(list(ran([(case, with_l2, seed) for case, with_l2 in variants for seed in seeds])))
    found = []
    for case, with_l2 in variants:
        runs = [next(figures) for _ in seeds]
        costs = [monthly(one.usage, prices, case.workload, with_l2=with_l2) for one in runs]
        ordered = sorted(zip(costs, runs, strict=True), key=lambda pair: pair[0].total)
        middle = ordered[(len(ordered) - 1) // 2]
        found.append(Found(case, with_l2, middle[1], middle[0], [cost.total for cost, _ in ordered]))
    return found


def _run(task: tuple[Case, bool, int]) -> Figures:
    case, with_l2, seed = task
    return steady(case.scenario if with_l2 else case.scenario.without_l2(), seed)


def _answer_of(case: Case, runs: Sequence[Paying], low: float, high: float) -> Answer:
    return Answer(case, [run.rate for run in runs], low, high, [run.refused for run in runs])


def _paying(task: tuple[Case, int], *, prices: Prices, low: float, high: float) -> Paying:
    case, seed = task
    return paying(case.scenario, prices, case.workload, seed, low=low, high=high)


@contextmanager
def _workers(jobs: int) -> Generator[Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]]:
    """`map` over so many processes; in this one, if it is one. If it is left by an error none of them goes on."""
    if jobs == 1:
        yield map
        return
    others = active_children()
    with ProcessPoolExecutor(jobs, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield pool.map
        except BaseException:
            for worker in active_children():
                if worker not in others:
                    worker.terminate()
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _progress(*, quiet: bool) -> Generator[Told]:
    """A bar for what is under way, unless it is to be quiet."""
    if quiet:
        yield lambda results, _total, _what: results
        return
    from tiered_cache.local._needs import need

    console = need("rich.console").Console(stderr=True)
    with need("rich.progress").Progress(console=console, transient=True) as bars:
        yield lambda results, total, what: bars.track(results, total=total, description=what)


def _notes(found: Sequence[Found], trace: Recorded | None) -> Iterator[str]:
    """What is to be known of the fleets, a sentence or two each."""
    if trace and trace.spread:
        yield "The trace's times are whole seconds: the requests of each are spread over it, by chance and in their order."
    if any(one.scenario.is_cut for one in found):
        yield f"What is simulated is cut at {MOST:,} requests, so that it is shorter than it is meant to be. See --lasts."
    if not all(one.scenario.is_steady for one in found):
        more = "It takes a longer trace." if trace else "See --lasts."
        yield f"What is simulated is too short for the TTLs: the hit rates are not those of full caches. {more}"


def _as_json(found: Sequence[Found], answers: Sequence[Answer], prices: Prices, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "prices": {
            name: value if isinstance(value, str) else _fields(value) for name, value in _fields(prices).items()
        },
        "fleets": [
            {
                "case": one.case.name,
                "with_l2": one.with_l2,
                "steady": one.scenario.is_steady,
                **_fields(one.figures),
                "usage": _usage(one.figures.usage),
                "costs": _fields(one.costs),
                "month": one.costs.total,
                "months": list(one.totals),
            }
            for one in found
        ],
        "answers": [
            {
                "case": one.case.name,
                "pays_from": list(one.rates),
                "refused": [_fields(run) for run in one.refused],
                "steady": one.is_steady,
                "answer": str(one),
            }
            for one in answers
        ],
        "notes": list(notes),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {**_fields(usage), "sized": usage.sized and _fields(usage.sized)}


def _fields(one: Any) -> dict[str, Any]:
    names = getattr(one, "_fields", None) or one.__slots__
    return {name: getattr(one, name) for name in names}


ROWS: tuple[tuple[str, Callable[[Found], str]], ...] = (
    ("answered by L1", lambda one: f"{one.figures.l1:.1%}"),
    ("  a container's quartiles", lambda one: " ".join(f"{share:.1%}" for share in one.figures.l1_by_container[::2])),
    ("answered by L2", lambda one: f"{one.figures.l2:.1%}" if one.with_l2 else "-"),
    ("answered by the origin", lambda one: f"{one.figures.origin:.1%}"),
    ("stale", lambda one: f"{one.figures.stale:.1%}"),
    ("waited for another's load", lambda one: f"{one.figures.waited:.1%}"),
    ("refused", lambda one: _share(one.figures.refused)),
    ("origin calls a second", lambda one: _digits(one.figures.origin_rate, 3)),
    ("origin calls a month", lambda one: f"{one.figures.origin_rate * 730 * 3600:,.0f}"),
    ("median", lambda one: _time(one.figures.p50)),
    ("p90", lambda one: _time(one.figures.p90)),
    ("p99", lambda one: _time(one.figures.p99)),
    ("containers, at most", lambda one: f"{one.figures.containers:,}"),
    ("cold starts an hour", lambda one: _digits(one.figures.cold_starts * 3600, 3)),
)


def _show(found: Sequence[Found], answers: Sequence[Answer], prices: Prices, notes: Sequence[str]) -> None:
    from tiered_cache.local._needs import need
    from tiered_cache.local._tables import print_whole

    console = need("rich.console").Console()
    table = need("rich.table").Table(box=need("rich.box").SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    if len({one.case.name for one in found}) == 1:
        _in_columns(table, found, prices)
    else:
        _in_rows(table, found, prices)
    print_whole(console, table)
    for answer in answers:
        print(f"{answer.case.name}: {answer}" if answer.case.name else answer)
    for note in notes:
        print(note)


def _in_columns(table: Any, found: Sequence[Found], prices: Prices) -> None:
    """One case: a column without L2, and one with it."""
    from tiered_cache.local._needs import need

    text = need("rich.text").Text  # what the user wrote is no markup
    table.add_column("", no_wrap=True)
    for one in found:
        table.add_column("with L2" if one.with_l2 else "without L2", justify="right", no_wrap=True)
    for name, told in ROWS:
        table.add_row(name, *(told(one) for one in found))
    table.add_section()
    for part in Costs._fields:
        table.add_row(f"{part} a month", *(text(_money(getattr(one.costs, part), prices)) for one in found))
    table.add_row("all a month", *(text(_money(one.costs.total, prices)) for one in found))


def _in_rows(table: Any, found: Sequence[Found], prices: Prices) -> None:
    """Many cases: a row for each, without L2 and with it; what was refused only where anything was."""
    from tiered_cache.local._needs import need

    text = need("rich.text").Text  # what the user wrote is no markup
    refusing = any(one.figures.refused for one in found)
    table.add_column("", min_width=12, overflow="fold")
    for heading in (
        "Redis",
        "L1",
        "L2",
        "origin\ncalls/s",
        "median",
        "p99",
        *(["refused"] if refusing else []),
        f"Redis\n{prices.currency}",
        f"month\n{prices.currency}",
    ):
        table.add_column(text(heading), justify="right", no_wrap=True)
    for one in found:
        figures = one.figures
        table.add_row(
            text("" if one.with_l2 else one.case.name),
            "yes" if one.with_l2 else "no",
            f"{figures.l1:.1%}",
            f"{figures.l2:.1%}" if one.with_l2 else "-",
            _digits(figures.origin_rate, 3),
            _time(figures.p50),
            _time(figures.p99),
            *([_share(figures.refused)] if refusing else []),
            f"{one.costs.redis:,.2f}",
            f"{one.costs.total:,.2f}",
        )


def _share(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _digits(number: float, count: int) -> str:
    """With so many digits that count at least, nine places at most, and never a power of ten."""
    rounded = float(f"{number:.{count}g}") if number < 10**count else round(number)
    places = min(9, max(0, count - 1 - floor(log10(rounded)))) if rounded else 0
    text = f"{rounded:,.{places}f}"
    return text.rstrip("0").rstrip(".") if places else text


def _rate(rate: float) -> str:
    return _digits(rate, 2)


def _money(amount: float, prices: Prices) -> str:
    return f"{amount:,.2f} {prices.currency}"


def _time(seconds: float) -> str:
    in_ms = _digits(seconds * 1000, 3)
    return f"{in_ms} ms" if seconds < 1 and in_ms != "1,000" else f"{_digits(seconds, 3)} s"
