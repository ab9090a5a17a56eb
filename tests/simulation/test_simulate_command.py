"""`tiered-cache simulate`, as a person types it."""

from __future__ import annotations

import json
import os
import re
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from tiered_cache._command import main
from tiered_cache._simulate import Answer, _digits, _rate, _share, _time, _workers
from tiered_cache._simulate_options import Case
from tiered_cache.benchmarks.harness import Result
from tiered_cache.benchmarks.machine import facts
from tiered_cache.benchmarks.results import Document, write
from tiered_cache.simulation.costs import EXAMPLE, Workload
from tiered_cache.simulation.paying import Refused
from tiered_cache.simulation.recorded import read_requests
from tiered_cache.simulation.scenario import Scenario

QUICK = ("--repeat", "2", "--jobs", "1", "--l2-ttl", "30", "--ttl", "10")
SHORT = ("--requests", "500")


def options(arguments: tuple[str, ...]) -> list[str]:
    """What makes a run quick, with what is given."""
    return ["simulate", *QUICK, *(() if "--trace" in arguments else SHORT), *arguments]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(options(arguments)) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    return dict(json.loads(told(capsys, "--json", *arguments)))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(options(arguments)) == 1
    return capsys.readouterr().err


def test_a_fleet_with_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    """A column for each, every part of the costs, and the answer."""
    output = told(capsys, "--up-to", "1")
    assert "without L2" in output
    for row in ("answered by L1", "origin calls a month", "p99", "compute a month", "redis a month", "all a month"):
        assert row in output
    assert "The Redis does not pay up to 1 requests/s at these prices (2 runs)." in output


def test_what_is_varied(capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each combination, and an answer for each that is not of rates."""
    varied = ("--vary", "rate=1,2", "--vary", "l2-ttl=20,30", "--up-to", "1")
    output = told(capsys, *varied)
    assert [len(re.findall(rf"^ *(rate|  ).* {said} .*%", output, re.MULTILINE)) for said in ("no", "yes")] == [4, 4]
    assert [line.split(":")[0] for line in output.splitlines() if "pay" in line] == ["l2-ttl 20", "l2-ttl 30"]
    found = as_json(capsys, *varied)
    assert [fleet["case"] for fleet in found["fleets"] if fleet["with_l2"]] == [
        "rate 1, l2-ttl 20",
        "rate 1, l2-ttl 30",
        "rate 2, l2-ttl 20",
        "rate 2, l2-ttl 30",
    ]
    assert found["fleets"][0]["origin"] > found["fleets"][-2]["origin"]


def test_the_figures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The parts make the whole, the runs are those of the seeds, and the same command says the same again."""
    found = as_json(capsys, "--no-answer")
    assert [fleet["with_l2"] for fleet in found["fleets"]] == [False, True]
    for fleet in found["fleets"]:
        assert fleet["l1"] + fleet["l2"] + fleet["origin"] == pytest.approx(1.0)
        assert fleet["month"] == pytest.approx(sum(fleet["costs"].values()))
        assert len(fleet["months"]) == 2
        assert fleet["month"] in fleet["months"]
    assert found["answers"] == []
    assert found["prices"]["athena"] == {"terabyte": 5.0, "least_megabytes": 10.0}
    assert as_json(capsys, "--no-answer") == found
    assert as_json(capsys, "--no-answer", "--seed", "5") != found


def test_processes_find_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes say what one says."""
    arguments = ("--vary", "rate=5,10", "--up-to", "2", "--origin", "s3")
    assert as_json(capsys, *arguments, "--jobs", "2") == as_json(capsys, *arguments)


def test_the_users_prices(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Ten times the price of a node is ten times the Redis; the currency is the file's."""
    own = tmp_path / "own.toml"
    example = EXAMPLE.read_text(encoding="utf-8").replace('"$"', '"CHF"')
    own.write_text(example.replace("node_hour = 0.0256", "node_hour = 0.256"), encoding="utf-8")
    nodes = ("--no-answer", "--redis", "nodes")
    dear, cheap = as_json(capsys, *nodes, "--prices", str(own)), as_json(capsys, *nodes)
    assert dear["fleets"][1]["costs"]["redis"] == pytest.approx(10 * cheap["fleets"][1]["costs"]["redis"])
    assert "CHF" in told(capsys, *nodes, "--prices", str(own))


def test_a_trace_and_its_sizes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The traffic is the file's, and so are the sizes of the values: 6 kB are one and a half units, so two blocks."""
    path = tmp_path / "trace.csv"
    lines = [f"{number},k{number % 5},6000" for number in range(400)]
    path.write_text("\n".join(["timestamp,key,bytes", *lines]), encoding="utf-8")
    fleet = as_json(capsys, "--trace", str(path), "--no-answer", "--alone-ttl", "10")["fleets"][0]
    assert fleet["usage"]["requests"] == pytest.approx(400 - 30, abs=2)  # it takes 30 s to fill, with L2
    months = 730 * 3600 / fleet["usage"]["seconds"]
    assert fleet["costs"]["origin"] == pytest.approx(months * fleet["usage"]["origin_loads"] * 2 / 2 / 1e6 * 0.125)


def test_a_trace_from_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell gives what a command prints: it can be read once, for all cases and for the answers."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        pipe.write("\n".join(["time,key", *(f"{number},k{number % 5}" for number in range(100))]))
    try:
        found = as_json(capsys, "--trace", f"/dev/fd/{reading}", "--vary", "ttl=5,10", "--up-to", "1")
    finally:
        os.close(reading)
    assert (len(found["fleets"]), len(found["answers"])) == (4, 2)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("time,key\n1,a\n", "trace must last for some time; {} has its only request at one moment, 1.0"),
        ("time,key\n1,a\n1,b\n", "trace must last for some time; {} has all of its 2 requests at one moment, 1.0"),
        ("time,key\n1,a\n2,\n", "trace must be a CSV file of requests; {} is not: line 3 has an empty key"),
        ("time,key\nsoon,a\n", "trace must be a CSV file of requests; {} is not: Invalid isoformat string: 'soon'"),
    ],
)
def test_what_is_no_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, text: str) -> None:
    """The file is named, and what is wrong with it."""
    path = tmp_path / "trace.csv"
    path.write_text(content, encoding="utf-8")
    assert text.format(path) in refused(capsys, "--trace", str(path))


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of this process cannot be set here")
def test_times_that_name_no_zone_are_of_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command runs: there may be a night with an hour that comes twice. A mark before the header is no matter."""
    path = tmp_path / "trace.csv"
    path.write_text(
        "time,key\n2026-10-25T00:50:00,a\n2026-10-25T01:10:00,b\n2026-10-25 03:30:00+01:00,c\n", encoding="utf-8-sig"
    )
    found = []
    try:
        for zone in ("UTC0", "CET-1CEST,M3.5.0,M10.5.0/3"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            found.append(read_requests(path).requests)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == [((0.0, "a"), (1200.0, "b"), (6000.0, "c"))] * 2


@pytest.mark.parametrize("option", ["keys", "zipf", "requests", "lasts"])
def test_what_a_trace_leaves_no_room_for(capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str) -> None:
    """An option that would do nothing is refused by name, varied too."""
    path = tmp_path / "trace.csv"
    path.write_text("time,key\n1,a\n2,b\n", encoding="utf-8")
    for arguments in ((f"--{option}", "9"), ("--vary", f"{option}=8,9")):
        assert f"{option} must not be given with --trace" in refused(capsys, "--trace", str(path), *arguments)


def test_an_answer_by_a_trace_that_is_over_too_soon_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """At the rate of the answer it comes so fast that no value has the time to become old."""
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["time,key", *(f"{number},k{number % 5}" for number in range(400))]), encoding="utf-8")
    doubt = "Do not rely on that: at such a rate what is simulated is too short for the TTLs."
    assert doubt in told(capsys, "--trace", str(path))
    assert doubt not in told(capsys, "--rate", "5")
    (answer,) = as_json(capsys, "--trace", str(path))["answers"]
    assert not answer["steady"]
    assert answer["answer"].endswith(doubt)
    (answer,) = as_json(capsys, "--rate", "5", "--up-to", "1")["answers"]
    assert answer["steady"]
    (answer,) = as_json(capsys, "--rate", "5", "--up-to", "1", "--lasts", "40", "--alone-ttl", "50")["answers"]
    assert not answer["steady"]  # L1 alone is not


def test_what_is_to_be_known_of_the_fleets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Below the table, and in JSON: nothing where there is nothing."""
    assert as_json(capsys, "--no-answer")["notes"] == []
    cut = "What is simulated is cut at 7,000 requests, so that it is shorter than it is meant to be. See --lasts."
    short = "What is simulated is too short for the TTLs: the hit rates are not those of full caches."
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["time,key", *(f"{n // 2},k{n % 5}" for n in range(100))]), encoding="utf-8")
    spread = (
        "The trace's times are whole seconds: the requests of each are spread over it, by chance and in their order."
    )
    for arguments, expected, steady in (
        (("--lasts", "20"), [f"{short} See --lasts."], [False, False]),
        (("--lasts", "40", "--alone-ttl", "50"), [f"{short} See --lasts."], [False, True]),
        (("--trace", str(path)), [spread, f"{short} It takes a longer trace."], [False, False]),
        (("--rate", "55", "--l2-stale", "3"), [cut], [True, True]),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tiered_cache._simulate.MOST", 7_000)
            patch.setattr("tiered_cache.simulation.scenario.MOST", 7_000)
            output, found = told(capsys, "--no-answer", *arguments), as_json(capsys, "--no-answer", *arguments)
        assert output.splitlines()[-len(expected) :] == found["notes"] == expected
        assert [fleet["steady"] for fleet in found["fleets"]] == steady


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A currency, and a figure's name, are told as they are written."""
    own = tmp_path / "own.toml"
    for currency in ("[/]", "[bold]", ":smile:"):
        own.write_text(EXAMPLE.read_text(encoding="utf-8").replace('"$"', f'"{currency}"'), encoding="utf-8")
        for varied in ((), ("--vary", "rate=1,2")):
            assert currency in told(capsys, "--no-answer", "--prices", str(own), *varied)
    path = tmp_path / "bench.json"
    results = [Result(group="[/red]", name="ours", unit="s", median=0.2, low=0.2, high=0.2)]
    write(Document(machine=facts(), quick=True, results=results), path)
    varied = ("--timings", str(path), "--vary", "origin-time=[/red]: ours,0.1")
    assert "[/red]" in told(capsys, "--no-answer", "--no-l2", *varied)


def test_times_that_were_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A figure of `tiered-cache bench --json`, by its name: its median, and its spread by p90."""
    path = tmp_path / "bench.json"
    measured = Result(
        group="S3", name="by boto3", unit="s", median=0.2, low=0.2, high=0.2, percentiles=((50, 0.2), (90, 0.2))
    )
    write(Document(machine=facts(), quick=True, results=[measured]), path)
    timings = ("--timings", str(path), "--no-answer", "--no-l2", "--service", "0.001", "--service-spread", "0")
    fleet = as_json(capsys, *timings, "--origin-time", "S3: by boto3")["fleets"][0]
    assert fleet["p99"] == pytest.approx(0.201)
    assert "timings must be used: one of --l1-time, --l2-time, --origin-time must be" in refused(capsys, *timings)
    slow = as_json(capsys, *timings, "--l1-time", "S3: by boto3", "--keys", "1")["fleets"][0]
    assert slow["p50"] == pytest.approx(0.201)
    assert "nor is that one of the figures: S3: by boto3" in refused(capsys, *timings, "--origin-time", "S4")
    path.write_text("{}", encoding="utf-8")
    assert "holds no results of `tiered-cache bench --json`" in refused(capsys, *timings)


def test_times_that_were_measured_are_varied(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """By their names, in quotes where these have commas, as they mostly have."""
    path = tmp_path / "bench.json"
    group, other = "L2 hit, standalone, a value of 600 bytes", "S3, an object"
    measured = [
        Result(group=each, name="ours", unit="s", median=median, low=median, high=median)
        for each, median in ((group, 0.2), (other, 0.3))
    ]
    write(Document(machine=facts(), quick=True, results=measured), path)
    timings = ("--timings", str(path), "--no-answer", "--no-l2", "--service", "0.001", "--service-spread", "0")
    varied = f'origin-time="{group}: ours",0.1,"{other}: ours"'
    found = as_json(capsys, *timings, "--origin-spread", "0", "--vary", varied)["fleets"]
    assert [fleet["case"] for fleet in found] == [
        f"origin-time {group}: ours",
        "origin-time 0.1",
        f"origin-time {other}: ours",
    ]
    assert [fleet["p99"] for fleet in found] == pytest.approx([0.201, 0.101, 0.301])


def test_a_trace_without_sizes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Its values have the size of any other traffic's, also where the column is there and says nothing."""
    path = tmp_path / "trace.csv"
    nodes = ("--trace", str(path), "--no-answer", "--origin", "dynamodb", "--consistent")
    for header, end in (("time,key", ""), ("time,key,bytes", ",")):
        path.write_text("\n".join([header, *(f"{n},k{n % 50}{end}" for n in range(400))]), encoding="utf-8")
        found = [as_json(capsys, *nodes, *size)["fleets"][1]["costs"] for size in ((), ("--value-size", "2 KiB"))]
        assert found[0] == found[1] != as_json(capsys, *nodes, "--value-size", "1")["fleets"][1]["costs"]


@pytest.mark.parametrize("more", [(), ("--alone-ttl", "20", "--stale", "3", "--l2-stale", "5")])
def test_no_l2_is_the_column_without_one(capsys: pytest.CaptureFixture[str], more: tuple[str, ...]) -> None:
    """The same policy, and so the same figures."""
    both, alone = as_json(capsys, "--no-answer", *more), as_json(capsys, "--no-l2", *more)
    assert alone["fleets"] == both["fleets"][:1]


def test_what_looking_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """Under the default coherence each answer of L1 beside an L2 takes a round trip, and an ECPU; without an L2 none does."""
    fixed = ("--no-answer", "--l2-time", "0.1", "--l2-spread", "0", "--service-spread", "0", "--keys", "3")
    looking, not_looking = as_json(capsys, *fixed), as_json(capsys, *fixed, "--coherence", "ttl")
    assert looking["fleets"][0] == not_looking["fleets"][0]
    one, other = looking["fleets"][1], not_looking["fleets"][1]
    assert (one["usage"]["l2_looks"], other["usage"]["l2_looks"]) == (one["usage"]["requests"], 0)
    assert one["p50"] == pytest.approx(other["p50"] + 0.1)
    assert one["costs"]["redis"] > other["costs"]["redis"]


def test_without_an_l2(capsys: pytest.CaptureFixture[str]) -> None:
    """One column, and no question whether a Redis pays."""
    output = told(capsys, "--no-l2")
    assert "with L2" not in output
    assert "pay" not in output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--vary", "nonsense=3"), "vary must be OPTION=A,B,... with one of alone-ttl, coherence, cold-start,"),
        (("--vary", "consistent=1"), "vary must be OPTION=A,B,..."),
        (("--vary", "rate"), "vary must be OPTION=A,B,..."),
        (("--vary", "rate=fast"), "rate cannot be varied to 'fast'"),
        (("--vary", "routing=fast"), "routing must be one of newest, oldest, recent, rested, random; got 'fast'"),
        (("--rate", "0"), "rate must be a finite number above zero, at most 1,000,000,000; got 0.0"),
        (("--up-to", "1e308"), "up-to must be a finite number above zero, at most 1,000,000,000; got 1e+308"),
        (("--l2-spread", "-1"), "l2-spread must be a finite number of zero or more, at most 10; got -1.0"),
        (("--l2-spread", "1e6"), "l2-spread must be a finite number of zero or more, at most 10; got 1000000.0"),
        (("--origin-spread", "11"), "origin-spread must be a finite number of zero or more, at most 10; got 11.0"),
        (("--service-spread", "1e308"), "service-spread must be a finite number of zero or more, at most 10;"),
        (("--l1-time", "-1"), "l1-time must be a finite duration zero or more"),
        (("--l2-ttl", "1e308"), "l2-ttl must be at most 1,000,000,000 s; got 1e+308"),
        (("--l2-stale", "-1"), "l2-stale must be a finite duration zero or more"),
        (("--warm", "2000"), "warm must be at most 1000, as many as there may be at once; got 2000"),
        (("--jitter", "2"), "jitter must be a share, from 0 to 1; got 2.0"),
        (("--l2-time", "soon"), "l2-time must be a finite duration zero or more"),
        (("--ttl", "0"), "ttl must be a finite duration above zero"),
        (("--memory", "1"), "memory must be a whole number of at least 128; got 1"),
        (("--zipf", "-1"), "zipf must be a finite number of zero or more; got -1.0"),
        (("--containers", "0"), "containers must be a whole number of at least 1; got 0"),
        (("--prices", "absent.toml"), "prices must be a file of TOML such as"),
        (("--repeat", "0"), "repeat must be a whole number of at least 1; got 0"),
        (("--jobs", "0"), "jobs must be a whole number of at least 1; got 0"),
        (("--up-to", "0"), "up-to must be a finite number above zero, at most 1,000,000,000; got 0.0"),
        (
            ("--vary", "origin=s3,athena", "--vary", "origin=free"),
            "vary must name each option once; origin is there again",
        ),
        (("--up-to", "5", "--no-l2"), "up-to must not be given with --no-l2, by which no such traffic is looked for"),
        (("--up-to", "5", "--no-answer"), "up-to must not be given with --no-answer, by which"),
        (("--trace", "absent.csv"), "trace must be a CSV file of requests; absent.csv is not"),
    ],
)
def test_what_cannot_be(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str) -> None:
    """The error names the option, what was given, and what is allowed."""
    assert text in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ([20.0, 40.0, 30.0], "From about 30 requests/s on the Redis pays at these prices (20 to 40 in 3 runs)."),
        ([1234.0], "From about 1,234 requests/s on the Redis pays at these prices (one run)."),
        ([None, None], "The Redis does not pay up to 2,000 requests/s at these prices (2 runs)."),
        ([900.0, None], "The Redis pays from 900 to above 2,000 requests/s on (2 runs disagree)."),
        ([0.1, 0.1], "The Redis pays at these prices, from 0.1 requests/s on at the latest (2 runs)."),
    ],
)
def test_the_answer_in_words(rates: list[float | None], text: str) -> None:
    """With the spread over the runs, and no more than they show."""
    case = Case("", Scenario(), Workload())
    assert str(Answer(case, rates, 0.1, 2_000.0)) == text
    assert str(Answer(case, rates, 0.1, 2_000.0, [Refused(0.0, 0.0)] * len(rates))) == text


def test_an_answer_about_fleets_that_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    """Both shares are told, in a table of many cases too; where nobody is refused there is no word of it."""
    case = Case("", Scenario(), Workload())
    assert str(Answer(case, [20.0, 30.0], 0.1, 100.0, [Refused(0.25, 0.0), Refused(0.5, 0.0001)])).endswith(
        " Containers run out: 50.0% of the requests without it and <0.1% with it are refused there; "
        "costs are those of an answered request."
    )
    few = ("--containers", "1", "--origin", "athena", "--origin-time", "1", "--up-to", "5", "--rate", "5")
    output = told(capsys, *few, "--vary", "memory=512,1024")
    assert output.count("refused there") == 2
    assert re.search(r"p99 +refused", output)
    assert "refused" not in told(capsys, "--vary", "memory=512,1024", "--up-to", "1")


def test_a_narrow_terminal_cuts_no_figure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same figures as in a wide one, in both kinds of tables."""
    for arguments in (("--no-answer",), ("--no-answer", "--vary", "rate=1,2")):
        figures = []
        for columns in ("200", "30"):
            monkeypatch.setenv("COLUMNS", columns)
            figures.append(re.findall(r"\d[\d.,]*", told(capsys, *arguments)))
        assert figures[0] == figures[1]


def test_a_reader_that_has_seen_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """`head` ends before all is told: no traceback, here or when Python ends."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(options(("--json", "--no-answer"))) == 1


def test_an_interrupt_ends_the_workers() -> None:
    """At once, whatever they are at and whatever is still to be done."""
    before = active_children()

    def interrupted() -> None:
        with _workers(2) as mapped:
            mapped(time.sleep, [600.0] * 5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert active_children() == before


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (_rate(99.7), "100"),
        (_rate(0.0949), "0.095"),
        (_rate(1234.4), "1,234"),
        (_digits(1e9, 3), "1,000,000,000"),
        (_digits(12.34, 3), "12.3"),
        (_digits(0.0, 3), "0"),
        (_digits(1e-6, 3), "0.000001"),
        (_digits(1e-99, 3) + " loads", "0 loads"),
        (_time(0.9996), "1 s"),
        (_time(0.99949), "999 ms"),
        (_time(2e-6), "0.002 ms"),
        (_time(12_345.6), "12,346 s"),
        (_share(0.0), "0.0%"),
    ],
)
def test_figures_are_written_out(shown: str, text: str) -> None:
    """Never as a power of ten."""
    assert shown == text
