"""Two runs beside each other, and one beside its budgets."""

from typing import NamedTuple

from tiered_cache.benchmarks.harness import shown

WIDE = 1.5
"""A budget counts as missed by a wide margin from this many times the budget on."""
LEAST = 0.05
"""No smaller change is worth a flag, however quiet the machine said it was."""
OWED = {"tiered_cache get_many_or_load": "docs/decisions/0013-many-keys.md says why"}
"""What is known to miss its budget by a wide margin, and why: a check tells it, and does not fail. To be emptied, not filled."""


class Change(NamedTuple):
    """One figure then and now. by: the share by which it grew. noise: what of that is nothing. better: less or more."""

    suite: str
    group: str
    name: str
    unit: str
    then: float
    now: float
    by: float
    noise: float
    better: str

    @property
    def word(self):
        if abs(self.by) <= self.noise:
            return ""
        return "better" if (self.by > 0) == (self.better == "more") else "WORSE"


def changes(then, now):
    """The figures that both runs have, as ratios or, where there is no base, as counts, sizes or shares.

    Seconds, and hits a second, are left out: two runs are two machines, even on one machine.
    """
    earlier = {_place(result): result for result in then.results}
    return [
        _change(earlier[_place(result)], result)
        for result in now.results
        if _place(result) in earlier and _measure(result) is not None and _measure(earlier[_place(result)])
        if result.name != result.base
    ]


def _place(result):
    return result.suite, result.group, result.name, result.at


def _measure(result):
    """The ratio, or what does not depend on how quick the machine is."""
    return result.ratio if result.ratio is not None else None if result.unit in ("s", "hits/s") else result.median


def _change(then, now):
    before, after = _measure(then), _measure(now)
    unit = "ratio" if now.ratio is not None else now.unit
    moved = {"then": before, "now": after, "by": after / before - 1, "noise": max(LEAST, _noise(then) + _noise(now))}
    return Change(now.suite, now.group, now.name, unit, better=now.better, **moved)


def _noise(result):
    """As measured or, where the base was measured once, the quartiles' distance from the median."""
    if result.noise is not None:
        return result.noise
    return max(result.high - result.median, result.median - result.low) / result.median if result.median else 0.0


def show(then, now):
    """Print the changes."""
    found = changes(then, now)
    print(f"\nBeside the run of {then.machine.get('at', 'an unknown time')}")
    for what in ("python", "processor"):
        if then.machine.get(what) != now.machine.get(what):
            print(f"  another {what}: {then.machine.get(what)}")
    if then.quick != now.quick:
        print("  one of them is quick, so that rounds and sizes differ")
    print(f"  {'':80}{'then':>10}{'now':>10}{'change':>9}{'noise':>8}")
    for change in found:
        values = "".join(f"{shown(value, change.unit):>10}" for value in (change.then, change.now))
        name = f"{change.suite}: {change.group}: {change.name}"
        print(f"  {name:80}{values}{change.by:>+9.1%}{change.noise:>8.1%}  {change.word}")
    worse = [change for change in found if change.word == "WORSE"]
    print(f"  {len(worse)} of {len(found)} got worse by more than the noise.")


def judged(document):
    """The results whose budgets a check can judge: those of ratios and counts. Seconds are the machine's."""
    return [result for result in document.results if result.budget is not None and _measure(result) is not None]


def missed(document):
    """A line for each budget of a ratio or a count that is missed by a wide margin, whatever the noise, and is not owed."""
    return [_overspent(result) for result in judged(document) if _is_wide(result) and result.name not in OWED]


def owed(document):
    """A line for each of those that are owed, with the reason."""
    wide = [result for result in judged(document) if _is_wide(result) and result.name in OWED]
    return [f"{_overspent(result)}: {OWED[result.name]}" for result in wide]


def _is_wide(result):
    return result.spent / (1 + (result.noise or 0)) > WIDE


def _overspent(result):
    measured = shown(_measure(result), "ratio" if result.ratio is not None else result.unit)
    return f"{result.group}: {result.name}: {measured}, and the budget is {result.budget:g}"
