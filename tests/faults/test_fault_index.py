"""Every fault that is to be injected has a test in this repository that says so."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
REQUIRED = {f"F{number:02}" for number in (*range(1, 43), *range(57, 69))}
NAMED = re.compile(r'"""(F\d\d)\b|\bfault\("(F\d\d)"|^ *\("(F\d\d)", ', re.MULTILINE)
"""A docstring that begins with the number, the mark, or a row of a table of marks."""


def test_every_fault_is_injected() -> None:
    """None is forgotten."""
    named: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        for found in NAMED.findall(path.read_text(encoding="utf-8")):
            named.update(filter(None, found))
    assert named >= REQUIRED, sorted(REQUIRED - named)
