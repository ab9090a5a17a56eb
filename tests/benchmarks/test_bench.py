"""The command `tiered-cache bench`, as a person types it."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tiered_cache import OriginError
from tiered_cache._command import main
from tiered_cache.benchmarks import command, machine, measuring, results, suites
from tiered_cache.benchmarks.harness import Result, Skipped, figure, once
from tiered_cache.benchmarks.results import Document
from tiered_cache.local._needs import ServiceUnavailable

MISSED = Result(
    group="L1 hit", name="ours", unit="s", median=2e-7, low=2e-7, high=2e-7, ratio=50.0, base="dict", budget=7.0
)


def written(path, *found):
    results.write(Document(machine.facts(), False, list(found)), path)
    return str(path)


def test_a_quick_run_prints_tables_and_writes_results(tmp_path, capsys):
    """The machine first, then each part; the file holds what was printed."""
    file = tmp_path / "bench.json"
    assert main(["bench", "--quick", "--only", "growth,outage", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    document = results.read(file)
    assert document.machine["python"] in printed
    assert document.machine["versions"]["redis"] in printed
    assert set(document.seconds) == {"tiers.growth", "faults.outage"}
    assert {result.suite for result in document.results} == {"tiers", "faults"}
    for result in document.results:
        assert result.name in printed


def test_the_names_of_suites_and_parts_choose():
    """A suite, a part of one, or each part of that name."""
    assert {str(part) for part in suites.chosen(["memory"])} == {"memory.memory", "memory.inserts"}
    assert [str(part) for part in suites.chosen(["tiers.l2"])] == ["tiers.l2"]
    assert [str(part) for part in suites.chosen(["inserts", "memory.inserts"])] == ["memory.inserts"]
    assert suites.chosen([]) == list(suites.PARTS)


def test_a_name_that_means_nothing_is_answered_with_those_there_are(capsys):
    """Before anything is measured."""
    with pytest.raises(SystemExit):
        main(["bench", "--only", "speed"])
    assert "no suite 'speed'; there are tiers (origins" in capsys.readouterr().err


def test_what_is_written_is_read(tmp_path):
    """All of it, so that a report can be made another day."""
    whole = Result(
        group="g", name="n", unit="s", median=1.0, low=0.5, high=2.0, n=3, percentiles=((0, 0.5), (100, 2.0)), note="x"
    )
    document = Document(machine.facts(), True, [whole], {"p": 1.0}, {"q": "why"}, {})
    results.write(document, tmp_path / "file")
    assert results.read(tmp_path / "file") == document


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2, "results": []}', '{"format": 1, "results": [{"name": 1}]}']
)
def test_a_file_of_something_else_is_named(tmp_path, capsys, content):
    """And nothing is measured first."""
    (tmp_path / "file.json").write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["bench", "--compare", str(tmp_path / "file.json")])
    assert "file.json holds no results of `tiered-cache bench --json`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["machine"], None, "its machine is not described as it should be"),
        (["machine"], {"python": "x"}, "its machine is not described as it should be: KeyError: 'megahertz'"),
        (["machine", "at"], None, "its machine is not described as it should be"),
        (["machine", "versions"], ["redis"], "its machine is not described as it should be"),
        (["skipped"], None, "skipped cannot be None"),
        (["results", 0, "median"], None, "median cannot be None"),
        (["results", 0, "name"], 1, "name cannot be 1"),
        (["results", 0, "ratio"], "much", "ratio cannot be 'much'"),
    ],
)
@pytest.mark.parametrize("option", ["--from", "--compare"])
def test_results_that_cannot_be_shown_are_refused(tmp_path, capsys, option, path, value, said):
    """With what is wrong, instead of an error from within."""
    file = written(tmp_path / "file.json", MISSED)
    content = place = json.loads(Path(file).read_text(encoding="utf-8"))
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    Path(file).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["bench", option, file])
    assert f"file.json holds no results of `tiered-cache bench --json`: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json", "{}/nowhere/x.json"], "--json: the name of a file in a folder that is there is needed; got"),
        (["--report", "{}"], "--report: the name of a file in a folder that is there is needed; got"),
        (["--markdown", "-"], "--markdown: the name of a file in a folder that is there is needed; got '-'"),
        pytest.param(
            ["--report", "/proc/page.html"],
            "--report: a file that can be written is needed; got '/proc/page.html': ",
            marks=pytest.mark.skipif(
                not Path("/proc/self").exists(), reason="there is no /proc, where nobody may write"
            ),
        ),
        (["--report", "{}/one", "--markdown", "{}/./one"], "--report and --markdown need files of their own"),
        (
            ["--from", "{}/results.json", "--markdown", "{}/results.json"],
            "--from and --markdown need files of their own",
        ),
        (
            ["--traces", "{}/results.json", "--format", "lines", "--json", "{}/./results.json"],
            "--traces and --json need files of their own",
        ),
        (
            ["--compare", "{}/results.json", "--markdown", "{}/results.json"],
            "--compare and --markdown need files of their own",
        ),
        (["--traces", "{}/results.json", "hitratio"], "there is no file hitratio: a suite goes before --traces"),
        (["--from", "{}/results.json", "peers"], "--from takes all results as they are: no suites"),
        (["--from", "{}/results.json", "--json", "{}/x.json"], "no --json go with it"),
        (["--only", ","], "--only: at least one suite is needed; got ','"),
        (["--only", ""], "--only: at least one suite is needed; got ''"),
        (["--cpu", "0.5", "peers"], "--cpu is for tiers.cpu, which is not measured now"),
        (["--traces", "{}/results.json", "--only", "peers"], "--traces is for the suite hitratio"),
    ],
)
def test_what_cannot_be_is_said_before_an_hour_of_measuring(tmp_path, capsys, arguments, said):
    """And what would have no effect is refused, too."""
    written(tmp_path / "results.json", MISSED)
    with pytest.raises(SystemExit):
        main(["bench", *(argument.format(tmp_path) for argument in arguments)])
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert results.read(tmp_path / "results.json").results == [MISSED]


def test_to_look_whether_a_file_can_be_written_changes_none(tmp_path):
    """What is there stays as it is until there is something to write, and nothing is left behind."""
    (tmp_path / "there").write_text("kept", encoding="utf-8")
    assert [command.file(str(tmp_path / name)).name for name in ("there", "new")] == ["there", "new"]
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    "run", [lambda *rest: main(["bench", *rest]), lambda *rest: command.main(rest)], ids=("installed", "checkout")
)
def test_what_cannot_be_written_in_the_end_is_one_line(tmp_path, capsys, run):
    """As the folder that has gone meanwhile, or a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full, on which nothing can be written")
    assert run("--from", written(tmp_path / "file.json", MISSED), "--markdown", "/dev/full") == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "No space left" in told


def test_results_alone_are_printed(tmp_path, capsys):
    """As tables, where nothing else is to be made of them."""
    assert main(["bench", "--from", written(tmp_path / "file.json", MISSED)]) == 0
    assert "L1 hit" in capsys.readouterr().out
    kept = Result(group="L1 hit", name="ours", unit="s", median=1, low=1, high=1, ratio=5.0, base="dict", budget=7.0)
    assert main(["bench", "--from", written(tmp_path / "file.json", kept), "--check"]) == 0
    assert "No budget is missed" in capsys.readouterr().out


def test_the_results_of_each_part_are_kept_as_soon_as_it_is_done(tmp_path, monkeypatch, capsys):
    """So that an hour's figures do not go with the last part."""
    file = tmp_path / "file.json"

    def interrupted(*, quick):
        raise KeyboardInterrupt

    monkeypatch.setitem(suites.SUITES["tiers"], "growth", lambda *, quick: [figure("g", "n", 1, "loads")])
    monkeypatch.setitem(suites.SUITES["tiers"], "instructions", interrupted)
    assert main(["bench", "--only", "growth,instructions", "--json", str(file)]) == 130
    assert [result.name for result in results.read(file).results] == ["n"]
    assert capsys.readouterr().err == "tiered-cache: interrupted\n"
    assert command.main(["instructions"]) == 130
    assert capsys.readouterr().err == "python -m benchmarks: interrupted\n"


def test_results_that_cannot_be_written_are_told_and_the_measuring_goes_on(tmp_path, monkeypatch, capsys):
    """The file of a day before is whole until there is another, and the page is made all the same."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full, on which nothing can be written")
    monkeypatch.setitem(suites.SUITES["tiers"], "growth", lambda *, quick: [figure("g", "first", 1, "loads")])
    monkeypatch.setitem(suites.SUITES["tiers"], "instructions", lambda *, quick: [figure("g", "second", 2, "loads")])
    tables = tmp_path / "tables.md"
    asked = ["bench", "--only", "growth,instructions", "--markdown", str(tables), "--json"]
    assert main([*asked, "/dev/full"]) == 1
    assert capsys.readouterr().err.count("could not be written: OSError: [Errno 28] No space left on device") == 2
    assert all(name in tables.read_text(encoding="utf-8") for name in ("first", "second"))
    assert main([*asked, str(tmp_path / "file.json")]) == 0
    assert not capsys.readouterr().err


def test_what_was_kept_before_stays_until_its_place_is_taken(tmp_path):
    """A write that ends half way leaves the file as it was, and nothing beside it."""
    resource = pytest.importorskip("resource", reason="no limit of a file's size can be set here")
    file = tmp_path / "file.json"
    written(file, MISSED)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            written(file, figure("g", "n", 1, "loads"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert results.read(file).results == [MISSED]
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_that_is_no_text_is_kept_too(tmp_path):
    """Errors name files, which may be called any bytes; they are read as they were, and shown as well as can be."""
    document = Document(machine.facts(), True, [MISSED], failed={"p": "there is no file bad\udcff.txt"})
    results.write(document, tmp_path / "file")
    assert results.read(tmp_path / "file") == document
    assert main(["bench", "--from", str(tmp_path / "file"), "--markdown", str(tmp_path / "tables")]) == 1
    assert "there is no file bad\\udcff.txt" in (tmp_path / "tables").read_text(encoding="utf-8")


def test_a_link_stays_one_and_rights_stay_as_they_were(tmp_path):
    """Only what the file holds is another."""
    (tmp_path / "folder").mkdir()
    file, link = tmp_path / "folder" / "file", tmp_path / "link"
    file.touch()
    file.chmod(0o640)
    link.symlink_to(file)
    written(link, MISSED)
    assert link.is_symlink()
    assert results.read(file).results == [MISSED]
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_pipe_and_an_open_file_are_written_as_they_are(tmp_path):
    """Whoever has the other end reads it there; nothing is put in the place of a device."""
    there, here = os.pipe()
    with os.fdopen(there, encoding="utf-8") as reader:
        written(Path(f"/dev/fd/{here}"), MISSED)
        os.close(here)
        assert json.load(reader)["results"][0]["name"] == "ours"
    with (tmp_path / "out").open("w+", encoding="utf-8") as out:
        written(Path(f"/dev/fd/{out.fileno()}"), MISSED)
        assert json.load(out)["results"][0]["name"] == "ours"


def test_check_fails_where_a_ratio_is_missed_by_a_wide_margin(tmp_path, capsys):
    """Exit code 1 and the reason; without --check it is only a table."""
    file = written(tmp_path / "file.json", MISSED)
    assert main(["bench", "--from", file]) == 0
    assert main(["bench", "--from", file, "--check"]) == 1
    assert "MISSED: L1 hit: ours: 50.00x, and the budget is 7" in capsys.readouterr().err


def test_check_tells_what_is_owed(tmp_path, capsys):
    """Nobody shall believe that all budgets are kept."""
    owed = replace(MISSED, name="tiered_cache get_many_or_load")
    assert main(["bench", "--from", written(tmp_path / "file.json", owed), "--check"]) == 0
    printed = capsys.readouterr().out
    assert "owed: L1 hit: tiered_cache get_many_or_load: 50.00x, and the budget is 7: docs/decisions/0013" in printed
    assert "No other budget is missed" in printed


def test_check_fails_where_nothing_has_a_budget(tmp_path, capsys):
    """Nothing was checked then: all parts may have been skipped."""
    file = written(tmp_path / "file.json", figure("outage", "first", 9.0, "s", budget=1.0))
    assert main(["bench", "--from", file, "--check"]) == 1
    told = capsys.readouterr()
    assert "Nothing was measured that has a budget" in told.err
    assert "No budget" not in told.out


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ImportError("no", name="theine"), "skipped"),
        (ServiceUnavailable("no valkey-server"), "skipped"),
        (ModuleNotFoundError("no", name="tiered_cache._no_such"), "failed"),
        (ImportError("no", name="tiered_cache"), "failed"),
        (OriginError("no"), "failed"),
    ],
    ids=repr,
)
def test_what_the_machine_lacks_is_skipped_and_what_the_library_raises_is_a_failure(monkeypatch, error, kind):
    """A part that no longer works must not look like one that cannot be measured here."""

    def raises(*, quick):
        raise error

    monkeypatch.setitem(suites.SUITES, "trial", {"part": raises})
    document = measuring.measure([suites.Part("trial", "part")], quick=True)
    assert [list(document.skipped), list(document.failed)] == [
        ["trial.part"] * (kind == each) for each in ("skipped", "failed")
    ]


def test_compare_prints_then_and_now(tmp_path, capsys):
    """From two files, without measuring."""
    then = written(tmp_path / "then.json", figure("stampede", "ours", 1, "loads"))
    now = written(tmp_path / "now.json", figure("stampede", "ours", 3, "loads"))
    assert main(["bench", "--from", now, "--compare", then]) == 0
    assert "WORSE" in capsys.readouterr().out
    assert main(["bench", "--from", written(tmp_path / "now.json", MISSED), "--compare", then]) == 1
    assert "Nothing can be compared" in capsys.readouterr().out


def test_a_part_that_fails_or_cannot_be_measured_leaves_the_others_alone(monkeypatch, capsys):
    """An hour of measuring is not lost by its last minute."""

    def fails(*, quick):
        raise ZeroDivisionError("no ratio")

    def cannot(*, quick):
        raise Skipped("no such machine")

    def works(*, quick):
        return [figure("group", "name", 1, "loads")]

    monkeypatch.setitem(suites.SUITES, "trial", {"fails": fails, "cannot": cannot, "works": works})
    document = measuring.measure([suites.Part("trial", name) for name in ("fails", "cannot", "works")], quick=True)
    assert document.failed == {"trial.fails": "ZeroDivisionError: no ratio"}
    assert document.skipped == {"trial.cannot": "no such machine"}
    assert [(result.suite, result.name) for result in document.results] == [("trial", "name")]
    assert "trial.cannot is skipped: no such machine" in capsys.readouterr().out


def test_what_is_done_on_purpose_is_not_warned_of(monkeypatch, capsys, caplog):
    """A server that is killed, say; and afterwards the library warns as before. What is skipped is told once in a run."""

    def provokes(*, quick):
        logging.getLogger("tiered_cache.l2").warning("L2 is left alone for now")
        once("a peer is skipped")
        return []

    monkeypatch.setitem(suites.SUITES, "trial", {"first": provokes, "second": provokes})
    for _ in range(2):
        measuring.measure([suites.Part("trial", name) for name in ("first", "second")], quick=True)
        assert capsys.readouterr().out.count("a peer is skipped") == 1
    assert not caplog.records
    logging.getLogger("tiered_cache.l2").warning("L2 is left alone")
    assert len(caplog.records) == 1
