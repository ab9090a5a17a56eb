"""The session experiment on real processes, and its tables: `tiered-cache sessions`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tiered_cache._units import seconds
from tiered_cache.local._needs import need
from tiered_cache.local._tables import print_whole
from tiered_cache.local.awslambda import LocalLambda, Throttled
from tiered_cache.simulation.sessions import Request, check_that_somebody_asked, sessions
from tiered_cache.simulation.traffic import lognormal, pauses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiered_cache.simulation.sessions import Experiment, Sessions

HANDLERS = Path(__file__).parent / "handlers"


def real(experiment: Experiment, seed: int = 1) -> Sessions:
    """The experiment on the local Lambda: a thread for each user, a process for each container.

    The users' pauses are those of the simulator with the same seed. How long a cold start takes, and when a container
    leaves, is not asked of the options: the one takes what it takes here, and none leaves while the experiment lasts.
    Raises ConfigurationError where nobody asked.
    """
    containers = experiment.containers
    routing: Any = containers.routing  # which of the simulator's it has, the local Lambda knows
    with LocalLambda(
        "sessions.handler",
        directory=HANDLERS,
        containers=containers.most,
        routing=routing,
        seed=seed,
        timeout=60.0,
        init_timeout=60.0,  # all of them may start at once, on a machine that has other things to do
        environment={"SESSION_TTL": str(seconds("ttl", experiment.ttl))},
    ) as function:
        function.start(containers.warm)
        begun = time.monotonic()
        with ThreadPoolExecutor(experiment.users) as threads:
            users = [threads.submit(_user, function, experiment, user, seed, begun) for user in range(experiment.users)]
        requests = list(chain.from_iterable(user.result() for user in users))
    check_that_somebody_asked(experiment, requests)
    return sessions(requests)


def _user(function: LocalLambda, experiment: Experiment, user: int, seed: int, begun: float) -> list[Request]:
    """The answers that one user got, until the experiment's time is over."""
    waits = pauses(user, seconds("pause", experiment.pause, zero=True), seed)
    service = lognormal(experiment.service, experiment.spread, f"{seed}/{user}")
    end = begun + seconds("lasts", experiment.lasts)
    answers: list[Request] = []

    def comes_again() -> bool:
        """Pause, unless the experiment is over before the pause is."""
        pause = next(waits)
        if time.monotonic() + pause >= end:
            return False
        time.sleep(pause)
        return True

    goes_on = experiment.together or comes_again()
    while goes_on and (asked := time.monotonic()) < end:
        try:
            told = function.invoke({"user": user, "seconds": service("origin")}).value
        except Throttled:
            pass  # all containers are busy: the user tries again after a pause
        else:
            answers.append(Request(user, told["container"], told["tier"] == "l1", time.monotonic() - asked))
        goes_on = comes_again()
    return answers


def show(title: str, found: Sequence[Sessions], first_seed: int, users: int, console: Any) -> None:
    """Print each user's best share in each run, and the figures of the whole fleet."""
    table = need("rich.table").Table(box=need("rich.box").SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("best share of", no_wrap=True)
    for run in range(len(found)):
        table.add_column(f"seed {first_seed + run}", justify="right", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    for user in range(users):
        shares = [run.best_shares.get(user) for run in found]
        known = [share for share in shares if share is not None]
        mean = f"{fmean(known):.2f}" if known else "-"
        table.add_row(f"user {user + 1}", *("-" if share is None else f"{share:.2f}" for share in shares), mean)
    table.add_section()
    for name, value, form in _FLEET:
        values = [value(run) for run in found]
        table.add_row(name, *(form.format(one) for one in values), form.format(fmean(values)))
    console.print(title, highlight=False)
    print_whole(console, table)


_FLEET: tuple[tuple[str, Any, str], ...] = (
    ("all users, mean", lambda run: run.mean_best_share, "{:.2f}"),
    ("same container again", lambda run: run.again, "{:.2f}"),
    ("answered by L1", lambda run: run.l1_hit_rate, "{:.2f}"),
    ("median seconds", lambda run: run.seconds, "{:.3f}"),
    ("requests", lambda run: run.requests, "{:.0f}"),
    ("containers", lambda run: run.containers, "{:.0f}"),
)
