"""The command `tiered-cache`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tiered_cache._errors import TieredCacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiered_cache._units import Duration
    from tiered_cache.simulation import Experiment, Sessions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments`, by default those of the process; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="tiered-cache", description="The read-through cache that understands AWS Lambda."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="a real handler on local services: the latency of each tier")
    demo.add_argument("--short", action="store_true", help="fewer calls, for a quick look")
    demo.add_argument("--examples", type=Path, default=None, help="folder with the module three_origins")
    demo.set_defaults(run=lambda given: _demo(_examples(given.examples), short=given.short))
    _add_sessions(commands.add_parser("sessions", help="how often a user meets the same container again"))
    _add_simulate(commands.add_parser("simulate", help="hit rates, origin calls, latency and cost of a fleet"))
    _add_bench(commands.add_parser("bench", help="what the tiers, and the peers, cost on this machine"))
    given = parser.parse_args(arguments)
    return ended(lambda: given.run(given), "tiered-cache")


def ended(run: Callable[[], int], name: str) -> int:
    """What `run` gives as exit code. An error for people is one line, begun by the command's `name`, and so is Ctrl-C.

    1 without a word where nobody reads the output to its end.
    """
    try:
        code = int(run())
        print(end="", flush=True)
    except BrokenPipeError as error:
        if not _is_read_no_longer(sys.stdout):
            print(f"{name}: {error}", file=sys.stderr)
        return 1
    except (ImportError, OSError, RuntimeError, TieredCacheError) as error:
        print(f"{name}: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return code


def _is_read_no_longer(output: TextIO) -> bool:
    """Whether its reader, such as `head`, has seen enough. Nothing more is written then, nor when Python ends."""
    try:
        print(file=output, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        return True
    return False


def _examples(given: Path | None) -> Path:
    """The folder with the example that is measured: as given, or the one that came with the package."""
    folder = given or Path(__file__).resolve().parent / "local" / "examples"
    if not (folder / "three_origins.py").is_file():
        raise RuntimeError(f"there is no three_origins.py in {folder}: give the examples' folder with --examples")
    return folder


def _demo(examples: Path, *, short: bool) -> int:
    from tiered_cache.local._needs import need

    console = need("rich.console").Console()
    from tiered_cache.local import demo

    with console.status("") as status:

        def told(step: str) -> None:
            status.update(step)
            if not console.is_terminal:
                print(step, flush=True)

        rows, outages = demo.run(examples, told, short=short)
    demo.show(rows, outages, console)
    return 0


def _add_bench(parser: argparse.ArgumentParser) -> None:
    from tiered_cache.benchmarks import command

    command.add_arguments(parser)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    from tiered_cache import _simulate_options

    def run(given: argparse.Namespace) -> int:
        from tiered_cache._simulate import simulate  # processes and tables, for this alone

        return simulate(given, parser)

    _simulate_options.add_arguments(parser, _duration)
    parser.set_defaults(run=run)


def _add_sessions(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Users request, wait for the answer and pause, again and again: each user's best share, which is that of the "
        "container that served it most, once in a simulator and with --real once on a local Lambda too."
    )
    add = parser.add_argument
    add("--users", type=int, default=10, metavar="N")
    add("--seconds", type=_duration, default=10, metavar="S", help="how long it lasts")
    add("--pause", type=_duration, default=1, metavar="S", help="a user pauses up to this, uniformly")
    add("--service", type=_duration, default=0.05, metavar="S", help="what the handler takes, the median")
    add("--spread", type=float, default=0.0, metavar="X", help="lognormal service times: the logarithm's deviation")
    add("--apart", action="store_true", help="each user begins with a pause, instead of all at once")
    add("--routing", default="newest", metavar="HOW", help="newest, oldest, recent, random or rested, of those idle")
    add("--containers", type=int, default=1000, metavar="N", help="at most so many at once")
    add("--warm", type=int, default=0, metavar="N", help="so many are there at the beginning")
    add("--cold-start", type=_duration, default=0.25, metavar="S", help="of the simulator's containers")
    add("--ttl", type=_duration, default=300, metavar="S", help="how long L1 keeps a session")
    add("--repeat", type=int, default=5, metavar="N", help="runs, each with the next seed")
    add("--seed", type=int, default=1, metavar="N", help="of the first run")
    add("--real", action="store_true", help="on the local Lambda too: real processes, in real time")
    add("--json", action="store_true", help="print JSON, which needs nothing but the library")
    parser.set_defaults(run=_sessions)


def _duration(text: str) -> Duration:
    """Seconds as a number, or text such as "50ms", which is checked where it is used."""
    try:
        return float(text)
    except ValueError:
        return text


TYPED = {"lasts": "seconds", "most": "containers", "cold_start": "cold-start"}
"""The options of `sessions` whose values go by another name in an experiment."""


def _sessions(given: argparse.Namespace) -> int:
    from tiered_cache._simulate_options import as_typed
    from tiered_cache._units import whole

    seeds = range(given.seed, given.seed + whole("repeat", given.repeat, least=1))
    with as_typed(TYPED):
        found = _found(given, seeds)
    if given.json:
        print(json.dumps({where: [_as_json(run) for run in runs] for where, runs in found.items()}, indent=2))
        return 0
    from tiered_cache.local import sessions
    from tiered_cache.local._needs import need

    console = need("rich.console").Console()
    for where, runs in found.items():
        sessions.show(f"{where}: {given.users} users, routing {given.routing}", runs, given.seed, given.users, console)
    return 0


def _found(given: argparse.Namespace, seeds: Sequence[int]) -> dict[str, list[Sessions]]:
    """What each run showed, by where it ran."""
    from tiered_cache.simulation import Containers, Experiment, simulated

    experiment = Experiment(
        users=given.users,
        lasts=given.seconds,
        pause=given.pause,
        service=given.service,
        spread=given.spread,
        ttl=given.ttl,
        together=not given.apart,
        containers=Containers(
            most=given.containers, routing=given.routing, warm=given.warm, cold_start=given.cold_start
        ),
    )
    found = {"simulator": [simulated(experiment, seed) for seed in seeds]}
    if given.real:
        found["local Lambda"] = _on_the_local_lambda(experiment, seeds)
    return found


def _on_the_local_lambda(experiment: Experiment, seeds: Sequence[int]) -> list[Sessions]:
    from tiered_cache.local.sessions import real

    runs = []
    for seed in seeds:
        print(f"on the local Lambda, seed {seed}", file=sys.stderr, flush=True)
        runs.append(real(experiment, seed))
    return runs


def _as_json(run: Sessions) -> dict[str, object]:
    return {
        "best_shares": {str(user): share for user, share in run.best_shares.items()},
        "mean_best_share": run.mean_best_share,
        "again": None if isnan(run.again) else run.again,
        "l1_hit_rate": run.l1_hit_rate,
        "median_seconds": run.seconds,
        "requests": run.requests,
        "containers": run.containers,
    }
