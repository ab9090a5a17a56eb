"""Who serves whom: the session experiment beside the published one, simulated and real, and the speed of the simulator."""

import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from math import exp, log
from pathlib import Path
from statistics import fmean, stdev

from tiered_cache.benchmarks.harness import Result, figure, quartiles
from tiered_cache.benchmarks.progress import turns
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
BEST_SHARES = "The mean best share of 10 users in 10 s, pausing up to 1 s"


def run(*, quick):
    results = by_routing(60 if quick else 400)
    if not quick:
        nearest(100)
    return results


def by_routing(runs):
    """The published experiment by what is not known of it: how events are routed, and how long one takes."""
    print(f"\n{BEST_SHARES}: {runs} simulated runs each")
    print(f"  {'':22}{'mean':>14}{'deviation':>11}{'least':>8}{'most':>8}{'again':>8}{'L1':>8}")
    least, most = min(PUBLISHED), max(PUBLISHED)
    print(f"  {'published, one run':22}{fmean(PUBLISHED):>14.2f}{stdev(PUBLISHED):>11.2f}{least:>8.2f}{most:>8.2f}")
    services = (0.02, 0.05, 0.1, 0.2)
    places = {service: point_of(service) for service in services}
    results = [
        figure(group, "published, one run", fmean(PUBLISHED), "share", **point) for group, point in places.values()
    ]
    cases = list(product(ROUTINGS, services))
    for turn in turns(len(cases)):
        routing, service = cases[turn]
        experiment = Experiment(service=service, containers=Containers(routing=routing))
        found = [simulated(experiment, seed) for seed in range(runs)]
        shares = [list(run.best_shares.values()) for run in found]
        means = [fmean(each) for each in shares]
        name = f"{routing}, {service * 1000:.0f} ms"
        print(
            f"  {name:22}{f'{fmean(means):.2f} ± {stdev(means):.2f}':>14}"
            f"{fmean(map(stdev, shares)):>11.2f}{fmean(map(min, shares)):>8.2f}{fmean(map(max, shares)):>8.2f}"
            f"{fmean(run.again for run in found):>8.2f}{fmean(run.l1_hit_rate for run in found):>8.2f}"
        )
        group, point = places[service]
        results.append(result_of(group, routing, means, **point))
    return results


def point_of(service):
    """The group of the experiments with that service time, and the place of their results on the curves."""
    place = {"curve": BEST_SHARES, "at": service, "axis": "seconds that an event takes"}
    return f"{BEST_SHARES}, {service * 1000:.0f} ms an event", place


def result_of(group, name, shares, **facts):
    """The figure of many runs, with the quartiles."""
    low, median, high = quartiles(shares)
    spread = {"low": low, "high": high, "n": len(shares), "per": "run"}
    return Result(group=group, name=name, unit="share", better="more", median=median, **spread, **facts)


def nearest(runs):
    """For each routing the options under which the published mean and deviation are the likeliest, of a grid."""
    best = {}
    grid = list(
        product(("newest", "recent", "random", "rested"), SERVICES, (0.0, 0.5, 1.0), (0.25, 1.0), (True, False))
    )
    for turn in turns(len(grid)):
        routing, service, spread, cold_start, together = grid[turn]
        containers = Containers(routing=routing, cold_start=cold_start)
        experiment = Experiment(service=service, spread=spread, together=together, containers=containers)
        runs_of_it = [simulated(experiment, seed) for seed in range(runs)]
        shares = [list(run.best_shares.values()) for run in runs_of_it]
        likelihood = log_density([fmean(each) for each in shares], fmean(PUBLISHED))
        likelihood += log_density([stdev(each) for each in shares], stdev(PUBLISHED))
        found = likelihood, experiment, shares, fmean(run.containers for run in runs_of_it)
        best[routing] = max(best.get(routing, found), found, key=lambda one: one[0])
    top = max(likelihood for likelihood, *_ in best.values())
    print("\nOf a grid of service times, cold starts and beginnings, what makes the published shares likeliest")
    for routing, (likelihood, experiment, shares, containers) in best.items():
        begin = "together" if experiment.together else "apart"
        print(
            f"  {routing}: {experiment.service * 1000:.0f} ms (spread {experiment.spread:g}), cold start"
            f" {experiment.containers.cold_start:g} s, users begin {begin}, {containers:.1f} containers:"
            f" mean {fmean(map(fmean, shares)):.2f}, deviation {fmean(map(stdev, shares)):.2f},"
            f" {fmean(map(min, shares)):.2f} to {fmean(map(max, shares)):.2f};"
            f" likelihood beside the best: {exp(likelihood - top):.2g}"
        )


def log_density(samples, at):
    """Of the normal distribution with the mean and the deviation of `samples`."""
    spread = stdev(samples)
    return -log(spread) - ((at - fmean(samples)) / spread) ** 2 / 2


def processes(*, quick):
    """The experiment on the local Lambda, beside the simulator with the same pauses and the service time measured."""
    lasts = 3 if quick else 10
    group = f"The mean best share of 10 users for {lasts} s on real processes"
    print(f"\n{group}, and simulated with the service time that these had")
    print(f"  {'routing, seed':22}{'service':>9}{'mean share':>22}{'again':>22}{'L1':>22}")
    results = []
    cases = [("newest", 1)] if quick else list(product(("newest", "oldest", "random"), (1, 2, 3)))
    for turn in turns(len(cases)):
        routing, seed = cases[turn]
        experiment = Experiment(lasts=lasts, containers=Containers(routing=routing, warm=10))
        there = real(experiment, seed)
        runs = [simulated(replace(experiment, service=there.seconds), seed) for seed in range(200)]
        columns = [beside(there, runs, name) for name in ("mean_best_share", "again", "l1_hit_rate")]
        name = f"{routing}, {seed}"
        print(f"  {name:22}{there.seconds * 1000:>6.0f} ms{''.join(f'{column:>22}' for column in columns)}")
        results.append(figure(group, f"{name}, real", there.mean_best_share, "share"))
        results.append(result_of(group, f"{name}, simulated", [run.mean_best_share for run in runs]))
    return results


def beside(there, runs, name):
    figures = [getattr(run, name) for run in runs]
    return f"{getattr(there, name):.2f} | {fmean(figures):.2f} ± {stdev(figures):.2f}"


def hit_rates(*, quick):
    """What routing makes of L1, and beside it the closed form, which is for random routing and copies that live for a TTL."""
    lasts = 600 if quick else 3_600
    group = "L1's hit rate by routing, Zipf over 200 keys"
    print(f"\n{group}, both TTLs alike, {lasts:,} s simulated")
    print(f"  {'load, containers, TTL':27}{'routing':>16}{'L1':>7}{'L2':>7}{'origin':>8}{'containers used':>17}")
    results = []
    cases = ((20, 0.05, 50, 30), (200, 0.1, 200, 30), (20, 0.05, 50, 300))
    for turn in turns(len(cases)):
        rate, service, containers, ttl = cases[turn]
        load = f"{rate}/s x {service * 1000:.0f} ms, {containers}, {ttl} s"
        for routing, l2 in (*((name, Freshness(ttl)) for name in ROUTINGS), ("random", None)):
            fleet = Fleet(Containers(routing=routing, warm=containers, idle_for="1d", max_age="2d"), 1)
            requests = open_loop(rate, lasts=lasts, keys=200, seed=1)
            outcome = simulate(requests, fleet, Tiers(Freshness(ttl), l2), constant(service))
            counts = (outcome.l1_hits, outcome.l2_hits, outcome.loads)
            shares = "{:>7.2f}{:>7.2f}{:>8.2f}".format(*(count / outcome.answered for count in counts))
            used = sum(container.requests > 0 for container in fleet.containers)
            name = routing if l2 else f"{routing}, no L2"
            print(f"  {load:27}{name:>16}{shares}{used:>17}")
            results.append(figure(group, f"{load}, {name}", outcome.l1_hit_rate, "share"))
        expected = closed_form(rate / containers * ttl, 200)
        print(f"  {load:27}{'closed form':>16}{expected:>7.2f}")
        results.append(figure(group, f"{load}, closed form", expected, "share"))
    return results


def closed_form(requests, keys):
    """L1's hit rate with so many requests per container and TTL: x / (1 + x) for each key, Zipf's weights."""
    weights = [1 / (rank + 1) for rank in range(keys)]
    shares = [weight / sum(weights) for weight in weights]
    return sum(share * (share * requests) / (1 + share * requests) for share in shares)


def speed(*, quick):
    """How long the simulator takes, and how much memory, each routing in a process of its own."""
    lasts = 300 if quick else 3_600
    group = f"The simulator: 1,000 requests/s for {lasts:,} s, 10,000 keys in L1 and L2, 10,000 containers"
    print(f"\n{group}")
    results = []
    for routing in ("newest", "random"):
        program = f"from {timed.__module__} import timed; timed({routing!r}, {lasts})"
        answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        requests, seconds, most = json.loads(answer.stdout)
        print(
            f"  {routing}: {requests:,} requests in {seconds:.1f} s, {requests / seconds:,.0f}/s,"
            f" peak memory of the process {most / 1e6:.0f} MB"
        )
        results.append(figure(group, f"{routing}, a request", seconds / requests, "s"))
        results.append(figure(group, f"{routing}, peak memory", most, "bytes"))
    return results


def timed(routing, lasts):
    """Simulate in this process, and print the requests, the seconds and the peak memory in bytes."""
    started = time.perf_counter()
    fleet = Fleet(Containers(most=10_000, warm=10_000, routing=routing), 1)
    tiers = Tiers(Freshness(60, jitter=0.1), Freshness(600, jitter=0.1))
    outcome = simulate(open_loop(1_000, lasts=lasts, keys=10_000, seed=1), fleet, tiers, constant(0.05))
    seconds = time.perf_counter() - started
    print(json.dumps([outcome.requests, seconds, peak()]))


def peak():
    """The most memory that this process had, in bytes. On Linux `getrusage` would begin with that of whoever started it."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) * 1024
