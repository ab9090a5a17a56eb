"""Who serves whom: the session experiment beside the published one, simulated and real, and the speed of the simulator."""

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from math import log
from statistics import fmean, stdev

from tiered_cache.local.sessions import real
from tiered_cache.simulation import (
    ROUTINGS,
    Containers,
    Experiment,
    Fleet,
    Freshness,
    Tiers,
    constant,
    open_loop,
    simulate,
    simulated,
)

PUBLISHED = [0.63, 0.38, 0.41, 0.45, 0.47, 0.26, 0.46, 0.42, 0.43, 0.36]
SERVICES = [0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3]


def run(*, quick):
    by_routing(60 if quick else 400)
    if not quick:
        nearest(100)
    on_real_processes(("newest",) if quick else ("newest", "oldest", "random"), 1 if quick else 3, 3 if quick else 10)
    hit_rates(600 if quick else 3_600)
    speed(300 if quick else 3_600)


def by_routing(runs):
    """The published experiment by what is not known of it: how events are routed, and how long one takes."""
    print(f"\nBest shares of 10 users in 10 s, pausing up to 1 s: {runs} simulated runs each")
    print(f"  {'':22}{'mean':>14}{'deviation':>11}{'least':>8}{'most':>8}{'again':>8}{'L1':>8}")
    least, most = min(PUBLISHED), max(PUBLISHED)
    print(f"  {'published, one run':22}{fmean(PUBLISHED):>14.2f}{stdev(PUBLISHED):>11.2f}{least:>8.2f}{most:>8.2f}")
    for routing, service in product(ROUTINGS, (0.02, 0.05, 0.1, 0.2)):
        experiment = Experiment(service=service, containers=Containers(routing=routing))
        found = [simulated(experiment, seed) for seed in range(runs)]
        shares = [list(run.best_shares.values()) for run in found]
        means = [fmean(each) for each in shares]
        print(
            f"  {f'{routing}, {service * 1000:.0f} ms':22}{f'{fmean(means):.2f} ± {stdev(means):.2f}':>14}"
            f"{fmean(map(stdev, shares)):>11.2f}{fmean(map(min, shares)):>8.2f}{fmean(map(max, shares)):>8.2f}"
            f"{fmean(run.again for run in found):>8.2f}{fmean(run.l1_hit_rate for run in found):>8.2f}"
        )
    sys.stdout.flush()


def nearest(runs):
    """For each routing the options under which the published mean and deviation are the likeliest, of a grid."""
    best = {}
    grid = product(("newest", "recent", "random", "rested"), SERVICES, (0.0, 0.5, 1.0), (0.25, 1.0), (True, False))
    for routing, service, spread, cold_start, together in grid:
        containers = Containers(routing=routing, cold_start=cold_start)
        experiment = Experiment(service=service, spread=spread, together=together, containers=containers)
        shares = [list(simulated(experiment, seed).best_shares.values()) for seed in range(runs)]
        likelihood = log_density([fmean(each) for each in shares], fmean(PUBLISHED))
        likelihood += log_density([stdev(each) for each in shares], stdev(PUBLISHED))
        found = likelihood, experiment, shares
        best[routing] = max(best.get(routing, found), found, key=lambda one: one[0])
    top = max(likelihood for likelihood, _, _ in best.values())
    print("\nOf a grid of service times, cold starts and beginnings, what makes the published shares likeliest")
    for routing, (likelihood, experiment, shares) in best.items():
        begin = "together" if experiment.together else "apart"
        print(
            f"  {routing}: {experiment.service * 1000:.0f} ms (spread {experiment.spread:g}), cold start"
            f" {experiment.containers.cold_start:g} s, users begin {begin}: mean {fmean(map(fmean, shares)):.2f},"
            f" deviation {fmean(map(stdev, shares)):.2f}, {fmean(map(min, shares)):.2f} to {fmean(map(max, shares)):.2f};"
            f" likelihood beside the best: {2.718281828 ** (likelihood - top):.2g}"
        )
    sys.stdout.flush()


def log_density(samples, at):
    """Of the normal distribution with the mean and the deviation of `samples`."""
    spread = stdev(samples)
    return -log(spread) - ((at - fmean(samples)) / spread) ** 2 / 2


def on_real_processes(routings, runs, lasts):
    """The experiment on the local Lambda, beside the simulator with the same pauses and the service time measured."""
    print(f"\n10 users for {lasts} s on real processes, and simulated with the service time that these had")
    print(f"  {'routing, seed':22}{'service':>9}{'mean share':>22}{'again':>22}{'L1':>22}")
    for routing, seed in product(routings, range(1, runs + 1)):
        experiment = Experiment(lasts=lasts, containers=Containers(routing=routing, warm=10))
        there = real(experiment, seed)
        runs = [simulated(replace(experiment, service=there.seconds), seed) for seed in range(200)]

        def beside(name):
            figures = [getattr(run, name) for run in runs]
            return f"{getattr(there, name):.2f} | {fmean(figures):.2f} ± {stdev(figures):.2f}"

        print(
            f"  {f'{routing}, {seed}':22}{there.seconds * 1000:>6.0f} ms"
            f"{beside('mean_best_share'):>22}{beside('again'):>22}{beside('l1_hit_rate'):>22}"
        )
    sys.stdout.flush()


def hit_rates(lasts):
    """What routing makes of L1, and beside it the closed form, which is for random routing and copies that live for a TTL."""
    print(f"\nHit rates: Zipf over 200 keys, both TTLs alike, {lasts:,} s simulated")
    print(f"  {'load, containers, TTL':27}{'routing':>16}{'L1':>7}{'L2':>7}{'origin':>8}{'containers used':>17}")
    for rate, service, containers, ttl in ((20, 0.05, 50, 30), (200, 0.1, 200, 30), (20, 0.05, 50, 300)):
        load = f"{rate}/s x {service * 1000:.0f} ms, {containers}, {ttl} s"
        for routing, l2 in (*((name, Freshness(ttl)) for name in ROUTINGS), ("random", None)):
            fleet = Fleet(Containers(routing=routing, warm=containers, idle_for="1d", max_age="2d"), 1)
            requests = open_loop(rate, lasts=lasts, keys=200, seed=1)
            outcome = simulate(requests, fleet, Tiers(Freshness(ttl), l2), constant(service))
            counts = (outcome.l1_hits, outcome.l2_hits, outcome.loads)
            shares = "{:>7.2f}{:>7.2f}{:>8.2f}".format(*(count / outcome.answered for count in counts))
            used = sum(container.requests > 0 for container in fleet.containers)
            print(f"  {load:27}{routing if l2 else f'{routing}, no L2':>16}{shares}{used:>17}")
        print(f"  {load:27}{'closed form':>16}{closed_form(rate / containers * ttl, 200):>7.2f}")
    sys.stdout.flush()


def closed_form(requests, keys):
    """L1's hit rate with so many requests per container and TTL: x / (1 + x) for each key, Zipf's weights."""
    weights = [1 / (rank + 1) for rank in range(keys)]
    shares = [weight / sum(weights) for weight in weights]
    return sum(share * (share * requests) / (1 + share * requests) for share in shares)


def speed(lasts):
    """How long the simulator takes, and how much memory, each routing in a process of its own."""
    print(f"\nThe simulator: 1,000 requests/s for {lasts:,} s, 10,000 keys in L1 and L2, 10,000 containers")
    for routing in ("newest", "random"):
        ran = subprocess.run(
            [sys.executable, "-m", "benchmarks.sessions", routing, str(lasts)],
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(ran.stdout)
        print(
            f"  {routing}: {found['requests']:,} requests in {found['seconds']:.1f} s,"
            f" {found['requests'] / found['seconds']:,.0f}/s, peak memory of the process {found['bytes'] / 1e6:.0f} MB"
        )
    sys.stdout.flush()


def timed(routing, lasts):
    started = time.perf_counter()
    fleet = Fleet(Containers(most=10_000, warm=10_000, routing=routing), 1)
    tiers = Tiers(Freshness(60, jitter=0.1), Freshness(600, jitter=0.1))
    outcome = simulate(open_loop(1_000, lasts=lasts, keys=10_000, seed=1), fleet, tiers, constant(0.05))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"requests": outcome.requests, "seconds": seconds, "bytes": peak}


if __name__ == "__main__":
    print(json.dumps(timed(sys.argv[1], float(sys.argv[2]))))
