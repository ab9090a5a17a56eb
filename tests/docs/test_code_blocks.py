"""Every Python block in the documentation is run, file by file, on local services that hold the demo's content."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tiered_cache.local import LocalServices
from tiered_cache.local.content import fill

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"))
    if "```python" in path.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def filled_services():
    with LocalServices() as services:
        fill(services)
        yield services


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run_in_order(page, filled_services, tmp_path):
    """A reader who types a page's code in, from top to bottom, gets no error."""
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page)), encoding="utf-8")
    environment = os.environ | filled_services.environment() | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_the_handler_of_the_readme_handles(filled_services, tmp_path):
    """The README's first handler gives an answer when it is invoked."""
    script = tmp_path / "readme.py"
    script.write_text(blocks(ROOT / "README.md")[0] + "\nprint(handler({}, None))\n", encoding="utf-8")
    environment = os.environ | filled_services.environment() | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout.strip().isdecimal(), ran.stderr


def test_the_pages_are_found():
    """The list of pages is not empty by mistake."""
    assert {page.name for page in PAGES} >= {"README.md", "freshness.md", "origins.md"}
