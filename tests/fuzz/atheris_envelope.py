"""The same judgement, guided by coverage, where atheris is installed: `python tests/fuzz/atheris_envelope.py -max_total_time=60`.

atheris is no dependency: pip install atheris. Options are libFuzzer's.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["tiered_cache._l2"]):
    from stored import GENUINE, holding, judge_accident, judge_forgery, signed


def look(data: bytes) -> None:
    """Take the bytes as an entry as they are, as one whose checksums hold, and as a payload, plain and compressed."""
    judge_accident(data)
    judge_forgery(signed(data))
    judge_forgery(holding(data))
    judge_forgery(holding(data, compress_above=0))


if __name__ == "__main__":
    for genuine in GENUINE.values():
        look(genuine)
    atheris.Setup(sys.argv, look)
    atheris.Fuzz()
