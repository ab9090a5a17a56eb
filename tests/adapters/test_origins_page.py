"""The code in docs/origins.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tiered_cache import TieredCache

if TYPE_CHECKING:
    from tiered_cache.local.athena import AthenaServer
    from tiered_cache.local.aws import AWSServer

PAGE = (Path(__file__).parents[2] / "docs" / "origins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## (.*?)$|^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    found, section = [], ""
    for heading, code in BLOCKS:
        section = heading or section
        if code:
            found.append((f"{section} {len(found)}", code))
    return found


@pytest.mark.parametrize(("section", "code"), blocks(), ids=[name for name, _ in blocks()])
@pytest.mark.usefixtures("aws_settings")
def test_the_pages_code_runs(
    section: str, code: str, local_aws: AWSServer, local_athena: AthenaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block runs on its own, on a local AWS."""
    if "get_many_or_load" in code and not hasattr(TieredCache, "get_many_or_load"):
        pytest.skip("this cache has no get_many_or_load yet")
    local_aws.reset()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")  # where a bucket needs no location
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", local_aws.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", local_aws.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_ATHENA", local_athena.url)
    names: dict[str, object] = {}
    exec(compile(code, f"docs/origins.md, {section}", "exec"), names)
    for made in names.values():
        close = getattr(made, "close", None)
        if close is not None and not isinstance(made, type):
            close()
