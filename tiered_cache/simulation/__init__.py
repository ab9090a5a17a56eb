"""Fleets of containers, simulated: which container serves whom, and what its cache then holds.

    fleet = Fleet(Containers(routing="random", warm=50))
    tiers = Tiers(Freshness(ttl=30), Freshness(ttl=300))
    outcome = simulate(open_loop(20, lasts="1h", keys=200), fleet, tiers, constant("50ms"))
    outcome.l1_hit_rate

A discrete-event simulation in plain Python: an hour of a thousand requests a second over 10,000 containers takes 14 to
25 seconds. What it assumes of Lambda are options, since Lambda documents none of it. `docs/sessions.md` says more, and
`docs/simulate.md` what comes of it with times and prices.
"""

from __future__ import annotations

from tiered_cache._rules import Freshness
from tiered_cache.simulation.costs import Costs, Prices, Sized, Usage, Workload, monthly, read_prices
from tiered_cache.simulation.fleet import Container, Containers, Fleet
from tiered_cache.simulation.paying import pays_from
from tiered_cache.simulation.routing import ROUTINGS
from tiered_cache.simulation.run import Outcome, simulate
from tiered_cache.simulation.scenario import Figures, Scenario, steady
from tiered_cache.simulation.sessions import Experiment, Request, Sessions, expected_hit_rate, sessions, simulated
from tiered_cache.simulation.tiers import Tier, Tiers
from tiered_cache.simulation.timings import Time, Timings
from tiered_cache.simulation.traffic import Service, Traffic, closed_loop, constant, lognormal, open_loop, replay

__all__ = [
    "ROUTINGS",
    "Container",
    "Containers",
    "Costs",
    "Experiment",
    "Figures",
    "Fleet",
    "Freshness",
    "Outcome",
    "Prices",
    "Request",
    "Scenario",
    "Service",
    "Sessions",
    "Sized",
    "Tier",
    "Tiers",
    "Time",
    "Timings",
    "Traffic",
    "Usage",
    "Workload",
    "closed_loop",
    "constant",
    "expected_hit_rate",
    "lognormal",
    "monthly",
    "open_loop",
    "pays_from",
    "read_prices",
    "replay",
    "sessions",
    "simulate",
    "simulated",
    "steady",
]
