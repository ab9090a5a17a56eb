"""What is limited is limited, what stands in front of a server passes it on, and every tier answers with the same value."""

import argparse
import json
import os
import shutil
import subprocess
import sys

import pytest

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.benchmarks import cpu, instructions, tiers
from tiered_cache.benchmarks.command import shares
from tiered_cache.benchmarks.harness import Skipped
from tiered_cache.benchmarks.l2 import client_of, never
from tiered_cache.benchmarks.tls import TLSFront
from tiered_cache.local import LocalServices, ValkeyServer, content

BUSY = """
import sys, time
sys.stdin.readline()
end = time.time() + 2.0
while time.time() < end:
    pass
print(time.process_time())
"""


def used(limit):
    """Seconds of a processor that a process takes that is busy for two, within the context that `limit(pid)` gives."""
    with (
        subprocess.Popen(
            [sys.executable, "-c", BUSY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as child,
        limit(child.pid),
    ):
        told, _ = child.communicate("go\n", timeout=300)
    return float(told)


@pytest.mark.skipif(sys.platform != "linux", reason="signals to process groups and cgroups, as Linux has them")
@pytest.mark.parametrize("limit", [cpu.limited, cpu.governed])
def test_a_limited_process_gets_no_more_than_about_its_share(limit):
    """By a cgroup where one can be made, and by signals: a busy machine can only make it less."""
    assert used(lambda pid: limit(pid, 0.1)) < 1.2


def test_a_cgroup_is_gone_afterwards():
    """And what is left in it is moved out, whether it has ended or not."""
    try:
        group = cpu.make_cgroup(0.5)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    group.rmdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as child:
        with cpu.limited(child.pid, 0.5) as how:
            assert how == "a cgroup's quota"
            assert list(group.parent.glob("tiered-cache-bench-*"))
        assert not list(group.parent.glob(f"tiered-cache-bench-{os.getpid()}-*"))
        child.communicate(b"\n")


@pytest.mark.parametrize("text", ["", "2", "0", "0.5,x", "-1", "nan"])
def test_a_share_that_is_none_is_refused(text):
    """With what is allowed."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"from 0\.01 to 1"):
        shares(text)


def test_shares_are_numbers_with_commas():
    """As `--cpu 1,0.29`."""
    assert shares("1,0.29") == (1.0, 0.29)


def test_tls_is_in_front_of_the_server():
    """The same server, by a certificate that is checked."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl is not installed")
    with ValkeyServer() as server, TLSFront(server.port) as front:
        with client_of(front.url) as through, client_of(server.url) as beside:
            through.set("key", "value")
            assert beside.get("key") == b"value"
        assert front.url.startswith("rediss://127.0.0.1:")


@pytest.fixture(scope="module")
def services():
    with LocalServices() as started:
        content.fill(started)
        yield started


def test_boto3_alone_and_through_the_cache_give_the_same(services):
    """What is compared does the same work."""
    contents = {one.name: one for one in tiers.local_contents(services, quick=True)}
    with tiers.cache_without_l1(services.valkey.url, timeout=20) as cache:
        for name, one in contents.items():
            alone, loaded = one.alone(), cache.get_or_load(name, one.loader)
            if name.startswith("Athena"):
                assert len(alone) == len(loaded) + 1 == 1_001  # boto3 gives the headings as a row
            else:
                assert alone == loaded
            assert cache.get_or_load(name, never) == loaded
    assert set(contents) == {"S3, 1,000 bytes of JSON", "DynamoDB, an item", "Athena, 1,000 rows"}


@pytest.mark.parametrize("size", tiers.SIZES)
def test_what_s3_gives_takes_as_much_as_is_said_and_is_packed_as_rows_are(services, size):
    """A text of one letter would be next to nothing in L2, however long it is."""
    value = tiers.rows_of(size)
    assert len(json.dumps(value)) == size
    assert value == tiers.rows_of(size)
    with (
        TieredCache(
            MemoryTier(ttl=60), RedisTier(services.valkey.url, ttl="1h", timeout=20), namespace="rows"
        ) as cache,
        client_of(services.valkey.url) as client,
    ):
        cache.set(f"{size}", value)
        assert 0.2 < client.strlen(f"tc1:{{rows|{size}}}") / size < (1 if size < 10_000 else 0.5)


def test_nothing_is_measured_on_aws_unless_it_is_named(monkeypatch):
    """No account is charged by a benchmark that nobody asked for."""
    for name in list(os.environ):
        if name.startswith(tiers.AWS):
            monkeypatch.delenv(name)
    with pytest.raises(Skipped, match="TIERED_CACHE_BENCH_BUCKET"):
        tiers.aws(quick=True)
    monkeypatch.setenv("TIERED_CACHE_BENCH_BUCKET", "mine")
    with pytest.raises(Skipped, match="TIERED_CACHE_BENCH_OBJECT is not set"):
        tiers.aws(quick=True)
    monkeypatch.delenv("TIERED_CACHE_BENCH_BUCKET")
    monkeypatch.setenv("TIERED_CACHE_BENCH_TABLE", "mine")
    for text in ('{"id":', '["id"]', "{}"):
        monkeypatch.setenv("TIERED_CACHE_BENCH_ITEM", text)
        with pytest.raises(Skipped, match="TIERED_CACHE_BENCH_ITEM must be the key of an item as JSON, such as"):
            tiers.aws(quick=True)


def test_what_the_environment_names_is_measured(services, monkeypatch):
    """As it would be on AWS: the SDK finds its endpoints in the environment here too. L2 has afterwards what it had before."""
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    named = {
        "TABLE": content.CUSTOMERS,
        "ITEM": json.dumps({"customer_id": content.customer_id(3)}),
        "REDIS_URL": services.valkey.url,
    }
    for name, value in named.items():
        monkeypatch.setenv(f"TIERED_CACHE_BENCH_{name}", value)
    with client_of(services.valkey.url) as client:
        client.set("tc1:{default|DynamoDB, an item}", "somebody's")
        before = set(client.keys())
        results = tiers.aws(quick=True)
        assert set(client.keys()) == before
    assert {result.group for result in results} == {"DynamoDB, an item on AWS, from each tier"}
    ours = [f"tiered_cache, from {tier}" for tier in ("the origin", "L2", "L1")]
    assert [result.name for result in results] == ["boto3 alone", *ours, "boto3 alone, again"]


def test_instructions_are_counted_alike_each_time(tmp_path):
    """However busy the machine is, and whatever its environment: a loop's are the same within a hundredth, in each process.

    The loop takes some 280 million: a start's differ by up to a million, for what others write into its directories.
    """
    try:
        counter = instructions.counting()
    except Skipped as reason:
        pytest.skip(str(reason))
    program = "import json, sys\nfor _ in range(int(sys.argv[1])): sum(range(200))"
    instructions.count([], program, 0, str(tmp_path))

    def of_a_loop():
        many, none = (instructions.count(counter, program, rounds, str(tmp_path)) for rounds in (9_000, 0))
        return many - none

    first = of_a_loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIERED_CACHE_TRIAL", "x" * 999)
        again = of_a_loop()
    assert first > 9_000 * 200 * 10
    assert abs(first - again) < first / 100


@pytest.mark.skipif(sys.platform != "linux", reason="a process is limited by Linux's means")
def test_a_start_and_the_hits_are_measured_by_the_share_of_a_processor():
    """Each in a group of its own, with a row for each share."""
    token = tiers.shares.set((1.0, 0.5))
    try:
        results = tiers.by_share(quick=True)
    finally:
        tiers.shares.reset(token)
    rows = ["1 vCPU, 1,769 MB", "0.5 vCPU, 884 MB", "1 vCPU, 1,769 MB, again"]
    assert all(result.noise is not None for result in results)
    assert [result.name for result in results] == rows * 3
    assert len({result.group for result in results}) == 3
