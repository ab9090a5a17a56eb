"""The results as one page that needs no network, and as Markdown tables."""

from html import escape
from importlib.util import find_spec
from pathlib import Path
from string import Template

from tiered_cache.benchmarks import files, machine
from tiered_cache.benchmarks.harness import AGAIN, noise_of, shown, times, verdict

TEMPLATE = Path(__file__).with_name("report.html")
SUITES = {
    "tiers": "The tiers",
    "peers": "Beside other caches",
    "coldstart": "Cold starts and invocations",
    "memory": "Memory",
    "hitratio": "Hit ratios",
    "fleet": "A fleet of containers",
    "faults": "Faults",
}


def need_plots():
    """Raises ImportError, which says what to install, where there is no matplotlib."""
    if find_spec("matplotlib") is None:
        raise ImportError("the report's plots are drawn by matplotlib: pip install matplotlib", name="matplotlib")


def write_html(document, path):
    """Write the page."""
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        machine=escape(machine.line(document.machine)),
        at=escape(document.machine.get("at", "")),
        quick="A quick run: few rounds, so only a look." if document.quick else "",
        budgets=_budgets(document.results),
        suites="\n".join(_suite(name, _of_suite(document, name)) for name in _suites(document)),
        missing=_missing(document),
    )
    files.put(page, path)


def markdown(document):
    """A table for each group, for a README."""
    lines = [f"Measured on {machine.line(document.machine)}.", ""]
    for suite in _suites(document):
        lines += [f"## {SUITES.get(suite, suite)}", ""]
        of_suite = _of_suite(document, suite)
        along = {curve: found for curve, found in _groups_by_curve(of_suite).items() if found[0].ratio is None}
        for curve, results in along.items():
            lines += [f"**{curve}**", "", *_markdown_along(results), ""]
        for group, results in _groups(of_suite).items():
            if results[0].curve not in along:
                lines += [f"**{group}**", "", *_markdown_rows(results), ""]
    if reasons := _reasons(document):
        lines += ["## Not measured", "", *(f"- {part}: {reason}" for part, reason in reasons.items()), ""]
    return "\n".join(lines)


def _spread(result, told=shown):
    return f"{told(result.low, result.unit)} to {told(result.high, result.unit)}" if result.n > 1 else ""


MARKDOWN = {
    "": lambda result: f"**{result.name}**" if result.budget else result.name,
    "median": lambda result: shown(result.median, result.unit),
    "p25 to p75": _spread,
    "p99": lambda result: "" if result.percentile(99) is None else shown(result.percentile(99), result.unit),
    "ratio": lambda result: "" if result.ratio is None else times(result.ratio),
    "budget": lambda result: verdict(result).strip(),
    "note": lambda result: result.note,
}
"""The columns, of which a table has those that say something."""


def _markdown_rows(results):
    rows = _filled([{heading: cell(result) for heading, cell in MARKDOWN.items()} for result in results])
    yield "|" + "|".join(f" {heading} " if heading else " " for heading in rows[0]) + "|"
    yield "|" + " --- |" * len(rows[0])
    for row in rows:
        yield "| " + " | ".join(row.values()) + " |"
    if noise_of(results):
        yield from ("", noise_of(results))


def _markdown_along(results):
    """A row for each name, and a column for each place along the curve."""
    places = sorted({result.at for result in results})
    at = {(result.name, result.at): shown(result.median, result.unit) for result in results}
    heads = [f"{place:.0%}" if place < 1 else f"{place:,.12g}" for place in places]
    yield f"| {results[0].axis} | {' | '.join(heads)} |"
    yield "|" + " --- |" * (len(places) + 1)
    for name in dict.fromkeys(result.name for result in results):
        yield f"| {name} | {' | '.join(at.get((name, place), '') for place in places)} |"


def _budgets(results):
    """The table of budgets, where any was measured."""
    rows = "\n".join(_budget_row(result) for result in results if result.budget is not None)
    head = "<tr><th></th><th>measured</th><th>budget</th><th></th></tr>"
    whole = f'<section id="budgets"><h2>Budgets</h2>\n<div class="wide"><table>{head}\n{rows}\n</table></div></section>'
    return whole if rows else ""


def _budget_row(result):
    word, limit = verdict(result).strip(), _budget(result)
    kind = "missed" if word.startswith("ABOVE") else "kept"
    what = f"{escape(result.group)}<br><small>{escape(result.name)}</small>"
    word = escape(word).replace(limit, _in_one_line(limit))
    return f'<tr class="{kind}"><td>{what}</td><td>{_measured(result)}</td><td>{limit}</td><td>{word}</td></tr>'


def _measured(result):
    return shown(result.median, result.unit) if result.ratio is None else times(result.ratio)


def _budget(result):
    return shown(result.budget, result.unit) if result.ratio is None else f"{result.budget:g}x"


def _suites(document):
    found = {result.suite for result in document.results}
    return [name for name in SUITES if name in found] + sorted(found - SUITES.keys())


def _of_suite(document, name):
    return [result for result in document.results if result.suite == name]


def _groups(results):
    groups = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    return groups


def _suite(name, results):
    from tiered_cache.benchmarks import plots

    parts = [f'<section id="{escape(name)}"><h2>{escape(SUITES.get(name, name))}</h2><div class="figures">']
    of_curves = _groups_by_curve(results)
    lines = plots.lines_of([point for points in of_curves.values() for point in points])
    parts += [_figure(curve, plots.curves(points, lines), points) for curve, points in of_curves.items()]
    for group, found in _groups(results).items():
        if found[0].curve not in of_curves:
            parts += [_figure(group, "".join(_plots(plots, found)), found)]
    return "\n".join([*parts, "</div></section>"])


def _groups_by_curve(results):
    """The points of each curve; one point is none, and stays a group."""
    curves = {}
    for result in results:
        if result.curve and result.name != AGAIN.format(result.base):
            curves.setdefault(result.curve, []).append(result)
    return {curve: found for curve, found in curves.items() if len({result.at for result in found}) > 1}


def _plots(plots, results):
    once = [result for result in results if result.name != AGAIN.format(result.base)]
    for unit in dict.fromkeys(result.unit for result in once):
        found = [result for result in once if result.unit == unit]
        yield plots.ratio_bars(found) if all(result.ratio is not None for result in found) else plots.value_bars(found)
    if all(result.per == "call" and result.percentiles for result in once):
        yield plots.distributions(once)


def _figure(title, drawn, results):
    told = [f"{result.name}: {result.note}." for result in results if result.note]
    notes = escape(" ".join(filter(None, [noise_of(results), _one_upon_another(results), *told])))
    rows = _filled([{heading: cell(result) for heading, cell in FIGURES.items()} for result in results])
    heads = "".join(f"<th>{heading}</th>" for heading in rows[0])
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row.values())}</tr>" for row in rows)
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{drawn}<p class='note'>{notes}</p><details>"
        f"<summary>the figures</summary><div class='wide'><table><tr>{heads}</tr>{cells}</table></div></details></figure>"
    )


def _filled(rows):
    """The same rows with those columns alone that say something."""
    said = [heading for heading in rows[0] if any(row[heading] for row in rows)]
    return [{heading: row[heading] for heading in said} for row in rows]


def _one_upon_another(results):
    """A word on the lines of a curve of which only the last is seen."""
    lines = {}
    for result in results:
        if result.curve:
            lines.setdefault(result.name, set()).add((result.at, result.median))
    alike = {}
    for name, points in lines.items():
        alike.setdefault(frozenset(points), []).append(name)
    return " ".join(f"One line: {', '.join(names)}." for names in alike.values() if len(names) > 1)


def _place(result):
    if result.at is None:
        return ""
    of_what = result.axis.removeprefix("share ")
    return f", {result.at:,.12g} {of_what}" if of_what == result.axis else f", {result.at * 100:.3g}% {of_what}"


def _in_one_line(text):
    """A value that is not broken off its unit."""
    return text.replace(" ", "&nbsp;")


FIGURES = {
    "": lambda result: escape(f"{result.name}{_place(result)}"),
    "median": lambda result: shown(result.median, result.unit),
    "p25 to p75": lambda result: _spread(result, lambda *value: _in_one_line(shown(*value))),
    "ratio": lambda result: "" if result.ratio is None else times(result.ratio),
}
"""The columns below a figure, each cell in HTML."""


def _missing(document):
    rows = "".join(f"<li>{escape(part)}: {escape(reason)}</li>" for part, reason in _reasons(document).items())
    return f"<section><h2>Not measured</h2><ul>{rows}</ul></section>" if rows else ""


def _reasons(document):
    """Why parts were not measured, each in a line."""
    failed = {part: f"failed: {reason}" for part, reason in document.failed.items()}
    return {part: " ".join(reason.split()) for part, reason in (document.skipped | failed).items()}
