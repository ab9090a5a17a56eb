"""The local services are fixtures of every test, and none depends on what another has had the log say."""

from __future__ import annotations

import pytest

import tiered_cache._log

pytest_plugins = ["tiered_cache.local.pytest_plugin"]


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said once in a process is said once in each test."""
    monkeypatch.setattr(tiered_cache._log, "_SAID", set())
