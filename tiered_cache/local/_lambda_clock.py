"""The still clock: a library that is preloaded into a container's processes, built where it is wanted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tiered_cache.local._needs import ServiceUnavailable

_SOURCE = Path(__file__).with_name("_still_clock.c")
_NO_COMPILER = (
    "still_clock=True needs a C compiler, which there is none of: neither cc nor gcc nor clang is on PATH "
    "(apt install gcc libc6-dev)"
)


def find_compiler() -> str:
    """Path of a C compiler. Raises ServiceUnavailable where there is none."""
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return found
    raise ServiceUnavailable(_NO_COMPILER)


def build(directory: Path) -> Path:
    """Build the library in `directory`. Raises ServiceUnavailable, with the compiler's words where it fails."""
    library = directory / "still_clock.so"
    options = ["-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl", "-pthread"]
    built = subprocess.run([find_compiler(), *options], capture_output=True, text=True, check=False)
    if built.returncode:
        raise ServiceUnavailable(f"the still clock could not be built: {built.stderr.strip()}")
    return library


def new_clock(path: Path) -> Path:
    """The file in which a process's pauses are added up, with none so far."""
    path.write_bytes(bytes(8))
    return path


def variables(library: Path, clock: Path) -> dict[str, str]:
    """What makes a process use the library with that file."""
    return {"LD_PRELOAD": str(library), "TIERED_CACHE_STILL_CLOCK": str(clock)}
