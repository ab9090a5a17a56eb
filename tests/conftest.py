"""The local services are fixtures of every test, none depends on what another has had the log say, and none on luck.

Hypothesis tries the same cases in each run, so that what lands is what was tested; `make explore` tries others.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

import tiered_cache._log

pytest_plugins = ["tiered_cache.local.pytest_plugin"]
settings.register_profile("same", derandomize=True)
settings.register_profile("others", derandomize=False)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said once in a process is said once in each test."""
    monkeypatch.setattr(tiered_cache._log, "_SAID", set())
