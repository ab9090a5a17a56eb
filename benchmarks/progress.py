"""How far a measurement is, told between its turns: a display that refreshes itself would be measured too."""

from contextlib import contextmanager
from contextvars import ContextVar


def _nobody(done, of):
    """Nobody watches."""


_told = ContextVar("told", default=_nobody)


def turns(count):
    """The numbers below `count`; tells whoever shows progress before each."""
    told = _told.get()
    for turn in range(count):
        told(turn, count)
        yield turn


@contextmanager
def told_to(told):
    """Meanwhile `told(turns done, of how many)` is called between turns."""
    before = _told.set(told)
    try:
        yield
    finally:
        _told.reset(before)


def bars(console):
    """rich's progress bars, one for the parts and one for the turns of a part; drawn when told to, by no thread."""
    from tiered_cache.local._needs import need

    progress = need("rich.progress")
    columns = (
        progress.TextColumn("{task.description}", table_column=None),
        progress.BarColumn(bar_width=30),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    return progress.Progress(*columns, console=console, auto_refresh=False, transient=True)
