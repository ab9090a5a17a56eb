"""What is said of other caches is what they do: each reader reads, loads as often as it is said to, and none is tried in vain."""

import asyncio
import threading
from contextlib import ExitStack, contextmanager

import pytest
import redis

from tiered_cache import ConfigurationError
from tiered_cache.benchmarks import peers
from tiered_cache.benchmarks.harness import Skipped
from tiered_cache.benchmarks.peer_caches import PEERS, Given, LruCache, Ours
from tiered_cache.benchmarks.readers import Awaited, Called, WithLoader
from tiered_cache.local import ValkeyServer

WORKS = [(peer, kind) for peer in PEERS for kind in ("in_memory", "shared") if getattr(peer, kind)]


@pytest.fixture(scope="module")
def server():
    with ValkeyServer() as started:
        yield started


@pytest.mark.filterwarnings("default")  # what other libraries warn of is their affair
@pytest.mark.parametrize(("peer", "kind"), WORKS, ids=lambda given: given if isinstance(given, str) else given.name)
def test_a_peer_loads_once_and_then_hits(peer, kind, server):
    """Otherwise its hits would be timed as something else."""
    pytest.importorskip(peer.module, reason=f"{peer.module} is not installed")
    loads = []

    async def awaited():
        loads.append(1)
        return {"id": 1}

    def load():
        loads.append(1)
        return {"id": 1}

    with asyncio.Runner() as runner, ExitStack() as opened:
        given = Given(awaited if peer.awaited else load, peers.database(server.url, peer), runner.run, timeout=20.0)
        reader = opened.enter_context(getattr(peer, kind)(given))
        try:
            seconds = reader.sampler("key")(5)
        except Exception as error:
            if "client-side caching is supported by" not in str(error):
                raise
            pytest.skip(f"redis-py: {error}")
        reader.loop(["key", "key"])()
    assert len(seconds) == 5
    assert len(loads) == 1


def test_each_way_of_reading_reads_all_and_at_once():
    """A call, a call with a loader, and a coroutine: in a loop, one by one, and by many."""
    read = []

    async def awaited(key):
        read.append(key)

    with asyncio.Runner() as runner:
        readers = (
            Called(read.append),
            WithLoader(lambda key, load: load(key), read.append),
            Awaited(awaited, runner.run),
        )
        for reader in readers[::2]:
            reader.loop(["a", "b"])()
            assert len(reader.sampler("c")(3)) == 3
            reader.race("d", 4)
            assert "".join(read) == "abcccdddd"
            read.clear()


def test_all_race_together():
    """No thread has read before the last one was there to read."""
    before, seen = {*threading.enumerate()}, []
    Called(lambda _key: seen.append({*threading.enumerate()} - before)).race("key", 16)
    assert len(seen) == 16
    assert len(seen[0]) == 16


def test_one_process_of_many_loads(server, monkeypatch):
    """Ours, counted in the processes themselves: also where nobody hears of the server for a second, as on a busy machine."""
    stalls = iter([1_000])
    server.flush()
    with redis.Redis.from_url(server.url) as client:

        def stalled(child):
            for milliseconds in stalls:  # before the first one begins
                client.client_pause(milliseconds)
            begin(child)

        begin = peers.begin
        monkeypatch.setattr(peers, "begin", stalled)
        assert peers.race_of_processes(Ours(), server.url) == 1


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_calls_without_redis_are_measured_in_a_process_of_their_own(fault):
    """Two figures, with what the caller got."""
    (first, outcome), (later, _) = peers.calls_without(Ours(), fault, 60.0)
    assert outcome == "loads"
    assert 0 < later < first


def test_a_peer_that_never_answers_is_given_up(monkeypatch):
    """After the limit, which then is the figure."""
    monkeypatch.setattr(peers, "begin", lambda _child: None)
    assert peers.calls_without(Ours(), "frozen", 0.05) == [(0.05, "given up after 0.05 s")]


def test_a_peer_that_does_not_work_in_a_process_is_skipped(server):
    """With a word, not with a hang."""

    class Unknown(Ours):
        name = "no such peer"

    with pytest.raises(Skipped):
        peers.race_of_processes(Unknown(), server.url)


@pytest.mark.parametrize(("end", "limit"), [("exit 1", 30.0), ("exec sleep 600", 0.1)], ids=["dies", "hangs"])
def test_a_peer_that_does_not_end_its_race_is_skipped(monkeypatch, tmp_path, end, limit):
    """Though it was ready. Of ours that is a failure."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho ready\nread line\n{end}\n", encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setattr(peers.sys, "executable", str(program))
    monkeypatch.setattr(peers, "ENDED", limit)
    with pytest.raises(Skipped, match="functools.lru_cache, no TTL does not work in a process of its own: "):
        peers.race_of_processes(LruCache(), "no url")
    with pytest.raises(RuntimeError, match="tiered_cache does not work in a process of its own: "):
        peers.race_of_processes(Ours(), "no url")


def test_a_peer_that_dies_while_redis_is_away_is_skipped(monkeypatch):
    """It was not given up after so many seconds, which would look like a figure. Of ours it is a failure."""
    monkeypatch.setattr(peers, "begin", lambda child: child.kill())
    with pytest.raises(RuntimeError, match="a process of its own: it ended without a word"):
        peers.calls_without(Ours(), "killed", 30.0)
    monkeypatch.setattr(peers, "OURS", "another")
    with pytest.raises(Skipped, match="a process of its own: it ended without a word"):
        peers.calls_without(Ours(), "frozen", 30.0)


def test_a_peer_that_raises_in_its_race_takes_nobody_with_it(monkeypatch, capsys):
    """In one process: the others are measured. Of ours it is a failure."""

    class Raises(Ours):
        name = "raises"

        @contextmanager
        def in_memory(self, given):
            reader = Called(lambda _key: None)
            monkeypatch.setattr(reader, "race", lambda _key, _count: {}["race"])
            yield reader

    monkeypatch.setattr(peers, "PEERS", [Raises(), Ours()])
    peers.once.cache_clear()
    assert [(result.name, result.median) for result in peers.together(quick=True)] == [("tiered_cache", 1)]
    assert "raises is skipped: KeyError: 'race'" in capsys.readouterr().out
    monkeypatch.setattr(peers, "OURS", "raises")
    with pytest.raises(KeyError, match="race"):
        peers.together(quick=True)


def test_what_does_not_work_of_ours_is_a_failure():
    """A word that it is skipped would hide from `--check` that its budgets were not measured."""
    with pytest.raises(RuntimeError, match="tiered_cache does not work in a process of its own"):
        peers.race_of_processes(Ours(), "no url")
    with (
        pytest.raises(ConfigurationError),
        peers.opened("shared", peers.returning(1), "no://url"),
    ):
        pass


def test_each_peer_that_shares_has_a_database_of_its_own():
    """Of the sixteen that a server has."""
    urls = {peers.database("redis://host:1/0", peer) for peer in PEERS if peer.shared}
    assert len(urls) == sum(peer.shared is not None for peer in PEERS)
    assert {int(peers.database("redis://host:1/0", peer).rpartition("/")[2]) for peer in PEERS} <= set(range(16))
