"""Tables that lose no figure where the terminal is narrow."""

from __future__ import annotations

from typing import Any

from tiered_cache.local._needs import need


def print_whole(console: Any, table: Any) -> None:
    """Print the `rich` table with its columns that do not wrap in full; rather its lines are wider than the terminal."""
    width = need("rich.cells").cell_len
    for column in table.columns:
        if column.no_wrap:
            lines = (line for cell in (column.header, *column.cells) for line in str(cell).splitlines())
            column.min_width = max(map(width, lines), default=0)
    wide = console.options.update(width=10_000)
    console.width = max(console.width, need("rich.measure").Measurement.get(console, wide, table).minimum)
    console.print(table)
