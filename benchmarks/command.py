"""`tiered-cache bench` and `python -m benchmarks`: what is measured, and what becomes of it."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser):
    parser.description = "The tiers and the peers, side by side: what each costs, as ratios within one run."
    add = parser.add_argument
    add(
        "suites",
        nargs="*",
        metavar="suite",
        help='such as tiers, peers.l1 or just l1; all by default, "list" lists them',
    )
    add("--only", type=names, metavar="SUITE,...", default=[], help="the same, with commas")
    add("--quick", action="store_true", help="fewer rounds, for a look")
    add("--cpu", metavar="SHARE,...", type=shares, help="for tiers.cpu: shares of a processor; by default 1,0.29,0.07")
    _add_traces(add)
    add("--json", type=file, metavar="FILE", help="write the results, those of each part as soon as it is done")
    add(
        "--from",
        type=Path,
        metavar="FILE",
        dest="given",
        help="measure nothing: take the results of an earlier --json, and print them where nothing else is asked for",
    )
    add("--compare", type=Path, metavar="FILE", help="beside the results of an earlier --json")
    add("--report", type=file, metavar="FILE", help="write a page with plots; needs matplotlib")
    add("--markdown", type=file, metavar="FILE", help="write the tables as Markdown")
    add(
        "--check",
        action="store_true",
        help="exit with 1 where a ratio or a count misses its budget by half of it or more, or none has one",
    )
    parser.set_defaults(run=lambda given: run(given, parser))


def _add_traces(add):
    add(
        "--traces",
        nargs="+",
        type=Path,
        default=(),
        metavar="FILE",
        help="for hitratio: replay these instead of traces that are made; what they hold is told by their names' ends",
    )
    add("--format", metavar="NAME", help="of the traces: cache2k, lirs, lines or csv, where their names do not say it")
    sizes = "made: draw sizes for the keys, to compare by bytes too; none: by entries alone; else those of the trace"
    add("--sizes", choices=("made", "none"), help=sizes)
    add("--limit", type=whole, metavar="N", help="accesses of each trace to replay; 600,000 by default, 8,000 if quick")


def file(text):
    """A file that can be written. Raises argparse's error otherwise: before an hour of measuring, and not after it."""
    path = Path(text)
    if text == "-" or path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the name of a file in a folder that is there is needed; got {text!r}")
    is_new = not path.exists()
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"a file that can be written is needed; got {text!r}: {error.strerror}"
        ) from error
    return path


def names(text):
    """Names with commas. Raises argparse's error where there are none: it would mean all."""
    found = [name for name in text.split(",") if name]
    if not found:
        raise argparse.ArgumentTypeError(f"at least one suite is needed; got {text!r}")
    return found


def whole(text):
    """A whole number above 0. Raises argparse's error otherwise."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number above 0 is needed; got {text!r}")
    return int(text)


def replayed(given, parts):
    """The traces that the arguments ask for; none where they ask for nothing. Raises ValueError for what cannot be."""
    from tiered_cache.benchmarks import hitratio, suites

    asked = {"--traces": given.traces, "--format": given.format, "--sizes": given.sizes, "--limit": given.limit}
    named = [name for name, value in asked.items() if value]
    if not named:
        return ()
    if given.given or "hitratio" not in [part.suite for part in parts]:
        raise ValueError(f"{named[0]} is for the suite hitratio, which is not measured now")
    if given.format and not given.traces:
        raise ValueError("--format is that of the files of --traces, and there are none")
    for path in given.traces:
        if suites.is_name(str(path)) and not path.exists():
            raise ValueError(f"there is no file {path}: a suite goes before --traces, which takes all that follows")
    return hitratio.chosen(given.traces, given.format, given.limit, given.sizes, quick=given.quick)


def shares(text):
    """Numbers above 0 and up to 1. Raises argparse's error otherwise."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0.01 <= share <= 1 for share in found):
        raise argparse.ArgumentTypeError(f"shares are numbers from 0.01 to 1, with commas; got {text!r}")
    return found


def run(given, parser):
    """What the arguments ask for; gives the exit code."""
    from tiered_cache.local._needs import need

    need("redis")
    from tiered_cache.benchmarks import comparison, files, hitratio, measuring, report, results, suites, tiers

    wanted = [*given.suites, *given.only]
    if wanted == ["list"]:
        for suite, parts in suites.SUITES.items():
            print(f"{suite}: {', '.join(parts)}")
        return 0
    try:
        parts = suites.chosen(wanted)
        traces = replayed(given, parts)
        _refuse_what_has_no_effect(given, wanted, parts)
        earlier = results.read(given.compare) if given.compare else None
        measured = results.read(given.given) if given.given else None
    except ValueError as error:
        parser.error(str(error))
    if given.report:
        report.need_plots()  # before an hour of measuring
    if given.cpu:
        tiers.shares.set(given.cpu)
    hitratio.replayed.set(traces)
    keeper = results.Keeper(given.json) if given.json else None
    if measured is None:
        measured = measuring.measure(parts, quick=given.quick, keep=keeper)
    elif not (given.report or given.markdown or given.compare or given.check):
        print(report.markdown(measured))
    if given.report:
        report.write_html(measured, given.report)
    if given.markdown:
        files.put(report.markdown(measured), given.markdown)
    was_compared = comparison.show(earlier, measured) if earlier else True
    is_kept = _checked(measured) if given.check else True
    is_written = keeper is None or not keeper.has_failed
    return 0 if was_compared and is_kept and is_written and not measured.failed else 1


def _checked(document):
    """Whether no budget is missed by a wide margin but what is owed; tells what is."""
    from tiered_cache.benchmarks import comparison

    if not comparison.judged(document):
        print("Nothing was measured that has a budget of a ratio or a count.", file=sys.stderr)
        return False
    missed, owed = comparison.missed(document), comparison.owed(document)
    for line in owed:
        print(f"owed: {line}")
    for line in missed:
        print(f"MISSED: {line}", file=sys.stderr)
    if not missed:
        print(f"No {'other ' if owed else ''}budget is missed by half of it or more.")
    return not missed


def _refuse_what_has_no_effect(given, wanted, parts):
    """Raises ValueError for an option that would be passed over in silence, or whose file another would write over."""
    from tiered_cache.benchmarks import tiers

    keep_apart(
        [("--traces", path) for path in given.traces] + [("--from", given.given), ("--compare", given.compare)],
        [("--json", given.json), ("--report", given.report), ("--markdown", given.markdown)],
    )
    if given.given and (wanted or given.json or given.quick):
        raise ValueError("--from takes all results as they are: no suites, no --quick and no --json go with it")
    if given.cpu and (given.given or tiers.by_share not in [part.run for part in parts]):
        raise ValueError("--cpu is for tiers.cpu, which is not measured now")


def keep_apart(read, written):
    """Raises ValueError where a file that is to be written is another of these files. All are pairs of an option and a path."""
    named = {path.resolve(): name for name, path in read if path is not None}
    for name, path in written:
        if path is not None and (other := named.setdefault(path.resolve(), name)) != name:
            raise ValueError(f"{other} and {name} need files of their own; both are {path}")


def main(arguments=None):
    """The command of a checkout, `python -m benchmarks`."""
    from tiered_cache._command import ended

    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    return ended(lambda: given.run(given), parser.prog)
