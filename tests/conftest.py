"""The local services are fixtures of every test, none depends on what another has had the log say, and none on luck.

Hypothesis tries the same cases in each run, so that what lands is what was tested; `make explore` tries others. How long a
case takes is the machine's matter, and fails nothing.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

import tiered_cache._log

pytest_plugins = ["tiered_cache.local.pytest_plugin"]
AS_LONG_AS_IT_TAKES = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **AS_LONG_AS_IT_TAKES)
settings.register_profile("others", derandomize=False, **AS_LONG_AS_IT_TAKES)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said once in a process is said once in each test."""
    monkeypatch.setattr(tiered_cache._log, "_SAID", set())
