"""The command `tiered-cache`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments`, by default those of the process; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="tiered-cache", description="The read-through cache that understands AWS Lambda."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="a real handler on local services: the latency of each tier")
    demo.add_argument("--short", action="store_true", help="fewer calls, for a quick look")
    demo.add_argument("--examples", type=Path, default=None, help="folder with the module three_origins")
    given = parser.parse_args(arguments)
    try:
        return _demo(_examples(given.examples), short=given.short)
    except (ImportError, RuntimeError) as error:
        print(f"tiered-cache: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _examples(given: Path | None) -> Path:
    """The folder with the example that is measured: as given, or the one that came with the package."""
    folder = given or Path(__file__).resolve().parent / "local" / "examples"
    if not (folder / "three_origins.py").is_file():
        raise RuntimeError(f"there is no three_origins.py in {folder}: give the examples' folder with --examples")
    return folder


def _demo(examples: Path, *, short: bool) -> int:
    from tiered_cache.local._needs import need

    console = need("rich.console").Console()
    from tiered_cache.local import demo

    with console.status("") as status:

        def told(step: str) -> None:
            status.update(step)
            if not console.is_terminal:
                print(step, flush=True)

        rows, outages = demo.run(examples, told, short=short)
    demo.show(rows, outages, console)
    return 0
