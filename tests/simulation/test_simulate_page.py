"""What docs/simulate.md shows is what its commands print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tiered_cache._command import main

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parents[2] / "docs" / "simulate.md"


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_the_first_command_prints_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """To the last figure: its seeds are given, and the same in however many processes."""
    command, shown = re.findall(r"^```(?:sh)?\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[
        :2
    ]
    assert main([*shlex.split(command)[1:], "--jobs", "1"]) == 0
    assert lines(capsys.readouterr().out) == lines(shown)
