"""The options of `tiered-cache simulate`, and the cases that they mean."""

from __future__ import annotations

import argparse
import csv
import itertools
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tiered_cache._errors import ConfigurationError
from tiered_cache._units import shown
from tiered_cache.simulation import ROUTINGS, Containers, Freshness, Time, Timings
from tiered_cache.simulation.costs import EXAMPLE, ORIGINS, REDISES, Workload
from tiered_cache.simulation.fleet import MOST_SPREAD, number, taking
from tiered_cache.simulation.recorded import read_requests
from tiered_cache.simulation.scenario import Scenario
from tiered_cache.simulation.tiers import COHERENCES, REFRESHES

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from tiered_cache._units import Duration
    from tiered_cache.simulation.recorded import Recorded

ORIGIN_TIMES = {"dynamodb": 0.008, "s3": 0.04, "athena": 180.0, "free": 0.05}
"""Seconds that a load takes where --origin-time does not say: guesses to be replaced by what you measured."""
FIXED = {"vary", "seed", "repeat", "up_to", "no_answer", "jobs", "json", "prices", "trace", "help", "no_l2", "timings"}
"""Options of all cases, which cannot be varied."""


def add_arguments(parser: argparse.ArgumentParser, duration: Callable[[str], Duration]) -> None:
    parser.description = (
        "A fleet of containers under some traffic, simulated with an L2 and without: who answers, how soon, what it costs "
        "a month at your prices, and from which traffic on the Redis pays."
    )
    _add_traffic(parser.add_argument_group("traffic").add_argument, duration)
    _add_fleet(parser.add_argument_group("containers").add_argument, duration)
    _add_tiers(parser.add_argument_group("tiers").add_argument, duration)
    _add_money(parser.add_argument_group("prices").add_argument)
    add = parser.add_argument_group("runs").add_argument
    add(
        "--vary",
        action="append",
        default=[],
        metavar="OPTION=A,B,...",
        help="simulate each; may be given again, of another option",
    )
    add("--seed", type=int, default=1, metavar="N", help="of the first run")
    add("--repeat", type=int, default=3, metavar="N", help="runs of each case, whose medians are told")
    add("--up-to", type=float, metavar="N", help="requests a second up to which a Redis may pay; 1000")
    add("--no-answer", action="store_true", help="do not look for the traffic from which on a Redis pays")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--json", action="store_true", help="print JSON, which needs nothing but the library")


def _add_traffic(add: Callable[..., Any], duration: Callable[[str], Duration]) -> None:
    add("--rate", type=float, metavar="N", help="requests a second; 10, or what a trace has")
    add("--keys", type=int, metavar="N", help="so many, 1000")
    add("--zipf", type=float, metavar="X", help="exponent, 1: 0 for keys that are all alike")
    add("--trace", type=Path, metavar="FILE", help="instead: CSV with the columns timestamp, key and perhaps bytes")
    add("--service", type=duration, default=0.02, metavar="S", help="of a handler besides its read, the median")
    add("--service-spread", type=float, default=0.3, metavar="X", help="lognormal: the logarithm's deviation")
    add("--requests", type=int, metavar="N", help="so many are counted, 100000, and three lives of the data at least")
    add("--lasts", type=duration, metavar="S", help="so long is counted instead, such as 1h")


def _add_fleet(add: Callable[..., Any], duration: Callable[[str], Duration]) -> None:
    add("--containers", type=int, default=1_000, metavar="N", help="at most so many at once")
    add("--routing", choices=ROUTINGS, default="newest", help="which of the idle ones gets an event")
    add("--cold-start", type=duration, default=0.25, metavar="S")
    add("--idle-for", type=duration, default="10m", metavar="S", help="then a container is gone")
    add("--max-age", type=duration, default="2h", metavar="S")
    add("--warm", type=int, default=0, metavar="N", help="so many are there at the beginning")


def _add_tiers(add: Callable[..., Any], duration: Callable[[str], Duration]) -> None:
    add("--ttl", type=duration, default=60.0, metavar="S", help="of L1, beside an L2")
    add("--stale", type=duration, default=0.0, metavar="S", help="its stale_while_revalidate")
    add("--l2-ttl", type=duration, default=300.0, metavar="S", help="of L2, which is the data's")
    add("--l2-stale", type=duration, default=0.0, metavar="S", help="its stale_while_revalidate")
    add("--alone-ttl", type=duration, metavar="S", help="of L1 without an L2; by default L2's, so data get as old")
    add("--no-l2", action="store_true", help="simulate without an L2 alone, as the column without L2")
    add("--jitter", type=float, default=0.1, metavar="X", help="share of a TTL by which an entry may be cut short")
    add("--refresh", choices=REFRESHES, default="inline", help="who refreshes what is stale")
    add("--coherence", choices=COHERENCES, default="invocation", help="invocation: each asks L2 what was invalidated")
    add("--l1-time", default=2e-6, metavar="S", help="what a hit takes; or NAME, see --timings")
    add("--l2-time", default="1ms", metavar="S", help="what a round trip takes, the median; or NAME, see --timings")
    add("--l2-spread", type=float, default=0.3, metavar="X", help="lognormal: the logarithm's deviation")
    add("--origin-time", metavar="S", help="what a load takes, the median; or NAME, see --timings")
    add("--origin-spread", type=float, default=0.5, metavar="X", help="lognormal: the logarithm's deviation")
    add("--timings", type=Path, metavar="FILE", help="from tiered-cache bench --json: NAME is of a figure in it")


def _add_money(add: Callable[..., Any]) -> None:
    add("--prices", type=Path, default=EXAMPLE, metavar="FILE", help=f"TOML; an example is {EXAMPLE}")
    add("--memory", type=int, default=512, metavar="MB", help="of the function")
    add("--origin", choices=ORIGINS, default="dynamodb", help="what a load is charged as")
    add("--value-size", metavar="SIZE", help="of a value; 2 KiB, or each key's in a trace that has sizes")
    add("--consistent", action="store_true", help="DynamoDB's reads are")
    add("--scanned", default="100 MB", metavar="SIZE", help="by an Athena query")
    add("--redis", choices=REDISES, default="serverless", help="ElastiCache Serverless or nodes")


TYPED = {"skew": "zipf", "most": "containers", "spread": "service-spread", "memory_mb": "memory"}
"""The options whose values go by another name in a scenario."""


Axes: TypeAlias = list[list[tuple[str, str, Any]]]
"""What is varied: for each option its values, each with the option and its text."""


class Case(NamedTuple):
    """What is simulated: the varied options, with L2 and without."""

    name: str
    scenario: Scenario
    workload: Workload


def trace_of(given: argparse.Namespace) -> Recorded | None:
    """What was recorded, which is read once: the file may be a pipe."""
    return read_requests(given.trace) if given.trace else None


def cases(
    given: argparse.Namespace, parser: argparse.ArgumentParser, trace: Recorded | None, *, rates: bool = True
) -> list[Case]:
    """A case for each combination of what is varied; without `rates`, of what else is varied."""
    axes = [_axis(text, parser) for text in given.vary]
    _refuse_what_is_passed_over(given, axes)
    found = []
    for combination in itertools.product(*(axis for axis in axes if rates or axis[0][0] != "rate")):
        varied = argparse.Namespace(**vars(given))
        for option, _, value in combination:
            setattr(varied, option, value)
        name = ", ".join(f"{option.replace('_', '-')} {text}" for option, text, _ in combination)
        with as_typed(TYPED):
            found.append(_case(name, varied, trace))
    _refuse_unused_timings(given, axes)
    return found


@contextmanager
def as_typed(options: Mapping[str, str]) -> Generator[None]:
    """Name what is refused here as the option that it was typed as: `options` by the names that it has here."""
    try:
        yield
    except ConfigurationError as error:
        argument, _, wrong = str(error).partition(" ")
        raise ConfigurationError(f"{options.get(argument, argument)} {wrong}") from error


def _refuse_what_is_passed_over(given: argparse.Namespace, axes: Axes) -> None:
    varied = [option for ((option, _, _), *_) in axes]
    for option in varied:
        if varied.count(option) > 1:
            raise ConfigurationError(f"vary must name each option once; {option.replace('_', '-')} is there again")
    if given.up_to is not None and (given.no_l2 or given.no_answer):
        without = "no-l2" if given.no_l2 else "no-answer"
        raise ConfigurationError(f"up-to must not be given with --{without}, by which no such traffic is looked for")


def _refuse_unused_timings(given: argparse.Namespace, axes: Axes) -> None:
    if not given.timings:
        return
    names = _measured(given.timings)
    times = [getattr(given, option) for option in TIMED]
    times += [value for axis in axes for option, _, value in axis if option in TIMED]
    if not any(time in names for time in times):
        options = ", ".join(f"--{option.replace('_', '-')}" for option in TIMED)
        raise ConfigurationError(
            f"timings must be used: one of {options} must be the name of a figure in it: {', '.join(names)}"
        )


TIMED = ("l1_time", "l2_time", "origin_time")
"""The options that may name a figure of --timings."""


def _axis(given: str, parser: argparse.ArgumentParser) -> list[tuple[str, str, Any]]:
    """The option that is varied, with each text and what that means. A text with a comma stands in quotes."""
    every = parser._actions  # noqa: SLF001  # argparse tells its options nowhere else
    options = {action.dest: action for action in every if action.nargs != 0 and action.dest not in FIXED}
    name, _, texts = given.removeprefix("--").partition("=")
    action = options.get(name.replace("-", "_"))
    if action is None or not texts:
        allowed = ", ".join(sorted(option.replace("_", "-") for option in options))
        raise ConfigurationError(f"vary must be OPTION=A,B,... with one of {allowed}; got {shown(given)}")
    (each,) = csv.reader([texts])
    return [(action.dest, text, _value_of(action, text)) for text in each]


def _value_of(action: argparse.Action, text: str) -> Any:
    """What `text` is as the value of that option."""
    try:
        value = action.type(text) if callable(action.type) else text
    except ValueError as error:
        raise ConfigurationError(f"{action.dest} cannot be varied to {shown(text)}: {error}") from error
    if action.choices is not None and value not in action.choices:
        raise ConfigurationError(f"{action.dest} must be one of {', '.join(action.choices)}; got {shown(text)}")
    return value


def _case(name: str, given: argparse.Namespace, recorded: Recorded | None) -> Case:
    scenario = Scenario(
        rate=10.0 if given.rate is None and recorded is None else given.rate,
        keys=_unrecorded("keys", given.keys, recorded, 1_000),
        skew=_unrecorded("zipf", given.zipf, recorded, 1.0),
        trace=recorded.requests if recorded else (),
        sizes=recorded.sizes if recorded and given.value_size is None else {},
        service=given.service,
        spread=given.service_spread,
        containers=Containers(
            most=given.containers,
            routing=given.routing,
            cold_start=given.cold_start,
            idle_for=given.idle_for,
            max_age=given.max_age,
            warm=given.warm,
        ),
        timings=_timings(given),
        refresh=given.refresh,
        coherence=given.coherence,
        requests=_unrecorded("requests", given.requests, recorded, 100_000),
        lasts=_unrecorded("lasts", given.lasts, recorded, None),
    )
    workload = Workload(
        memory_mb=given.memory,
        origin=given.origin,
        value_size=2048 if given.value_size is None else given.value_size,
        consistent=given.consistent,
        scanned=given.scanned,
        redis=given.redis,
    )
    return Case(name, _with_policies(scenario, given), workload)


def _unrecorded(option: str, given: Any, recorded: Recorded | None, default: Any) -> Any:
    """The value of an option of traffic that is made up, which means nothing where it was recorded."""
    if recorded is not None and given is not None:
        raise ConfigurationError(
            f"{option} must not be given with --trace, whose requests are counted and have their keys"
        )
    return default if given is None else given


def _with_policies(scenario: Scenario, given: argparse.Namespace) -> Scenario:
    jitter = number("jitter", given.jitter)
    if jitter > 1:
        raise ConfigurationError(f"jitter must be a share, from 0 to 1; got {jitter}")

    def policy(name: str, ttl: object, window: str, stale: object) -> Freshness:
        return Freshness(taking(name, ttl), taking(window, stale, zero=True), 0.0, jitter)

    alone = None
    if given.alone_ttl is not None:
        alone = policy("alone-ttl", given.alone_ttl, "l2-stale", given.l2_stale)
    both = replace(
        scenario,
        l1=policy("ttl", given.ttl, "stale", given.stale),
        l2=policy("l2-ttl", given.l2_ttl, "l2-stale", given.l2_stale),
        alone=alone,
    )
    return both.without_l2() if given.no_l2 else both


def _timings(given: argparse.Namespace) -> Timings:
    measured = _measured(given.timings) if given.timings else {}
    origin = ORIGIN_TIMES[given.origin] if given.origin_time is None else given.origin_time
    return Timings(
        l1=_time("l1-time", given.l1_time, 0.0, measured).median,
        l2=_time("l2-time", given.l2_time, given.l2_spread, measured),
        origin=_time("origin-time", origin, given.origin_spread, measured),
    )


def _time(option: str, given: object, spread: float, measured: dict[str, Time]) -> Time:
    """The time that is meant: a figure's that was measured, or the one that was written down."""
    if given in measured:
        return measured[str(given)]
    try:
        median = taking(option, _number_or_text(given), zero=True)
        return Time(median, number(option.replace("time", "spread"), spread, most=MOST_SPREAD))
    except ConfigurationError as error:
        if not measured:
            raise
        raise ConfigurationError(f"{error}; nor is that one of the figures: {', '.join(measured)}") from error


def _number_or_text(given: object) -> object:
    try:
        return float(given) if isinstance(given, str) else given
    except ValueError:
        return given


def _measured(path: Path) -> dict[str, Time]:
    """The times in a file of `tiered-cache bench --json`, by the names of their figures."""
    from tiered_cache.benchmarks import results

    try:
        found = results.read(path).results
    except ValueError as error:
        raise ConfigurationError(f"timings: {error}") from error
    return {
        f"{one.group}: {one.name}": Time.through(one.median, one.percentile(90) or one.median)
        for one in found
        if one.unit == "s" and one.median > 0
    }
