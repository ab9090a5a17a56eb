"""What the local services need at run time: the extra's packages, and an error that names the extra where they lack."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tiered_cache._errors import TieredCacheError


class ServiceUnavailable(TieredCacheError):
    """A local service cannot be started here; the text says why and, where that helps, what to install."""


def need(module: str) -> Any:
    """The imported `module`. Raises ImportError naming the extra to install where there is none."""
    try:
        return import_module(module)
    except ImportError as error:
        text = f"tiered_cache.local needs the package {module.partition('.')[0]!r}: pip install 'tiered-cache[local]'"
        raise ImportError(text, name=module) from error
