"""Interleaved timing, and its results as data: machines are noisy, so what counts is a ratio within one run.

What is compared takes turns, each turn in another order. The base is measured twice, under two names: how far it is from itself
is the noise, and no smaller difference is worth a word.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from tiered_cache.benchmarks.progress import turns


class Skipped(Exception):
    """A part cannot be measured here; the text says why."""


once = lru_cache(maxsize=None)(print)
"""Print a line, unless it was printed before."""
AGAIN = "{}, again"
LEVELS = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
"""The percentiles that are kept of each distribution."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per operation: one figure for each turn and, where a call takes long enough to be timed alone, for each call."""

    name: str
    rounds: Sequence[float]
    calls: Sequence[float] = ()

    @property
    def median(self):
        return statistics.median(self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A figure, with the distribution that it is the median of.

    unit: "s", "share" (of 1), "ratio", or what is counted, such as "bytes", "loads" and "requests/s". per: what one of the `n`
    samples is of.
    ratio: to `base`, turn by turn. noise: how far the base was from itself, as a share; None where it was measured once.
    budget: what `ratio` may be at most or, where there is none, the median. better: "less" or "more", which of it is.
    curve, at, axis: of which curve it is a point, where, and what is along it.
    """

    group: str
    name: str
    unit: str
    median: float
    low: float
    high: float
    n: int = 1
    suite: str = ""
    per: str = "turn"
    ratio: float | None = None
    base: str | None = None
    noise: float | None = None
    budget: float | None = None
    better: str = "less"
    percentiles: tuple[tuple[float, float], ...] = ()
    curve: str = ""
    at: float | None = None
    axis: str = ""
    note: str = ""

    def percentile(self, level):
        """The value at `level`, one of LEVELS; None where no distribution was kept."""
        return dict(self.percentiles).get(level)

    @property
    def spent(self):
        """What was used of the budget, as a share; None without one."""
        measured = self.median if self.ratio is None else self.ratio
        return None if self.budget is None else measured / self.budget


def figure(group, name, value, unit, **facts):
    """A result that is one number: a count, a size, a share; of a share more is better, unless `better` says otherwise."""
    facts = {"better": better_of(unit)} | facts
    return Result(group=group, name=name, unit=unit, median=value, low=value, high=value, **facts)


def better_of(unit):
    """Whether "less" or "more" is better of what has that unit, where nothing else is known: a share is one of hits."""
    return "more" if unit in ("share", "hits/s") else "less"


def interleaved(operations, *, rounds, calls, base=None, clock=time.perf_counter, warmed=False):
    """Time each of `operations` (name -> function that does `calls` operations), taking turns for `rounds` rounds.

    base: the name of the one that is measured a second time, as `<base>, again`. calls: one number, or one for each name.
    clock: the processor's where nothing waits, `time.process_time`: on a busy machine long turns are interrupted, and short ones
    are not, which no taking of turns makes up for. warmed: what is timed comes after the same untimed, each turn.
    """
    measured = with_base_again(operations, base)
    does = with_base_again(calls if isinstance(calls, dict) else dict.fromkeys(operations, calls), base)
    seconds = {name: [] for name in measured}
    for operation in measured.values():
        operation()
    for turn in turns(rounds):
        for name in in_turn(tuple(measured), turn):
            operation = measured[name]
            if warmed:
                operation()
            started = clock()
            operation()
            seconds[name].append((clock() - started) / does[name])
    return [Timing(name, values) for name, values in seconds.items()]


def one_by_one(operations, *, rounds, calls, base=None):
    """The same where one call takes some microseconds or more: each of the `calls` of a turn is timed alone."""
    return sampled(
        {name: each(operation) for name, operation in operations.items()}, rounds=rounds, calls=calls, base=base
    )


def each(call, clock=time.perf_counter):
    """A function that calls `call` so many times and gives the seconds of each."""

    def sample(calls):
        seconds = []
        for _ in range(calls):
            started = clock()
            call()
            seconds.append(clock() - started)
        return seconds

    return sample


def sampled(samplers, *, rounds, calls, base=None):
    """The same with functions that time themselves: they take a number of calls, and give the seconds of each."""
    measured = with_base_again(samplers, base)
    seconds = {name: [] for name in measured}
    medians = {name: [] for name in measured}
    for sample in measured.values():
        sample(max(1, calls // 10))
    for turn in turns(rounds):
        for name in in_turn(tuple(measured), turn):
            values = measured[name](calls)
            seconds[name] += values
            medians[name].append(statistics.median(values))
    return [Timing(name, medians[name], seconds[name]) for name in measured]


def with_base_again(operations, base):
    return operations if base is None else operations | {AGAIN.format(base): operations[base]}


def in_turn(names, turn):
    """The names in the order of that turn, a drawn one: each follows each other as often, and none has the better place.

    If the base always followed its own second measurement, it would find in the processor's caches what it needs, as nobody else.
    """
    return Random(turn).sample(names, len(names))


def results_of(group, timings, base, budgets=None, **facts):
    """A result for each timing, with its ratio to the one named `base`, turn by turn."""
    of_base = next(timing.rounds for timing in timings if timing.name == base)
    again = next((timing.rounds for timing in timings if timing.name == AGAIN.format(base)), None)
    noise = None if again is None else distance_from_one(again, of_base)
    return [
        _result(group, timing, of_base, base=base, noise=noise, budget=(budgets or {}).get(timing.name), **facts)
        for timing in timings
    ]


def distance_from_one(again, of_base):
    """How far half of the turns were from a ratio of one, which they should all have been."""
    low, _, high = quartiles([mine / its for mine, its in zip(again, of_base, strict=True)])
    return max(abs(low - 1), abs(high - 1))


def _result(group, timing, of_base, **facts):
    samples = sorted(timing.calls or timing.rounds)
    low, median, high = quartiles(samples)
    return Result(
        group=group,
        name=timing.name,
        unit="s",
        median=median,
        low=low,
        high=high,
        n=len(samples),
        per="call" if timing.calls else "turn",
        ratio=statistics.median(mine / its for mine, its in zip(timing.rounds, of_base, strict=True)),
        percentiles=percentiles(samples),
        **facts,
    )


def quartiles(values):
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def percentiles(ordered):
    """Pairs of a level and the value there, of those levels that so many samples can tell apart."""
    last = len(ordered) - 1
    told = [level for level in LEVELS if level in (0, 50, 100) or round(min(level, 100 - level) * len(ordered)) >= 100]
    return tuple((level, ordered[round(level / 100 * last)]) for level in told)


def table(title, timings, base, note="", budgets=None, **facts):
    """Print timings with their ratio to the one named `base`; gives them as results."""
    results = results_of(title, timings, base, budgets, **facts)
    show(title, results, note)
    return results


def compared(title, operations, *, base, rounds, calls, note="", budgets=None, of_processor=False, **facts):
    """Measure `operations` by turns, print them, and give the results.

    of_processor: in its seconds, and warmed, for what computes and does not wait.
    """
    how = {"clock": time.process_time, "warmed": True} if of_processor else {}
    timings = interleaved(operations, rounds=rounds, calls=calls, base=base, **how)
    return table(title, timings, base, note, budgets, **facts)


COLUMNS = {
    "median": lambda result: result.median,
    "p25": lambda result: result.low if result.n > 1 else None,
    "p75": lambda result: result.high if result.n > 1 else None,
    "p90": lambda result: result.percentile(90),
    "p99": lambda result: result.percentile(99),
    "p99.9": lambda result: result.percentile(99.9),
    "ratio": lambda result: result.ratio,
}


def show(title, results, note=""):
    """Print results, with a word on the noise where it was measured, and on every budget that is missed."""
    columns = {
        heading: value for heading, value in COLUMNS.items() if any(value(result) is not None for result in results)
    }
    wide = max(46, *(len(result.name) + 1 for result in results)) if results else 46
    print(f"\n{title}")
    print(f"  {'':{wide}}{''.join(f'{heading:>10}' for heading in columns)}".rstrip())
    for result in results:
        cells = (_cell(value(result), "ratio" if name == "ratio" else result.unit) for name, value in columns.items())
        said = f"  {result.note}" if result.note else ""
        print(f"  {result.name:{wide}}{''.join(f'{cell:>10}' for cell in cells)}{verdict(result)}{said}".rstrip())
    for line in (noise_of(results), note):
        if line:
            print(f"  {line}")
    sys.stdout.flush()


def _cell(value, unit):
    return "" if value is None else shown(value, unit)


def throughput(curve, results):
    """What the results of a curve are a second: printed as a table along the curve, and given as results of their own."""
    once = [result for result in results if result.name != AGAIN.format(result.base)]
    places = sorted({result.at for result in once})
    print(f"\n{curve}")
    print(f"  {once[0].axis:46}{''.join(f'{place:>12,}' for place in places)}")
    for name in dict.fromkeys(result.name for result in once):
        rates = {result.at: 1 / result.median for result in once if result.name == name}
        print(f"  {name:46}{''.join(f'{rates[at]:>12,.0f}' if at in rates else ' ' * 12 for at in places)}")
    sys.stdout.flush()
    return [_throughput(curve, result) for result in once]


def _throughput(curve, result):
    spread = {"low": 1 / result.high, "high": 1 / result.low, "n": result.n}
    place = {"curve": curve, "at": result.at, "axis": result.axis}
    group = f"{curve}: {result.at:,} {result.axis}"
    rate = {"unit": "hits/s", "better": "more", "median": 1 / result.median}
    return Result(group=group, name=result.name, **rate, **spread, **place)


def verdict(result):
    """A word on the budget: kept, missed, or missed by less than the noise."""
    if result.spent is None:
        return ""
    limit = f"{result.budget:g}x" if result.ratio is not None else shown(result.budget, result.unit)
    if result.spent <= 1:
        return f"  within {limit}"
    return f"  above {limit}, within the noise" if result.spent <= 1 + (result.noise or 0) else f"  ABOVE {limit}"


def noise_of(results):
    """A word on the largest noise of the results: the points of a curve have each their own."""
    noise = max((result.noise for result in results if result.noise is not None), default=None)
    if noise is None:
        return ""
    line = f"The base beside itself: within {noise:.1%}, so a smaller difference tells nothing."
    return f"{line} This machine is too noisy for small differences." if noise > 0.1 else line


def shown(value, unit):
    """A value as people write it."""
    if unit == "s":
        return shown_seconds(value)
    if unit == "share":
        return f"{value:.2%}"
    if unit == "ratio":
        return times(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(ratio):
    """A ratio as people write it, very small ones as fractions."""
    if 0 < ratio < 0.01:
        return f"1/{1 / ratio:,.0f}"
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.2f}x"


def shown_seconds(seconds):
    """Three digits of them, in the unit that they have once they are rounded, and never as a power of ten."""
    seconds = float(f"{seconds:.3g}")
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            value = seconds / scale
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns" if seconds else "0"
