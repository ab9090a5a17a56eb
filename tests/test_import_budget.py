"""What importing costs: a cold start pays for each module, so what is loaded is pinned."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

NEVER = {"redis", "boto3", "botocore", "asyncio", "msgpack", "cachetools", "logging", "dataclasses", "inspect", "ssl"}
NEVER |= {"socket", "json", "zlib", "hashlib", "random", "datetime", "decimal", "uuid", "difflib", "copy", "pickle"}


def loaded(code: str) -> set[str]:
    """The modules that `code` loads, beyond those of a bare interpreter."""
    script = (
        f"import sys, json; before = set(sys.modules)\n{code}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", paths() + script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def paths() -> str:
    return f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}; import json\n"


def tops(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def third_party(modules: set[str]) -> set[str]:
    return {name for name in tops(modules) if name not in sys.stdlib_module_names and not name.startswith("_")}


def test_importing_the_package_loads_no_dependency() -> None:
    """Nothing but itself and small parts of the standard library."""
    modules = loaded("import tiered_cache")
    assert {"tiered_cache"} == third_party(modules)
    assert set() == tops(modules) & (NEVER - {"json", "random"})
    assert set() == {name for name in modules if name.startswith("tiered_cache._l2")}


def test_making_a_cache_loads_the_eviction_policy_alone() -> None:
    """cachetools, and what it needs."""
    modules = loaded("import tiered_cache; tiered_cache.TieredCache()")
    assert {"tiered_cache", "cachetools"} == third_party(modules)
    assert set() == tops(modules) & {"redis", "boto3", "botocore", "asyncio", "msgpack", "ssl", "socket", "hashlib"}


def test_a_hit_and_a_load_load_little_more() -> None:
    """A read-through in L1 alone needs no codec and no logger."""
    code = "import tiered_cache as t; c = t.TieredCache(); c.get_or_load('k', int); c.get_or_load('k', int)"
    modules = loaded(code)
    assert {"tiered_cache", "cachetools"} == third_party(modules)
    assert set() == tops(modules) & {"redis", "boto3", "asyncio", "msgpack", "logging"}


@pytest.mark.parametrize("module", ["tiered_cache.aws_lambda", "tiered_cache.interfaces"])
def test_the_light_modules_stay_light(module: str) -> None:
    """The handler's decorator and the protocols bring no dependency."""
    assert {"tiered_cache"} == third_party(loaded(f"import {module}"))


def test_the_origins_load_no_sdk_before_they_are_used() -> None:
    """boto3 is imported when a client is made."""
    modules = loaded("import tiered_cache.adapters.s3, tiered_cache.adapters.dynamodb, tiered_cache.adapters.athena")
    assert set() == tops(modules) & {"boto3", "botocore", "redis", "asyncio"}


def test_naming_the_redis_tier_loads_no_redis() -> None:
    """Nor does constructing one with a URL: that happens when it first connects."""
    modules = loaded("from tiered_cache import RedisTier; RedisTier('redis://localhost:1', ttl=60)")
    assert "redis" not in tops(modules)
    assert "asyncio" not in tops(modules)
