"""Hit ratios: traces are read as they were written, and no policy is told to be better than it can be."""

import gzip
import json
import lzma
import os
import struct
import sys
import tracemalloc
from collections import OrderedDict
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiered_cache import _command as command
from tiered_cache.benchmarks import hitratio, optimum, results, traces

KEYS = [str(number) for number in (7, 7, 3, 4_000_000_000, 7, 3)]


MOKA = "moka-py (W-TinyLFU)"
"""It may hold more than it says, for a while."""


def made(accesses=3_000, sizes=False):
    drawn = Random(5)
    keys = [str(int(drawn.paretovariate(0.7)) % 500) for _ in range(accesses)]
    trace = traces.Trace("small", keys)
    return traces.with_made_sizes(trace) if sizes else trace


def test_a_trace_of_cache2k_is_read(tmp_path):
    """Big-endian numbers of 32 bits, packed; its name says so."""
    file = tmp_path / "shop.trace.xz"
    file.write_bytes(lzma.compress(struct.pack(">6I", *map(int, KEYS))))
    assert traces.read(file) == ("shop.trace.xz", KEYS, None)
    assert traces.read(file, limit=2).keys == KEYS[:2]


def test_a_trace_of_lirs_is_read(tmp_path):
    """Decimals on lines; a star is a mark of its authors and no access."""
    file = tmp_path / "files.trace.gz"
    file.write_bytes(gzip.compress("\n".join(["*", *KEYS, "*", ""]).encode()))
    assert traces.read(file).keys == KEYS
    assert traces.read(file, limit=3).keys == KEYS[:3]


def test_a_plain_list_is_read(tmp_path):
    """Any text is a key; the format can be stated where the name does not tell it."""
    for name, form in (("keys.txt", None), ("keys", "lines")):
        (tmp_path / name).write_text("customer:1\ncustomer:ü\n\ncustomer:1\n", encoding="utf-8")
        assert traces.read(tmp_path / name, form).keys == ["customer:1", "customer:ü", "customer:1"]


@pytest.mark.parametrize("times", [(30.5, 4, 100), ("2026-11-01T10:00:00Z", "2026-10-31T23:59:59Z", "2026-11-02")])
@pytest.mark.parametrize("columns", ["bytes,status,timestamp,key", "size,status,time,key"])
def test_an_access_log_is_read_in_the_order_of_time(tmp_path, times, columns):
    """Columns by their names, as `tiered-cache simulate` has them; of a key the largest size counts, for parts of it may have
    been asked for.
    """
    lines = [columns, f"10,200,{times[0]},b", f"20,200,{times[1]},a", f"7,206,{times[2]},b"]
    (tmp_path / "log.csv").write_text("\n".join(lines), encoding="utf-8")
    assert traces.read(tmp_path / "log.csv") == ("log.csv", ["a", "b", "b"], {"a": 20, "b": 10})


def test_a_file_may_be_called_any_bytes(tmp_path):
    """Its name stands in all that is shown, so it becomes one that can be; and its path, where two have that name."""
    (tmp_path / "folder").mkdir()
    name = os.fsdecode(b"bad\xff.txt")
    files = [tmp_path / name, tmp_path / "folder" / name]
    try:
        for file in files:
            file.write_text("a\n", encoding="utf-8")
    except OSError as error:
        pytest.skip(f"no such name can be here: {error}")
    told = f"{tmp_path}/bad\\udcff.txt", f"{tmp_path}/folder/bad\\udcff.txt"
    assert [trace.name for trace in hitratio.chosen(files, quick=True)] == [*told]
    assert [trace.name for trace in hitratio.chosen(files[:1], quick=True)] == ["bad\\udcff.txt"]


def test_a_file_may_begin_with_the_mark_of_its_encoding(tmp_path):
    """Then the first column is the one that it names, and the first key is that key."""
    (tmp_path / "log.csv").write_text("timestamp,key\n3,c\n1,a\n2,b\n", encoding="utf-8-sig")
    (tmp_path / "keys.txt").write_text("a\nb\nc\n", encoding="utf-8-sig")
    (tmp_path / "some.trace").write_text("1\n2\n", encoding="utf-8-sig")
    found = [traces.read(tmp_path / name).keys for name in ("log.csv", "keys.txt", "some.trace")]
    assert found == [["a", "b", "c"], ["a", "b", "c"], ["1", "2"]]


def test_a_log_needs_neither_times_nor_sizes(tmp_path):
    """Then the lines stand in their order, and entries are counted."""
    (tmp_path / "log.csv").write_text('key\nb\n"a,b"\nb\n', encoding="utf-8")
    assert traces.read(tmp_path / "log.csv")[1:] == (["b", "a,b", "b"], None)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.trace.xz", lzma.compress(b"12345"), "5 bytes are no whole number of accesses"),
        ("a.trace.xz", lzma.compress(bytes(400))[:40], "a.trace.xz cannot be read as cache2k"),
        ("a.trace.xz", b"no xz", "cannot be read as cache2k"),
        ("a.trace.gz", gzip.compress(b"1\ntwo\n"), "must be a decimal number; got 'two'"),
        ("a.csv", b"time,object\n1,2\n", "must name a column 'key'; got \\['time', 'object'\\]"),
        ("a.csv", b"key,timestamp\n1,yesterday\n", "yesterday"),
        ("a.csv", b"key,bytes\n1,many\n", "many"),
        ("a.csv", b"key,timestamp,bytes\na,1\n", "line 2 has another number of columns than the header"),
        ("a.csv", b"key\na,1\n", "line 2 has another number of columns than the header"),
        ("a.csv", b"key\n" + b"a" * 200_000, "a.csv cannot be read as csv: field larger than field limit"),
        ("a.csv", b"key,bytes\na,1\n,2\n", "a.csv cannot be read as csv: line 3 has an empty key"),
        ("a.csv", b"key,bytes\na,-1\n", "a size in bytes must be between 0 and 10+; got '-1'"),
        ("a.txt", b"", "a.txt holds no access"),
        ("a.parquet", b"", "a.parquet does not say its format by its end: state it, one of cache2k, lirs, lines, csv"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, name, content, text):
    """By its name, with what is wrong."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=text):
        traces.read(tmp_path / name)


def test_a_file_that_is_not_there_and_a_format_that_is_none_are_refused(tmp_path):
    """By their names too."""
    with pytest.raises(ValueError, match=r"there is no file .*none\.csv"):
        traces.read(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="format must be one of cache2k, lirs, lines, csv; got 'arc'"):
        traces.read(tmp_path / "none.csv", "arc")


@pytest.mark.parametrize("header", ["key,bytes", "key,bytes,time"])
def test_of_a_long_log_no_more_is_held_than_is_replayed(tmp_path, header):
    """The first in the order of time, and of one moment those that come first."""
    with (tmp_path / "log.csv").open("w", encoding="utf-8") as file:
        print(header, file=file)
        for number in range(20_000):
            print(*(number, number % 7, number // 5)[: header.count(",") + 1], sep=",", file=file)
    traces.read(tmp_path / "log.csv", limit=1)  # what is imported for it is not to be counted
    tracemalloc.start()
    try:
        found = traces.read(tmp_path / "log.csv", limit=12)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found[1:] == ([str(number) for number in range(12)], {str(number): number % 7 for number in range(12)})
    assert most < 500_000


S3_LOGS = """bucketowner bucket_name requestdatetime remoteip requester requestid operation key request_uri httpstatus
    errorcode bytessent:bigint objectsize:bigint totaltime turnaroundtime referrer useragent versionid hostid sigv
    ciphersuite authtype endpoint tlsversion accesspointarn aclrequired"""
"""The columns that the user guide of S3 gives the table mybucket_logs, all texts but those that say otherwise."""
CLOUDFRONT_LOGS = """date:date time x_edge_location sc_bytes:bigint c_ip cs_method cs_host cs_uri_stem sc_status:int
    cs_referrer cs_user_agent cs_uri_query cs_cookie x_edge_result_type x_edge_request_id x_host_header cs_protocol
    cs_bytes:bigint time_taken:float x_forwarded_for ssl_protocol ssl_cipher x_edge_response_result_type
    cs_protocol_version fle_status fle_encrypted_fields:int c_port:int time_to_first_byte:float
    x_edge_detailed_result_type sc_content_type sc_content_len:bigint sc_range_start:bigint sc_range_end:bigint"""
"""Those that the user guide of Athena gives the table cloudfront_standard_logs."""


def columns(told):
    return {name: kind or "text" for name, _, kind in (column.partition(":") for column in told.split())}


def queries():
    """Of the text of `traces`: the one for S3, and the one for CloudFront."""
    return [f"SELECT {text}" for text in traces.__doc__.split("SELECT ")[1:]]


def test_the_queries_for_access_logs_fit_the_tables_that_aws_documents():
    """No column in them that is not there."""
    sqlglot = pytest.importorskip("sqlglot", reason="sqlglot, which reads Athena's dialect, is not installed")
    from sqlglot.optimizer.qualify import qualify

    tables = {
        "s3_access_logs_db": {"mybucket_logs": columns(S3_LOGS)},
        "default": {"cloudfront_standard_logs": columns(CLOUDFRONT_LOGS)},
    }
    for query in queries():
        read = sqlglot.parse_one(query, dialect="athena")
        qualified = qualify(read, schema=tables, db="default", dialect="athena")
        assert {"timestamp", "key", "bytes"} == set(qualified.named_selects)


def test_what_the_query_for_cloudfront_gives_is_a_trace(tmp_path):
    """In the order of its dates and times."""
    sqlglot = pytest.importorskip("sqlglot", reason="sqlglot, which reads Athena's dialect, is not installed")
    duckdb = pytest.importorskip("duckdb", reason="duckdb, which runs SQL, is not installed")
    logs = duckdb.connect()
    described = ", ".join(f'"{name}" {kind}' for name, kind in columns(CLOUDFRONT_LOGS).items())
    logs.execute(f"CREATE TABLE cloudfront_standard_logs ({described})")
    for day, time, size, method, key, status in (
        ("2026-11-02", "00:00:01", 30, "GET", "/b", 200),
        ("2026-11-01", "23:59:59", 20, "GET", "/a", 200),
        ("2026-11-01", "23:59:58", 10, "PUT", "/a", 200),
        ("2026-11-01", "23:59:57", 10, "GET", "/c", 404),
    ):
        logs.execute(
            'INSERT INTO cloudfront_standard_logs ("date", "time", sc_bytes, cs_method, cs_uri_stem, sc_status) '
            "VALUES (?, ?, ?, ?, ?, ?)",
            [day, time, size, method, key, status],
        )
    query = sqlglot.transpile(queries()[1], read="athena", write="duckdb")[0]
    logs.sql(query).write_csv(str(tmp_path / "log.csv"))
    assert traces.read(tmp_path / "log.csv")[1:] == (["/a", "/b"], {"/a": 20, "/b": 30})


@pytest.mark.parametrize("make", traces.MADE)
def test_a_made_trace_is_the_same_each_time(make):
    """As long as was asked for, with a size for each key."""
    trace = make(7_000)
    assert trace == make(7_000)
    assert len(trace.keys) == 7_000
    assert trace.sizes.keys() == set(trace.keys)
    assert min(trace.sizes.values()) > 0


def best_by_search(keys, weights, capacity, worth):
    """The most that any cache can get out of a trace, by trying all that it may hold."""
    reached = {frozenset(): 0}
    for key in keys:
        then = {}
        for held, gained in reached.items():
            gains = gained + (worth[key] if key in held else 0)
            whole = held | {key}
            kept = (frozenset(some) for size in range(len(whole) + 1) for some in combinations(whole, size))
            for after in kept:
                if sum(weights[each] for each in after) <= capacity:
                    then[after] = max(then.get(after, -1), gains)
        reached = then
    return max(reached.values())


small = st.lists(st.sampled_from("abcde"), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(small, st.integers(1, 4))
def test_the_optimum_is_the_best_that_a_search_finds(keys, capacity):
    """Of all that may be held after each access, be it without what was just loaded."""
    ones = dict.fromkeys("abcde", 1)
    assert optimum.belady(keys, capacity) == best_by_search(keys, ones, capacity, ones)


@settings(max_examples=60, deadline=None)
@given(small, st.integers(1, 12), st.lists(st.integers(1, 6), min_size=5, max_size=5), st.booleans())
def test_nothing_that_a_search_finds_passes_the_bound(keys, capacity, sizes, by_bytes):
    """By hits and by their bytes."""
    weights = dict(zip("abcde", sizes, strict=True))
    worth = weights if by_bytes else dict.fromkeys("abcde", 1)
    best = best_by_search(keys, weights, capacity, worth)
    assert best <= optimum.bound(keys, weights, capacity, worth) + 1e-9


def test_the_bound_is_reached_where_all_fits():
    """Each access but the first to a key is a hit."""
    trace = made(sizes=True)
    room, ones = sum(trace.sizes.values()), dict.fromkeys(trace.sizes, 1)
    assert optimum.bound(trace.keys, trace.sizes, room, ones) == len(trace.keys) - len(trace.sizes)
    assert optimum.belady(trace.keys, len(trace.sizes)) == len(trace.keys) - len(trace.sizes)


def plain_lru(keys, capacity):
    held, hits = OrderedDict(), 0
    for key in keys:
        hits += key in held
        held[key] = None
        held.move_to_end(key)
        if len(held) > capacity:
            held.popitem(last=False)
    return hits


def replay(trace):
    """The rows of a trace by (by, share, policy)."""
    return {(row.by, row.share, row.policy): row for row in hitratio.rows([trace], quick=True)}


def test_what_is_replayed_hits_as_it_must():
    """cachetools' LRU as a plain one does, ours near it, s3fifo above it here, and nobody above the optimum."""
    trace = made()
    found = replay(trace)
    for share in (0.01, 0.05, 0.2):
        ratios = {row.policy: row.hit_ratio for (_, at, _), row in found.items() if at == share}
        capacity = found["entries", share, "tiered_cache lru"].capacity
        assert capacity == int(share * len(set(trace.keys)))
        assert ratios["cachetools LRUCache"] == plain_lru(trace.keys, capacity) / len(trace.keys)
        assert abs(ratios["tiered_cache lru"] - ratios["cachetools LRUCache"]) < 0.04
        assert ratios["tiered_cache lru"] <= ratios["tiered_cache s3fifo"]
        assert max(ratio for name, ratio in ratios.items() if name != MOKA) == ratios[hitratio.AHEAD]
    assert {row.byte_hit_ratio for row in found.values()} == {None}


def test_with_sizes_the_room_is_in_bytes_too():
    """All the bytes of the keys' values with what an entry costs; nobody is above the bound."""
    trace = made(sizes=True)
    found = replay(trace)
    whole = sum(size + len(key) + hitratio.ENTRY_OVERHEAD for key, size in trace.sizes.items())
    bound = found["bytes", 0.05, hitratio.BOUND]
    assert bound.capacity == int(0.05 * whole)
    for policy in hitratio.POLICIES.keys() - {MOKA, "theine (W-TinyLFU)"}:
        row = found["bytes", 0.05, policy]
        assert 0.1 < row.hit_ratio <= bound.hit_ratio
        assert 0.0 < row.byte_hit_ratio <= bound.byte_hit_ratio
        assert row.seconds > 0


@pytest.mark.parametrize("name", ["tiered_cache lru", "tiered_cache s3fifo", "cachetools LRUCache"])
def test_a_key_counts_the_same_for_all(name):
    """Its letters take more bytes each where they are not ASCII: who has room for all keys holds them all."""
    keys = ["ы" * 40 + str(number) for number in range(50)] * 2
    (row,) = {
        row
        for row in hitratio._replays(traces.Trace("t", keys, dict.fromkeys(keys, 1)), "bytes", (1.0,))
        if row.policy == name
    }
    assert row.hit_ratio == 0.5


def test_who_holds_more_than_its_room_is_named(monkeypatch, capsys):
    """It is above what none can pass, and the table must not look as if that could be passed."""
    monkeypatch.setattr(hitratio, "POLICIES", {"greedy": lambda room: (set(room.weights).__contains__, {}.clear)})
    replay(made(300))
    assert "greedy is above the clairvoyant optimum, for it held more than its room." in capsys.readouterr().out
    monkeypatch.setattr(hitratio, "POLICIES", {"ours": lambda room: hitratio.ours("lru", room)})
    replay(made(300))
    assert " is above " not in capsys.readouterr().out


def test_runs_of_more_accesses_are_told_apart(tmp_path, capsys):
    """Their figures are others of the same trace."""
    (tmp_path / "keys.txt").write_bytes(WRITTEN["keys.txt"](made(400).keys))
    files = [tmp_path / f"{limit}.json" for limit in (200, 300)]
    for file in files:
        assert benched("--traces", tmp_path / "keys.txt", "--limit", file.stem, "--json", file) == 0
    assert command.main(["bench", "--from", str(files[1]), "--compare", str(files[0])]) == 1
    assert "Nothing can be compared" in capsys.readouterr().out


def test_policies_are_timed_by_turns(tmp_path, monkeypatch):
    """Ours, one beside the other and the first beside itself, by bytes where there are sizes; of a long trace the beginning."""
    monkeypatch.setattr(hitratio, "MOST_TIMED", 12 * 150)
    (tmp_path / "log.csv").write_bytes(WRITTEN["log.csv"](made(300).keys))
    arguments = ["bench", "hitratio.policies", "--quick", "--traces", str(tmp_path / "log.csv"), "--limit", "200"]
    assert command.main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    found = results.read(tmp_path / "out.json").results
    names = ["tiered_cache lru", "tiered_cache s3fifo", "tiered_cache lru, again"]
    assert [result.name for result in found] == names
    assert {result.group for result in found} == {"An access, a cache for 5% of the bytes of log.csv, 150 accesses"}
    assert all(result.ratio > 0 and result.noise is not None for result in found)


def test_what_is_not_installed_or_cannot_be_is_skipped_with_a_word(monkeypatch, capsys):
    """Each in a line, and the others are replayed."""
    monkeypatch.setitem(sys.modules, "moka_py", None)
    monkeypatch.setitem(sys.modules, "theine", None)
    found = replay(made(300))
    printed = capsys.readouterr().out
    assert "moka-py (W-TinyLFU) is skipped by entries: " in printed
    assert "theine (W-TinyLFU) is skipped by entries: " in printed
    assert {policy for _, _, policy in found} == {name for name in hitratio.POLICIES if "TinyLFU" not in name} | {
        hitratio.AHEAD
    }


WRITTEN = {
    "shop.trace.xz": lambda keys: lzma.compress(struct.pack(f">{len(keys)}I", *map(int, keys))),
    "files.trace.gz": lambda keys: gzip.compress("\n".join(["*", *keys]).encode()),
    "keys.txt": lambda keys: "\n".join(keys).encode(),
    "log.csv": lambda keys: "\n".join(["key,bytes", *(f"{key},{len(key)}00" for key in keys)]).encode(),
}
"""A trace of each format, by a name that says it."""


def benched(*arguments):
    """What `tiered-cache bench hitratio.hitratio --quick` with more arguments exits with."""
    return command.main(["bench", "hitratio.hitratio", "--quick", *map(str, arguments)])


def test_the_command_replays_the_users_files_in_each_format(tmp_path, capsys):
    """Tables, and points of curves in what is written: of each file, by bytes where it has sizes."""
    for name, write in WRITTEN.items():
        (tmp_path / name).write_bytes(write(made(400).keys))
    files = [tmp_path / name for name in WRITTEN]
    assert (
        benched("--traces", *files, "--limit", 300, "--json", tmp_path / "out.json", "--markdown", tmp_path / "o.md")
        == 0
    )
    printed = capsys.readouterr().out
    found = results.read(tmp_path / "out.json").results
    for name in WRITTEN:
        assert f"{name}: 300 accesses to " in printed
    assert {result.curve for result in found} == {
        *(f"Hit ratio by entries: {name}" for name in WRITTEN),
        "Hit ratio by bytes: log.csv",
        "Byte hit ratio: log.csv",
    }
    assert {result.at for result in found} == {0.01, 0.05, 0.2}
    assert {result.unit for result in found} == {"share"}
    assert len({(result.group, result.name) for result in found}) == len(found)
    assert "**Hit ratio by entries: keys.txt**" in (tmp_path / "o.md").read_text(encoding="utf-8")
    shares = {
        name: [each.median for each in found if f"entries of {name}" in each.group and "lru" in each.name]
        for name in WRITTEN
    }
    assert len(set(map(tuple, shares.values()))) == 1  # the same keys, however they were written


@pytest.mark.parametrize(("sizes", "by"), [("made", {"entries", "bytes"}), ("none", {"entries"})])
def test_sizes_are_drawn_or_left_out(tmp_path, sizes, by):
    """As the user says, whatever the trace has."""
    (tmp_path / "log.csv").write_bytes(WRITTEN["log.csv"](made(300).keys))
    (tmp_path / "keys.txt").write_bytes(WRITTEN["keys.txt"](made(300).keys))
    files = [tmp_path / "log.csv", tmp_path / "keys.txt"]
    assert benched("--traces", *files, "--sizes", sizes, "--json", tmp_path / "out.json") == 0
    found = results.read(tmp_path / "out.json").results
    for file in files:
        assert {
            kind for kind in ("entries", "bytes") if f"Hit ratio by {kind}: {file.name}" in {one.curve for one in found}
        } == by


def test_sizes_that_are_nothing_are_refused_unless_they_are_not_used(tmp_path, capsys):
    """No share of no bytes can be told."""
    (tmp_path / "log.csv").write_text("key,bytes\na,0\nb,\na,0\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        benched("--traces", tmp_path / "log.csv")
    assert "log.csv holds sizes that are all 0: --sizes none" in capsys.readouterr().err
    assert [benched("--traces", tmp_path / "log.csv", "--sizes", sizes) for sizes in ("none", "made")] == [0, 0]


def test_files_of_one_name_are_told_apart(tmp_path):
    """By their folders."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "keys.txt").write_text("1\n2\n1\n", encoding="utf-8")
    files = [tmp_path / folder / "keys.txt" for folder in ("a", "b")]
    assert [trace.name for trace in hitratio.chosen(files, quick=True)] == list(map(str, files))


def test_what_is_made_is_as_long_as_was_asked_for():
    """All that are made, shorter or longer than by default."""
    assert [len(trace.keys) for trace in hitratio.chosen(limit=500, quick=False)] == [500] * len(traces.MADE)
    assert {len(trace.keys) for trace in hitratio.chosen(quick=True)} == {8_000}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--traces", "none.csv"], "there is no file none.csv"),
        (["--traces", "."], "there is no file ."),
        (
            ["--traces", "{}/keys"],
            "keys does not say its format by its end: state it, one of cache2k, lirs, lines, csv",
        ),
        (["--traces", "{}/keys", "--format", "arc"], "format must be one of cache2k, lirs, lines, csv; got 'arc'"),
        (["--traces", "{}/keys", "--format", "lirs"], "a line must be a decimal number; got 'one'"),
        (["--format", "lirs"], "--format is that of the files of --traces, and there are none"),
        (["--limit", "0"], "a whole number above 0 is needed; got '0'"),
        (["--limit", "many"], "a whole number above 0 is needed; got 'many'"),
        (["--sizes", "some"], "invalid choice: 'some'"),
    ],
)
def test_what_cannot_be_replayed_is_said_before_anything_is(tmp_path, capsys, arguments, text):
    """In a line, with what is allowed."""
    (tmp_path / "keys").write_text("1\n" * 30 + "one\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        benched(*(argument.format(tmp_path) for argument in arguments))
    told = capsys.readouterr()
    assert text in told.err
    assert "hits in percent" not in told.out


def test_traces_that_no_suite_would_replay_are_refused(tmp_path, capsys):
    """Instead of being passed over."""
    with pytest.raises(SystemExit):
        command.main(["bench", "--only", "growth", "--limit", "5"])
    assert "--limit is for the suite hitratio, which is not measured now" in capsys.readouterr().err


def test_the_command_writes_its_rows(tmp_path, capsys):
    """As they are, for a plot."""
    (tmp_path / "keys").write_text("\n".join(made(300).keys), encoding="utf-8")
    arguments = [str(tmp_path / "keys"), "--format", "lines", "--limit", "200", "--quick"]
    hitratio.main([*arguments, "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert {"trace", "accesses", "by", "share", "capacity", "policy", "hit_ratio", "byte_hit_ratio", "seconds"} == set(
        rows[0]
    )
    assert "200 accesses" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{}/none.csv"], "none.csv"),
        (["--limit", "0"], "--limit: a whole number above 0 is needed; got '0'"),
        (["--limit", "-5"], "--limit: a whole number above 0 is needed; got '-5'"),
        (["--json", "{}/nowhere/rows.json"], "--json: the name of a file in a folder that is there is needed"),
        (["{}/keys.txt", "--json", "{}/./keys.txt"], "traces and --json need files of their own"),
    ],
)
def test_what_cannot_be_is_answered_by_the_command(tmp_path, capsys, arguments, text):
    """In a line, before anything is replayed; and nothing is written over."""
    (tmp_path / "keys.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        hitratio.main(["--quick", *(argument.format(tmp_path) for argument in arguments)])
    assert text in capsys.readouterr().err
    assert (tmp_path / "keys.txt").read_text(encoding="utf-8") == "a\n"
