"""The local services are fixtures of every test."""

from __future__ import annotations

pytest_plugins = ["tiered_cache.local.pytest_plugin"]
