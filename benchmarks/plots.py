"""Figures as SVG that stands in a page: drawn by matplotlib, coloured by the page's own style.

matplotlib writes colours into what it draws. Those used here stand in for CSS variables, which then replace them: so one drawing
does for light, dark and print.
"""

import io
import math
import re
from functools import partial
from html import escape
from itertools import count

from tiered_cache.benchmarks.harness import shown, times

WIDTH = 4.4
"""Inches. Narrow, so that on a phone its text is still read, with room for a long name and its figures in one line."""
ROW, EDGES = 0.36, 0.62
HALF = 26
"""Characters of a name of which two stand side by side in a legend."""
COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--grid)",
    "#040404": "var(--ours)",
    "#050505": "var(--budget)",
    "#111111": "var(--series-1)",
    "#121212": "var(--series-2)",
    "#131313": "var(--series-3)",
    "#141414": "var(--series-4)",
    "#151515": "var(--series-5)",
    "#161616": "var(--series-6)",
}
INK, MUTED, GRID, OURS, BUDGET, *SERIES = COLOURS
STYLES = ("-", "--", ":")


def ratio_bars(results):
    """How many times the base each takes."""
    figure, axes = _rows(len(results))
    left = _scale(axes, [*(result.ratio for result in results), *_budgets(results, of_ratios=True)])
    for row, result in enumerate(results):
        axes.barh(row + 0.18, result.ratio - left, left=left, height=0.34, color=_colour(result))
        _label(axes, row, result.name, f"{shown(result.median, result.unit)} · {times(result.ratio)}")
        if _budgets([result], of_ratios=True):
            axes.plot([result.budget] * 2, [row - 0.05, row + 0.41], color=BUDGET, linewidth=1.6)
    axes.set_xlabel(f"times {results[0].base}")
    _ticks(axes.xaxis, _tick)
    return _svg(figure, f"Ratios: {results[0].group}")


def distributions(results):
    """From the fastest hundredth to the slowest thousandth, on a logarithmic scale."""
    figure, axes = _rows(len(results))
    axes.set_xscale("log")
    for row, result in enumerate(results):
        at = dict(result.percentiles)
        colour = _colour(result)
        y = row + 0.18
        axes.plot([at.get(1, at[0]), at.get(99, at[100])], [y, y], color=colour, linewidth=1.2)
        axes.plot([result.low, result.high], [y, y], color=colour, linewidth=7, solid_capstyle="butt", alpha=0.55)
        axes.plot([result.median], [y], "o", color=colour, markersize=5.5)
        if 99.9 in at:
            axes.plot([at[99.9]], [y], "|", color=colour, markersize=9, markeredgewidth=1.4)
        last = f" · p99 {shown(at[99], 's')}" if 99 in at else ""
        _label(axes, row, result.name, f"{shown(result.median, 's')}{last}")
    _ticks(axes.xaxis, partial(shown, unit="s"))
    axes.set_xlabel("dot: median; bar: its quarters; line: p1 to p99; tick: p99.9")
    return _svg(figure, f"Distribution: {results[0].group}")


def value_bars(results):
    """Counts, sizes, shares or seconds that have no base."""
    figure, axes = _rows(len(results))
    left = _scale(axes, [*(result.median for result in results), *_budgets(results, of_ratios=False)])
    for row, result in enumerate(results):
        axes.barh(row + 0.18, max(0, result.median - left), left=left, height=0.34, color=_colour(result))
        _label(axes, row, result.name, shown(result.median, result.unit))
        if _budgets([result], of_ratios=False):
            axes.plot([result.budget] * 2, [row - 0.05, row + 0.41], color=BUDGET, linewidth=1.6)
    unit = results[0].unit
    _ticks(axes.xaxis, _percent if unit == "share" else partial(shown, unit=unit))
    return _svg(figure, results[0].group)


def lines_of(results):
    """How each name is drawn, the same in all curves of `results`: the first line that no other in them has, ours first."""
    names = sorted(dict.fromkeys(result.name for result in results), key=lambda name: "tiered_cache" not in name)
    curves = {name: {result.curve for result in results if result.name == name} for name in names}
    numbers = {}
    for name in names:
        taken = {number for other, number in numbers.items() if curves[other] & curves[name]}
        numbers[name] = next(number for number in count() if number not in taken)
    colours, styles = len(SERIES), len(STYLES)
    return {
        name: {"color": SERIES[number % colours], "linestyle": STYLES[number // colours % styles]}
        for name, number in numbers.items()
    }


def curves(results, lines):
    """A line for each name, along what the results say."""
    present = {result.name for result in results}
    columns = 2 if max(map(len, present)) <= HALF else 1
    figure, axes = _figure(WIDTH, 2.6 + 0.18 * math.ceil(len(present) / columns))
    for name in filter(present.__contains__, lines):
        points = sorted((result.at, result.median) for result in results if result.name == name)
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, linewidth=1.6, label=name, **lines[name])
    unit = results[0].unit
    places = [result.at for result in results]
    if min(places) > 0 and max(places) >= 8 * min(places):
        axes.set_xscale("log")
    if unit != "share":
        _from_zero_or_log(axes, [result.median for result in results])
    _ticks(axes.xaxis, _percent if results[0].axis.startswith("share") else _short)
    axes.set_xticks(sorted(set(places)))
    text = {"share": _percent, "hits/s": _short}.get(unit, partial(shown, unit=unit))
    _ticks(axes.yaxis, text)
    axes.set_xlabel(results[0].axis)
    axes.grid(visible=True, color=GRID, linewidth=0.7)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
    )
    return _svg(figure, results[0].curve)


def _from_zero_or_log(axes, values):
    """So that what is a little more looks so."""
    if _wide(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(values) * 1.06)


def _rows(number):
    figure, axes = _figure(WIDTH, EDGES + ROW * number)
    axes.set_ylim(number - 0.4, -0.42)
    axes.set_yticks([])
    axes.grid(visible=True, axis="x", color=GRID, linewidth=0.7)
    return figure, axes


def _figure(width, height):
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window, nothing global

    with mpl.rc_context({"font.size": 9, "axes.edgecolor": GRID, "text.color": INK}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=MUTED, labelsize=8, length=0, which="both")
    axes.xaxis.label.set(color=MUTED, size=8)
    return figure, axes


def _budgets(results, *, of_ratios):
    """The budgets that are of what is drawn."""
    return [
        result.budget for result in results if result.budget is not None and (result.ratio is not None) == of_ratios
    ]


def _scale(axes, values):
    """Make room for `values`; gives where bars begin, since a logarithmic scale has no zero."""
    wide = _wide(values)
    left = min(value for value in values if value > 0) / 2 if wide else 0
    if wide:
        axes.set_xscale("log")
    axes.set_xlim(left, max(values) * (1.3 if wide else 1.06))
    return left


def _label(axes, row, name, value):
    place = {"transform": axes.get_yaxis_transform(), "va": "bottom", "size": 8.5}
    axes.text(0.0, row - 0.06, name, color=INK, **place)
    axes.text(1.0, row - 0.06, value, color=INK, ha="right", **place)


def _colour(result):
    if "tiered_cache" in result.name or result.budget:
        return OURS
    return MUTED


def _wide(values):
    above = [value for value in values if value > 0]
    return len(above) > 1 and max(above) / min(above) > 30


def _ticks(axis, text):
    """Ticks are written by `text`; where powers of ten are few, there are some between them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    if axis.get_scale() == "log" and 0 < high < 50 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(lambda value, _: text(value))


def _tick(ratio):
    """A round ratio at an axis."""
    return f"{ratio:,.12g}x" if ratio >= 0.01 else times(ratio) if ratio else "0"


def _short(value):
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"


def _percent(value):
    return f"{value * 100:.3g}%"


def _svg(figure, title):
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return for_a_page(out.getvalue(), title)


def for_a_page(text, title):
    """The svg element alone: coloured by the page, as wide as there is room, with no id but those that are pointed at."""
    body = text[text.index("<svg") :]
    pointed_at = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in pointed_at else "", body)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for stand_in, variable in COLOURS.items():
        body = body.replace(stand_in, variable)
    body = re.sub(r"font:[^;\"]*?(\d+(?:\.\d+)?)px[^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family:[^;\"]*;?", "", body)
    width = float(re.search(r'width="([\d.]+)pt"', body)[1])
    body = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", body, count=1)
    opening = f'<svg role="img" class="plot" style="max-width: {math.ceil(width * 1.75)}px"'
    return body.replace("<svg", opening, 1).replace(">", f"><title>{escape(title)}</title>", 1)
