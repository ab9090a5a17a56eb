"""What there is to measure: suites, and the parts of each."""

from typing import NamedTuple

from tiered_cache.benchmarks import (
    coldstart,
    fleet,
    hitratio,
    imports,
    instructions,
    invocations,
    l1,
    l2,
    memory,
    peers,
    protocol,
    sessions,
    tiers,
)

SUITES = {
    "tiers": {
        "origins": tiers.origins,
        "aws": tiers.aws,
        "l2": l2.run,
        "tls": l2.tls,
        "cluster": l2.cluster,
        "many": l2.many,
        "threads": l2.threads,
        "cpu": tiers.by_share,
        "catch_up": l2.catch_up,
        "protocol": protocol.run,
        "growth": l1.growth,
        "instructions": instructions.run,
    },
    "peers": {
        "l1": peers.in_memory,
        "shared": peers.shared,
        "stampede": peers.stampede,
        "dead": peers.dead,
        "peer_imports": peers.imported,
    },
    "coldstart": {"imports": imports.run, "init": coldstart.run, "invocations": invocations.run},
    "hitratio": {"hitratio": hitratio.run, "policies": hitratio.policies},
    "memory": {"memory": memory.run, "inserts": l1.inserts},
    "fleet": {
        "sessions": sessions.run,
        "processes": sessions.processes,
        "hit_rates": sessions.hit_rates,
        "simulator": sessions.speed,
        "by_rate": fleet.by_rate,
        "by_routing": fleet.by_routing,
        "paying": fleet.paying,
    },
    "faults": {"outage": l2.outage},
}
"""Each part takes `quick=`, prints its tables and gives its results; it raises Skipped where it cannot be measured."""


class Part(NamedTuple):
    suite: str
    name: str

    @property
    def run(self):
        return SUITES[self.suite][self.name]

    def __str__(self):
        return f"{self.suite}.{self.name}"


PARTS = tuple(Part(suite, name) for suite, parts in SUITES.items() for name in parts)


def chosen(names):
    """The parts that are meant by names such as "tiers", "tiers.l2" or "l2", in the order of the suites; all by none.

    Raises ValueError for a name that means none.
    """
    for name in names:
        if not is_name(name):
            there_are = "; ".join(f"{suite} ({', '.join(parts)})" for suite, parts in SUITES.items())
            raise ValueError(f"no suite {name!r}; there are {there_are}")
    return [part for part in PARTS if not names or any(_means(name, part) for name in names)]


def is_name(name):
    """Whether it is the name of a suite or of a part."""
    return any(_means(name, part) for part in PARTS)


def _means(name, part):
    return name in (part.suite, part.name, str(part))
