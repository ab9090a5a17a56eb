"""The report is one page without a network, and a real browser shows its figures: wide, on a phone, and dark."""

import html
import html.parser
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from tiered_cache._command import main
from tiered_cache.benchmarks import plots, report, results
from tiered_cache.benchmarks.harness import Timing, figure, results_of
from tiered_cache.benchmarks.results import Document

pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plots")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
MACHINE = {
    "python": "CPython 3.11",
    "system": "Linux",
    "processor": "a <processor> & more",
    "cores": 2,
    "usable_cores": 2,
    "megahertz": None,
    "load": 0.5,
    "at": "2026-01-01T00:00:00Z",
    "versions": {"redis": "8.1.0", "theine": None},
}


LONG = ("a name with no room for another beside it", "and another, which is about as long as that")


def timed(group, **facts):
    base = Timing("redis-py", [1e-4, 1.1e-4, 1.2e-4], [1e-4 + 1e-6 * n for n in range(2_000)])
    ours = Timing("tiered_cache", [2e-4, 2.2e-4, 2.4e-4], [2e-4 + 1e-6 * n for n in range(2_000)])
    again = Timing("redis-py, again", [1e-4, 1.1e-4, 1.3e-4], [1e-4 + 1e-6 * n for n in range(2_000)])
    return results_of(group, [base, ours, again], "redis-py", {"tiered_cache": 1.1}, **facts)


def document():
    ratios = [{"suite": "peers"}, {"curve": "Hit ratio of <web07>", "axis": "share of the keys", "suite": "hitratio"}]
    found = timed("L2 hit", **ratios[0])
    for size in (0.01, 0.05, 0.2):
        for number, name in enumerate(("tiered_cache s3fifo", "lru", "theine")):
            found.append(figure(f"web07, {size:.0%}", name, 0.3 + size + number / 50, "share", at=size, **ratios[1]))
    for entries in (1_000, 1_000_000):
        grows = {"curve": "As it grows", "at": entries, "axis": "entries", "suite": "tiers"}
        first, last = (figure(f"{entries} entries", name, 3e-4, "s", **grows) for name in LONG)
        found += [first, *timed(f"{entries} entries", **grows), last]
    loads = [("tiered_cache", 1), ("functools.lru_cache", 50), ("a name of <b>markup</b>", 50)]
    found += [figure("stampede", name, count, "loads", suite="peers", budget=1) for name, count in loads]
    found += [figure("outage", "tiered_cache", 1e-3, "s", suite="faults", budget=0.25)]  # the budget is far off
    found += [figure("outage", "a_name_that_has_no_place_at_which_it_could_be_broken", 1e-3, "s", suite="faults")]
    found += [
        figure("inserts", "held", 16e6, "bytes", suite="memory"),
        figure("inserts", "one", 5e-5, "s", suite="memory"),
    ]
    return Document(MACHINE, False, found, {}, {"tiers.tls": "no certificates"}, {})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write_html(document(), path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Runs a headless browser on the page with more arguments, and gives what it printed."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser on the PATH: none of {', '.join(BROWSERS)}")
    home = tmp_path_factory.mktemp("browser")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    quiet += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={home}"]

    def run(path, *arguments):
        ran = subprocess.run(
            [found, *quiet, *arguments, path.as_uri()],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"HOME": str(home)},
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


class Page(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its ids."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)
        self.ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def count(self, tag, **wanted):
        return sum(found == tag and wanted.items() <= attributes.items() for found, attributes in self.elements)


PLOTS = 8
"""Curves: 2. L2 hit: ratios and distribution. Stampede and outage: 1 each. Inserts: one of bytes and one of seconds."""


def test_the_page_needs_nothing_but_itself(page):
    """No script, style sheet, font or picture from elsewhere; no id twice; what was measured is text and no markup."""
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in found.elements}
    assert not re.search(r"url\((?!#)|@import", text)
    pointed = [value for _, attributes in found.elements for name, value in attributes.items() if name.endswith("href")]
    assert all(value.startswith("#") for value in pointed)
    assert len(found.ids) == len(set(found.ids))
    assert "<b>markup" not in text
    assert found.count("svg", role="img") == PLOTS


def test_the_plots_take_their_colours_from_the_page(page):
    """So that the same plot is read in the dark, by day and on paper."""
    drawn = "".join(re.findall(r"<svg.*?</svg>", page.read_text(encoding="utf-8"), re.DOTALL))
    assert "var(--ours)" in drawn
    assert "var(--budget)" in drawn
    assert not re.search(r"#0\d0\d0\d|#1\d1\d1\d", drawn)


def test_budgets_and_what_is_missing_stand_on_the_page(page):
    """With the word on each."""
    text = page.read_text(encoding="utf-8")
    assert "ABOVE 1.1x" in text
    assert "tiers.tls: no certificates" in text
    assert "not installed: theine" in text
    assert "<td>redis-py, 1,000,000 entries</td>" in text


def test_the_figures_of_a_curve_are_read_as_it_is(tmp_path):
    """No column that says nothing; shares as on its axis; and who cannot be seen there, since another lies upon it."""
    along = {"curve": "Hit ratio", "axis": "share of the keys", "suite": "hitratio"}
    points = [
        figure(f"Hit ratio at {at}", name, at * worth, "share", at=at, **along)
        for at in (0.05, 0.2)
        for name, worth in (("lru", 2), ("fifo", 1.5), ("lru with a TTL", 2))
    ]
    report.write_html(Document(MACHINE, False, points), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<table><tr><th></th><th>median</th></tr><tr><td>lru, 5% of the keys</td><td>10.00%</td></tr>" in text
    assert "One line: lru, lru with a TTL.<" in text


def test_a_unit_stays_in_the_line_of_its_number(page):
    """On a phone, where there is room for one word in a column."""
    text = page.read_text(encoding="utf-8")
    assert "<td>within 250&nbsp;ms</td>" in text
    assert "&nbsp;µs to " in text


@pytest.mark.parametrize("unit", ["cents", "s", "hits/s"])
def test_what_is_a_little_more_looks_so(unit):
    """The axis begins at zero."""
    points = [figure("g", "a", value, unit, curve="c", at=at, axis="x") for at, value in ((1, 0.69), (2, 0.6))]
    assert ">0</text>" in plots.curves(points, plots.lines_of(points))


def test_a_name_has_the_same_line_in_each_figure():
    """Whoever else is in it: no two of a figure are alike, and what is ours has the first line."""

    def points(curve, *names):
        return [figure("g", name, 0.5, "share", curve=curve, at=1, axis="x") for name in names]

    policies = [f"policy {number}" for number in range(9)]
    few, many = points("few", "theine", "tiered_cache lru"), points("many", *policies, "tiered_cache lru")
    other = points("other", "dict", "tiered_cache")
    lines = plots.lines_of([*few, *many, *other])
    assert lines["tiered_cache lru"] == lines["tiered_cache"]
    for curve in (few, many, other):
        drawn = {tuple(lines[point.name].values()) for point in curve}
        assert len(drawn) == len(curve)
    assert lines["tiered_cache"] == {"color": plots.SERIES[0], "linestyle": "-"}


def test_a_browser_shows_each_figure(page, browser):
    """In the document that it made of the page, with a title for those who cannot see it."""
    shown = Page(browser(page, "--dump-dom"))
    assert shown.count("figure") == 6
    assert shown.count("svg", role="img") == PLOTS
    assert shown.count("title") == PLOTS + 1


def test_on_a_narrow_phone_no_table_is_cut(page, browser, tmp_path):
    """In a frame of 390 px, for a browser without a window lays out none that is narrower than 500."""
    for details in ("<details>", "<details open>"):
        inner = page.read_text(encoding="utf-8").replace("<details>", details)
        frame = (
            f'<iframe style="width: 390px; height: 800px; border: 0" srcdoc="{html.escape(inner)}" onload="look(this)">'
        )
        script = """<script>function look(frame) {
            const inner = frame.contentDocument, wide = [...inner.querySelectorAll(".wide")];
            const seen = [inner.documentElement, ...wide].map(one => [one.clientWidth, one.scrollWidth]);
            document.title = JSON.stringify(seen) }</script>"""
        (tmp_path / "frame.html").write_text(f"<title></title>{script}<body>{frame}</iframe>", encoding="utf-8")
        (title,) = re.findall("<title>(.*?)</title>", browser(tmp_path / "frame.html", "--dump-dom"))[:1]
        whole, *tables = json.loads(title)
        assert whole == [390, 390]
        assert len(tables) == 7
        assert [clear for clear, needed in tables if needed > clear] == []


def test_on_a_narrow_phone_no_label_of_a_plot_is_cut(page, browser, tmp_path):
    """Legends included, with long names in both columns."""
    frame = f'<iframe style="width: 390px; height: 800px; border: 0" srcdoc="{html.escape(page.read_text("utf-8"))}"'
    script = """<script>function look(frame) {
        const seen = [];
        for (const plot of frame.contentDocument.querySelectorAll("svg.plot")) {
            const whole = plot.getBoundingClientRect();
            for (const text of plot.querySelectorAll("text")) {
                const box = text.getBoundingClientRect();
                seen.push([text.textContent, box.left - whole.left, whole.right - box.right]) } }
        document.title = JSON.stringify(seen) }</script>"""
    text = f"<title></title>{script}<body>{frame} onload='look(this)'></iframe>"
    (tmp_path / "frame.html").write_text(text, encoding="utf-8")
    (title,) = re.findall("<title>(.*?)</title>", browser(tmp_path / "frame.html", "--dump-dom"))[:1]
    labels = json.loads(html.unescape(title))
    assert set(LONG) <= {label for label, _, _ in labels}
    assert [label for label, left, right in labels if min(left, right) < -1] == []


@pytest.mark.parametrize(
    ("width", "arguments"),
    [(1200, []), (500, []), (1200, ["--blink-settings=preferredColorScheme=0"])],
    ids=["wide", "phone", "dark"],
)
def test_a_browser_takes_a_picture(page, browser, tmp_path, width, arguments):
    """The page has the background that it is to have, and something on it; on a phone nothing sticks out to the right."""
    picture = tmp_path / "page.png"
    browser(page, f"--window-size={width},1600", f"--screenshot={picture}", *arguments)
    from matplotlib.image import imread

    seen = imread(picture)[:, :, :3]
    assert seen.shape[:2] == (1600, width)
    assert seen[2, 2].mean() < 0.2 if arguments else seen[2, 2].mean() > 0.9
    assert (abs(seen - seen[2, 2]).max(axis=2) > 0.3).mean() > 0.02
    assert (abs(seen[:, -8:] - seen[2, 2]).max(axis=2) < 0.1).all()


def test_the_command_writes_page_and_tables(tmp_path):
    """From results of another day."""
    results.write(document(), tmp_path / "results.json")
    told = ["bench", "--from", str(tmp_path / "results.json")]
    assert main([*told, "--report", str(tmp_path / "page.html"), "--markdown", str(tmp_path / "tables.md")]) == 0
    assert "<svg" in (tmp_path / "page.html").read_text(encoding="utf-8")
    tables = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "| **tiered_cache** | 1.2 ms | 700 µs to 1.7 ms | 2.18 ms | 2.00x | ABOVE 1.1x |" in tables
    assert "The base beside itself: within 4.2%" in tables
    assert "## Hit ratios\n\n**Hit ratio of <web07>**\n\n| share of the keys | 1% | 5% | 20% |" in tables
    assert "| tiered_cache s3fifo | 31.00% | 35.00% | 50.00% |" in tables


def test_what_was_not_measured_stands_in_the_tables_too(tmp_path):
    """Each part in a line, whatever was raised; and where nothing has a budget, no page has a table of none."""
    nothing = Document(
        MACHINE, False, [], {}, {"tiers.tls": "no certificates"}, {"peers.l1": "KeyError: of\ntwo lines"}
    )
    told = "## Not measured\n\n- tiers.tls: no certificates\n- peers.l1: failed: KeyError: of two lines\n"
    assert report.markdown(nothing).endswith(told)
    assert "Not measured" not in report.markdown(replace(nothing, skipped={}, failed={}))
    report.write_html(nothing, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<li>peers.l1: failed: KeyError: of two lines</li>" in text
    assert "Budgets" not in text


def test_the_noise_of_a_curve_is_that_of_its_noisiest_point(tmp_path):
    """Others were as quiet as they were."""
    points = [
        replace(point, noise=noise)
        for at, noise in ((100, 0.03), (600, 0.33), (10_000, 0.02))
        for point in timed(f"{at} bytes", curve="As values grow", at=at, axis="bytes", suite="tiers")
    ]
    report.write_html(Document(MACHINE, False, points), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The base beside itself: within 33.0%" in text
    assert "too noisy for small differences" in text


def test_without_matplotlib_it_is_said_what_to_install(tmp_path, monkeypatch, capsys):
    """Before an hour of measuring."""
    monkeypatch.setattr(report, "find_spec", lambda _name: None)
    assert main(["bench", "--report", str(tmp_path / "page.html")]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err
