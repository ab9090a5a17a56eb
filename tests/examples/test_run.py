"""The examples run, and the runner expects of each what it is to show: the three containers' one query, for instance."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "run")


@pytest.fixture
def unhurried(tmp_path: Path) -> Path:
    """The examples with time limits of L2 that a busy machine keeps."""
    copied = shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for path in copied.glob("*.py"):
        path.write_text(re.sub(r"\btimeout=0\.\d+", "timeout=20", path.read_text(encoding="utf-8")), encoding="utf-8")
    return copied


def ran(examples: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, examples / "run.py", *names],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_every_example_shows_what_it_is_for(unhurried: Path) -> None:
    """One after the other on the same services, as `make examples` has them: none finds what another has left."""
    done = ran(unhurried)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert [name for name in NAMES if f"\n{name}: " in done.stdout] == NAMES


def test_a_name_that_is_none_is_refused() -> None:
    """With those that there are."""
    done = ran(ROOT / "examples", "athena")
    assert done.returncode == 1
    assert done.stderr.startswith("no example 'athena'; there are: global_dict, ")


@pytest.mark.parametrize("wanted", [{"tier": "l2"}, {"tier": "l1", "items": 2}])
def test_an_example_that_shows_something_else_ends_the_run(wanted: dict[str, object]) -> None:
    """With a status that a build notices."""
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(ROOT / "examples")!r})
        import run
        run.EVENTS["global_dict"][0] = (run.EVENTS["global_dict"][0][0], {wanted!r})
        run.run("global_dict")
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"expected {wanted}; got ")
