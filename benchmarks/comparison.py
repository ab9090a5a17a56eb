"""Two runs beside each other, and one beside its budgets."""

from math import inf
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
    earlier = _comparable(then)
    return [_change(earlier[place], result) for place, result in _comparable(now).items() if place in earlier]


def alone(one, other):
    """The figures of a run that could be compared, and that the other run has not."""
    others = _comparable(other)
    return [result for place, result in _comparable(one).items() if place not in others]


def parts_alone(one, other):
    """The parts that a run has measured and the other one has not, each with the reason if that is known."""
    failed = {part: f"failed: {reason}" for part, reason in other.failed.items()}
    reasons = {part: f"skipped: {reason}" for part, reason in other.skipped.items()} | failed
    mine, others = ({*run.seconds} - run.skipped.keys() - run.failed.keys() for run in (one, other))
    return [f"{part} ({reasons[part]})" if part in reasons else part for part in sorted(mine - others)]


def _comparable(run):
    return {
        _place(result): result for result in run.results if _measure(result) is not None and result.name != result.base
    }


def _place(result):
    return result.suite, result.group, result.name, result.at


def _measure(result):
    """The ratio, or what does not depend on how quick the machine is."""
    return result.ratio if result.ratio is not None else None if result.unit in ("s", "hits/s") else result.median


def _change(then, now):
    before, after = _measure(then), _measure(now)
    unit = "ratio" if now.ratio is not None else now.unit
    by = after / before - 1 if before else inf if after else 0.0
    moved = {"then": before, "now": after, "by": by, "noise": max(LEAST, _noise(then) + _noise(now))}
    return Change(now.suite, now.group, now.name, unit, better=now.better, **moved)


def _noise(result):
    """As measured or, where the base was measured once, the quartiles' distance from the median."""
    if result.noise is not None:
        return result.noise
    return max(result.high - result.median, result.median - result.low) / result.median if result.median else 0.0


def show(then, now):
    """Print the changes, and what one of the runs has alone; gives whether there was anything to compare."""
    found = changes(then, now)
    print(f"\nBeside the run of {then.machine.get('at', 'an unknown time')}")
    for what in ("python", "processor"):
        if then.machine.get(what) != now.machine.get(what):
            print(f"  another {what}: {then.machine.get(what)}")
    if then.quick != now.quick:
        print("  one of them is quick, so that rounds and sizes differ")
    _show_alone("then", then, now)
    _show_alone("now", now, then)
    if not found:
        print("  Nothing can be compared: no ratio, count or share is in both.")
        return False
    print(f"  {'':80}{'then':>10}{'now':>10}{'change':>9}{'noise':>8}")
    for change in found:
        values = "".join(f"{shown(value, change.unit):>10}" for value in (change.then, change.now))
        name = f"{change.suite}: {change.group}: {change.name}"
        print(f"  {name:80}{values}{change.by:>+9.1%}{change.noise:>8.1%}  {change.word}")
    worse = [change for change in found if change.word == "WORSE"]
    print(f"  {len(worse)} of {len(found)} got worse by more than the noise.")
    return True


def _show_alone(when, one, other):
    if parts := parts_alone(one, other):
        print(f"  only {when}: {', '.join(parts)}")
    if figures := alone(one, other):
        example = f"{figures[0].suite}: {figures[0].group}: {figures[0].name}"
        print(f"  {len(figures)} {'figures' if len(figures) > 1 else 'figure'} only {when}, such as {example}")


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
