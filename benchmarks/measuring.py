"""One part after the other, with progress bars where somebody looks."""

import logging
import time
import traceback
from contextlib import contextmanager
from dataclasses import replace

from tiered_cache.benchmarks import machine, progress
from tiered_cache.benchmarks.harness import Skipped, once
from tiered_cache.benchmarks.results import Document
from tiered_cache.local._needs import ServiceUnavailable


def measure(parts, *, quick, keep=None):
    """Measure `parts` and give the document. What a part raises is its own failure: the others are measured all the same.

    keep: gets the document after each part.
    """
    document = Document(machine.facts(), quick)
    once.cache_clear()
    with shown() as (print_, bars), silenced():
        print_(machine.line(document.machine))
        all_parts = bars.add_task("all", total=len(parts))
        for part in parts:
            _measure(part, document, bars, print_)
            if keep is not None:
                keep(document)
            bars.advance(all_parts)
            bars.refresh()
    return document


def _measure(part, document, bars, print_):
    task = bars.add_task(str(part), total=None)

    def told(turn, of):
        bars.update(task, completed=turn, total=of)
        bars.refresh()

    bars.refresh()
    started = time.perf_counter()
    try:
        with progress.told_to(told):
            found = part.run(quick=document.quick)
        document.results.extend(replace(result, suite=part.suite) for result in found)
    except Exception as error:  # noqa: BLE001  # an hour's other figures must not be lost with it
        if _is_missing(error):
            document.skipped[str(part)] = str(error)
            print_(f"\n{part} is skipped: {error}")
        else:
            document.failed[str(part)] = f"{type(error).__name__}: {error}"
            print_(f"\n{part} failed:\n{traceback.format_exc()}")
    document.seconds[str(part)] = round(time.perf_counter() - started, 3)
    bars.remove_task(task)


def _is_missing(error):
    """Whether the part needs what this machine has not: a service or a package, which no part of the library itself can be."""
    if isinstance(error, ImportError):
        return (error.name or "").partition(".")[0] != "tiered_cache"
    return isinstance(error, (Skipped, ServiceUnavailable))


@contextmanager
def silenced():
    """Meanwhile the library warns of nothing: servers are killed and caches made too small on purpose."""
    logger = logging.getLogger("tiered_cache")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def shown():
    """A function that prints, and the progress bars; on no terminal they print nothing."""
    from tiered_cache.local._needs import need

    console = need("rich.console").Console(highlight=False, soft_wrap=True)
    with progress.bars(console) as bars:
        yield (lambda text: console.print(text, markup=False)), bars
