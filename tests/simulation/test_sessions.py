"""Who served whom: the figures of the session experiment, by hand and against what is known."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from math import isnan
from pathlib import Path
from statistics import fmean

import pytest

from tiered_cache._command import main
from tiered_cache.simulation import (
    Containers,
    Experiment,
    Request,
    expected_hit_rate,
    sessions,
    simulated,
)

ROOT = Path(__file__).parents[2]
PUBLISHED = [0.63, 0.38, 0.41, 0.45, 0.47, 0.26, 0.46, 0.42, 0.43, 0.36]


def test_the_figures_of_a_few_requests() -> None:
    """Shares by user, how often the container was the last one's, and what L1 had."""
    found = sessions(
        [
            Request("ann", "A", False, 0.3),
            Request("bob", "A", False, 0.2),
            Request("ann", "B", False, 0.3),
            Request("ann", "B", True, 0.1),
            Request("ann", "A", True, 0.1),
            Request("bob", "A", True, 0.1),
            Request("ann", "A", True, 0.1),
        ]
    )
    assert found.shares == {"ann": {"A": 3 / 5, "B": 2 / 5}, "bob": {"A": 1.0}}
    assert found.best_shares == {"ann": 0.6, "bob": 1.0}
    assert found.mean_best_share == 0.8
    assert found.again == 3 / 5
    assert found.l1_hit_rate == 4 / 7
    assert found.seconds == 0.1
    assert (found.requests, found.containers) == (7, 2)


def test_nobody_came_twice() -> None:
    """Then nothing can be said of coming back."""
    assert isnan(sessions([Request("ann", "A", False), Request("bob", "A", False)]).again)


def test_shares_lead_to_hit_rates() -> None:
    """One container: x / (1 + x). Two halves: each with half of the requests."""
    assert expected_hit_rate([1.0], rate=2.0, ttl=3) == 6 / 7
    assert expected_hit_rate([0.5, 0.5], rate=2.0, ttl=3) == pytest.approx(3 / 4)
    assert expected_hit_rate([], rate=2.0, ttl=3) == 0


def test_a_session_is_a_hit_wherever_its_user_was_before() -> None:
    """As long as its TTL has not passed: the first request to each container misses, all others hit."""
    for routing in ("newest", "random"):
        run = simulated(Experiment(containers=Containers(routing=routing)), seed=3)
        first = sum(len(shares) for shares in run.shares.values())
        assert run.l1_hit_rate == (run.requests - first) / run.requests


def test_newest_and_oldest_are_alike() -> None:
    """Each prefers one container to the next, and who was first does not matter: the shares cannot tell them apart."""
    newest, oldest = (
        fmean(
            simulated(Experiment(containers=Containers(routing=routing)), seed).mean_best_share for seed in range(100)
        )
        for routing in ("newest", "oldest")
    )
    assert abs(newest - oldest) < 0.01


def test_the_published_shares_are_within_reach() -> None:
    """Routing to the newest with a service time of 0.1 s has the published mean within its spread; taking turns has not."""

    def means(routing: str) -> list[float]:
        return sorted(
            simulated(Experiment(service=0.1, containers=Containers(routing=routing)), seed).mean_best_share
            for seed in range(100)
        )

    newest, rested = means("newest"), means("rested")
    assert newest[5] < fmean(PUBLISHED) < newest[-5]
    assert rested[-1] < fmean(PUBLISHED)


# The command


def test_a_narrow_terminal_cuts_no_figure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is the same in a narrow terminal as in a wide one."""
    tables = []
    for columns in ("200", "30"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["sessions", "--users", "3"]) == 0
        tables.append(re.findall(r"\d+\.\d+", capsys.readouterr().out))
    assert tables[0] == tables[1]


def test_the_command_gives_the_same_as_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    """Each option gets where it belongs, and the same seed gives the same run."""
    options = (
        "--users 4 --seconds 20s --pause 0.5 --service 80ms --spread 0.3 --apart --routing random --containers 3"
        " --warm 2 --cold-start 0.4 --ttl 5s --seed 7 --repeat 2"
    )
    code = main(["sessions", *shlex.split(options), "--json"])
    assert code == 0
    experiment = Experiment(
        users=4,
        lasts=20,
        pause=0.5,
        service=0.08,
        spread=0.3,
        ttl=5,
        together=False,
        containers=Containers(most=3, warm=2, cold_start=0.4, routing="random"),
    )
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"simulator"}
    for run, seed in zip(printed["simulator"], (7, 8), strict=True):
        expected = simulated(experiment, seed)
        assert run["best_shares"] == {str(user): share for user, share in expected.best_shares.items()}
        assert run["mean_best_share"] == expected.mean_best_share
        assert run["again"] == expected.again
        assert run["l1_hit_rate"] == expected.l1_hit_rate
        assert run["median_seconds"] == expected.seconds
        assert (run["requests"], run["containers"]) == (expected.requests, expected.containers)


def test_the_table_has_each_user_and_the_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    """A column for each run, and the means."""
    assert main(["sessions", "--users", "3", "--repeat", "2"]) == 0
    printed = capsys.readouterr().out
    assert "seed 1" in printed
    assert "seed 2" in printed
    runs = [simulated(Experiment(users=3), seed) for seed in (1, 2)]
    for user in range(3):
        shares = [run.best_shares[user] for run in runs]
        expected = [f"user {user + 1}", *(f"{share:.2f}" for share in (*shares, fmean(shares)))]
        assert any(line.split() == " ".join(expected).split() for line in printed.splitlines())
    assert "all users, mean" in printed
    assert "answered by L1" in printed


def test_figures_that_are_not_known_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no NaN."""
    assert main(["sessions", "--users", "1", "--seconds", "0.1", "--repeat", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["simulator"][0]["again"] is None


@pytest.mark.parametrize(
    ("option", "given", "text"),
    [
        ("--users", "0", "users must be a whole number of at least 1; got 0"),
        ("--seconds", "soon", "seconds must be a finite duration above zero"),
        ("--containers", "0", "containers must be a whole number of at least 1; got 0"),
        ("--cold-start", "-1", "cold-start must be a finite duration zero or more"),
        ("--routing", "best", "routing must be one of newest, oldest, recent, rested, random; got 'best'"),
        ("--repeat", "0", "repeat must be a whole number of at least 1; got 0"),
        ("--spread", "nan", "spread must be a finite number of zero or more, at most 10; got nan"),
        ("--spread", "1e5", "spread must be a finite number of zero or more, at most 10; got 100000.0"),
        ("--service", "1e308", "service must be at most 1,000,000,000 s; got 1e+308"),
    ],
)
def test_an_option_that_cannot_be(option: str, given: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says which, and what is allowed."""
    assert main(["sessions", option, given]) == 1
    assert capsys.readouterr().err.startswith(f"tiered-cache: {text}")


def test_an_experiment_that_ends_before_anybody_asks(capsys: pytest.CaptureFixture[str]) -> None:
    """The first pause of the one user is longer: nothing can be said, in a line."""
    options = "--users 1 --apart --pause 1h --seconds 1ms --repeat 1 --json"
    assert main(["sessions", *options.split()]) == 1
    told = capsys.readouterr()
    assert told.err == "tiered-cache: seconds must be long enough for a request; nobody came to one in 1ms\n"
    assert not told.out


def test_json_needs_nothing_but_the_library() -> None:
    """The simulator imports none of the packages of the local services, nor any of the tiers."""
    program = (
        "import sys; from tiered_cache._command import main; main(['sessions', '--json', '--repeat', '1'])\n"
        "print(sorted({'rich', 'redis', 'boto3', 'cachetools', 'msgpack', 'awslambdaric'} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.stderr == "[]\n"


def test_the_simulator_knows_the_rules_and_units_alone() -> None:
    """Besides what the package itself imports; a list of what is forbidden would miss the next module."""
    program = (
        "import sys, tiered_cache; before = set(sys.modules); import tiered_cache.simulation\n"
        "print(*sorted(name for name in set(sys.modules) - before if name.startswith('tiered_cache.')))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    others = [name for name in ran.stdout.split() if not name.startswith("tiered_cache.simulation")]
    assert set(others) <= {"tiered_cache._errors", "tiered_cache._rules", "tiered_cache._units"}
