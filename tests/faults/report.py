"""What the fault tests measured, as lines and as one table.

A test names its fault by `@pytest.mark.fault("F03", "a frozen server")` and calls the fixture `measured` with what it saw;
one in another folder calls `record_property("measured", ...)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

FAULT, MEASURED = "fault", "measured"
"""Names of the user properties that carry them in a test's report."""


class Row(NamedTuple):
    """One fault, and what came of it."""

    number: str
    name: str
    seen: str

    def __str__(self) -> str:
        return f"{self.number} {self.name}: {self.seen}"


def rows_of(reports: Iterable[pytest.TestReport]) -> list[Row]:
    """A row for each measurement, or for the reason why there is none, by the number of the fault."""
    rows = []
    for report in reports:
        given = getattr(report, "user_properties", ())  # a failed collection has none
        properties = [(name, str(value)) for name, value in given]
        faults = [value.split(" ", 1) for name, value in properties if name == FAULT]
        if not faults or (report.when != "call" and report.passed):
            continue
        seen = [value for name, value in properties if name == MEASURED]
        if not report.passed:
            seen.append(_reason(report))
        rows += [Row(number, name, text) for number, name in faults for text in seen]
    return sorted(rows)


def _reason(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return f"known not to hold: {report.wasxfail}"
    if isinstance(report.longrepr, tuple):  # file, line, "Skipped: why"
        return str(report.longrepr[2])
    return report.outcome


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table."""
    lines = ["| fault | | measured |", "| --- | --- | --- |"]
    lines += [f"| {row.number} | {row.name} | {row.seen.replace('|', chr(0x2223))} |" for row in rows]
    return "\n".join(lines) + "\n"
