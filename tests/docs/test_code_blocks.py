"""Every Python block in the documentation is run, file by file, on local services that hold the demo's content."""

import json
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


UNHURRIED = """
import tiered_cache
_hurried = tiered_cache.RedisTier
tiered_cache.RedisTier = lambda *given, **options: _hurried(*given, **options | {"timeout": 20})
"""
"""Before a page's own code: where L2 answers all the time, a busy machine may take longer than a reader's should."""


def unhurried(code):
    """The code with time limits that a busy machine keeps."""
    code = re.sub(r"\bsocket_timeout=0\.\d+", "socket_timeout=2", code)
    return UNHURRIED + re.sub(r"(\bLocalLambda\(.*\btimeout=)[\d.]+", r"\g<1>60", code)


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run_in_order(page, filled_services, tmp_path):
    """A reader who types a page's code in, from top to bottom, gets no error."""
    script = tmp_path / "page.py"
    script.write_text(unhurried("\n".join(blocks(page))), encoding="utf-8")
    environment = os.environ | filled_services.environment() | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_the_handler_of_the_readme_handles(filled_services, tmp_path):
    """The README's first handler gives an answer when it is invoked."""
    script = tmp_path / "readme.py"
    script.write_text(unhurried(blocks(ROOT / "README.md")[0]) + "\nprint(handler({}, None))\n", encoding="utf-8")
    environment = os.environ | filled_services.environment() | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout.strip().isdecimal(), ran.stderr


def test_the_long_query_of_the_readme_loads(filled_services, tmp_path):
    """It lasts until the first invocation has answered: told to come again, then the rows, of one execution."""
    (block,) = [each for each in blocks(ROOT / "README.md") if "resumable=True" in each]
    script = tmp_path / "long.py"
    script.write_text(
        unhurried(block)
        + """
import json, time

class Context:
    def __init__(self):
        self.ends = time.monotonic() + 30

    def get_remaining_time_in_millis(self):
        return 1000 * (self.ends - time.monotonic())

cache.warm_up()
answers = []
while not answers or answers[-1]["statusCode"] == 503:
    answers.append(handler({"customer_id": "customer-000042"}, Context()))
    print(json.dumps(answers[-1]), flush=True)
    time.sleep(0.2)
""",
        encoding="utf-8",
    )
    environment = os.environ | filled_services.environment() | {"PYTHONPATH": str(ROOT)}
    before, filled_services.athena.delay = filled_services.athena.executions_started, 600.0
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script], env=environment, cwd=tmp_path, **pipes) as ran:
        try:
            first = ran.stdout.readline()
        finally:
            filled_services.athena.delay = 0.0
        rest, errors = ran.communicate()
    assert ran.returncode == 0, errors
    *told, found = map(json.loads, [first, *rest.splitlines()])
    assert told
    assert all(answer["statusCode"] == 503 and int(answer["headers"]["Retry-After"]) >= 1 for answer in told)
    assert found["statusCode"] == 200
    assert found["body"].startswith("account-")
    assert filled_services.athena.executions_started - before == 1


def test_the_pages_are_found():
    """The list of pages is not empty by mistake."""
    assert {page.name for page in PAGES} >= {"README.md", "freshness.md", "origins.md"}
