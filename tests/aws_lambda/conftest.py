"""What tests on the local Lambda share."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from parts import WAIT

from tiered_cache.local import LocalLambda

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FUNCTIONS = Path(__file__).parent / "functions"


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    """The folder of the files for which work in a container waits."""
    folder = tmp_path / "gates"
    folder.mkdir()
    return folder


@pytest.fixture
def function(gates: Path) -> Iterator[Callable[..., LocalLambda]]:
    """Makes functions of the modules in `functions/`, and ends them."""
    with ExitStack() as started:

        def make(handler: str, environment: dict[str, str] | None = None, **options: Any) -> LocalLambda:
            options = {"directory": FUNCTIONS, "timeout": WAIT, "init_timeout": WAIT, "containers": 1} | options
            variables = {"GATES": str(gates), **(environment or {})}
            return started.enter_context(LocalLambda(handler, environment=variables, **options))

        yield make
