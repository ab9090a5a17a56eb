"""The command `tiered-cache`, as a person types it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tiered_cache._command import _examples, ended, main

ROOT = Path(__file__).parents[1]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "import sys; from tiered_cache._command import main; sys.exit(main())", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def patient(tmp_path):
    """The example that came with the package, but on a busy machine it waits for L2 and for a query, and so do its tests."""
    text = (_examples(None) / "three_origins.py").read_text(encoding="utf-8")
    for limit, longer in (("timeout=0.5", "timeout=60"), ("wait=60", "wait=600")):
        assert text.count(limit) == 1
        text = text.replace(limit, longer)
    (tmp_path / "three_origins.py").write_text(text, encoding="utf-8")
    return tmp_path


FIRST_ONLY = """
import pathlib, sys
try:
    pathlib.Path(__file__).with_name("first").touch(exist_ok=False)
except FileExistsError:
    sys.stdin.read()  # to its end, which comes with that of the demo
    sys.exit()
"""
"""In front of the example: the second container answers nothing."""


def test_the_demo_shows_each_tier_and_outlives_redis(patient):
    """A row for each origin, and answers after Redis was killed."""
    ran = run("demo", "--short", "--examples", str(patient))
    assert ran.returncode == 0, ran.stderr
    for content in ("S3, 1.2 MB", "DynamoDB, an item", "Athena, 200k rows"):
        assert content in ran.stdout
    after = ran.stdout.split("After Redis was killed")[1]
    assert after.count("origin") == 4
    assert "l1" in after


def test_ctrl_c_ends_the_demo_with_a_line(patient):
    """Sent to all processes of the terminal, as it sends it, before the demo can end; none of them has more to say."""
    example = patient / "three_origins.py"
    example.write_text(FIRST_ONLY + example.read_text(encoding="utf-8"), encoding="utf-8")
    heeds = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # what runs in the background may be told not to
    code = f"import signal, sys; {heeds}; from tiered_cache._command import main; sys.exit(main())"
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command += ["demo", "--short", "--examples", str(patient)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as demo:
        assert any(line.startswith("Container A: the same keys") for line in demo.stdout)
        os.killpg(demo.pid, signal.SIGINT)
        _, told = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert told == "tiered-cache: interrupted\n"


def test_a_folder_without_the_handler_is_named(tmp_path):
    """The error says what is missing, not where in our code."""
    ran = run("demo", "--short", "--examples", str(tmp_path))
    assert ran.returncode == 1
    assert ran.stderr.startswith("tiered-cache: there is no three_origins.py in")


def test_a_command_is_needed(capsys):
    """The usage names what there is."""
    with pytest.raises(SystemExit):
        main([])
    assert "demo" in capsys.readouterr().err


def test_what_a_benchmark_needs_is_named(capsys, monkeypatch):
    """In an install without extras, with what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    assert main(["bench", "l1"]) == 1
    assert "needs the package 'redis': pip install 'tiered-cache[local]'" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_reads_no_further_is_told_nothing(unbuffered):
    """As `head` does: nothing on stderr, neither of the command nor of Python's end."""
    reading, writing = os.pipe()
    os.close(reading)
    code = "import sys; from tiered_cache._command import main; sys.exit(main())"
    with os.fdopen(writing, "wb") as pipe:
        ran = subprocess.run(
            [sys.executable, "-c", code, "sessions", "--repeat", "1", "--json"],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (ran.returncode, ran.stderr) == (1, "")


def test_another_broken_pipe_is_told(capsys):
    """Such as that to a server which has gone."""

    def fails():
        raise BrokenPipeError(32, "Broken pipe")

    assert ended(fails, "tiered-cache") == 1
    assert capsys.readouterr().err == "tiered-cache: [Errno 32] Broken pipe\n"
