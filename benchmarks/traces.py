"""Traces of accesses, for hit ratios: read from files, or made by a seed.

| format | what a file holds | found by the name's end |
| --- | --- | --- |
| cache2k | a big-endian uint32 for each access | `.trace.xz`, `.trace.bz2` |
| lirs | a decimal number on each line, `*` lines aside | `.trace.gz`, `.trace` |
| lines | a key on each line | `.txt`, `.list` |
| csv | a header, then a line for each access: columns `key`, and perhaps `timestamp` or `time`, `bytes` or `size` | `.csv` |

All may be packed (`.gz`, `.xz`, `.bz2`). The lines of a CSV are put in the order of `timestamp`, a number or ISO 8601: of UTC,
where it names no zone, as CloudFront's does not. `bytes` is what the answer took, and the largest of a key counts. Access logs
are made into one by a query; in Athena, on the tables that AWS documents:

    SELECT to_unixtime(parse_datetime(requestdatetime, 'dd/MMM/yyyy:HH:mm:ss Z')) AS timestamp, key, objectsize AS bytes
    FROM s3_access_logs_db.mybucket_logs WHERE operation = 'REST.GET.OBJECT' AND httpstatus = '200'

    SELECT concat(cast("date" AS varchar), 'T', time) AS timestamp, cs_uri_stem AS key, sc_bytes AS bytes
    FROM cloudfront_standard_logs WHERE cs_method = 'GET' AND sc_status = 200
"""

import bz2
import csv
import gzip
import lzma
import sys
from array import array
from heapq import nsmallest
from itertools import accumulate, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from tiered_cache._units import shown
from tiered_cache.simulation.recorded import ENCODING, MOST_BYTES, SIZES, TIMES, moment, whole_rows

MOST = 600_000
"""Accesses that are read of a file by default."""
OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


class Trace(NamedTuple):
    """Keys in the order of the accesses. sizes: of each key's value in bytes; None where nobody knows them."""

    name: str
    keys: list[str]
    sizes: dict[str, int] | None = None


def read(path, form=None, limit=MOST):
    """The trace in the file `path`, its first `limit` accesses. Raises ValueError, which says what is wrong with it."""
    path = Path(path)
    form = format_of(path, form)
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            keys, sizes = FORMATS[form](file, limit)
    except (OSError, EOFError, ValueError, csv.Error, lzma.LZMAError) as error:
        raise ValueError(f"{path} cannot be read as {form}: {error}") from error
    if not keys:
        raise ValueError(f"{path} holds no access")
    return Trace(printable(path.name), keys, sizes)


def printable(path):
    """The path as text that can be shown: what of it is none, for any bytes are a name, is written as its escape."""
    return str(path).encode("utf-8", errors="backslashreplace").decode()


def format_of(path, form=None):
    """The format of a file that is there: as stated, or by its name. Raises ValueError."""
    if form is not None and form not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {form!r}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    form = form or next((form for ends, form in ENDS.items() if path.name.endswith(ends)), None)
    if form is None:
        raise ValueError(f"{path.name} does not say its format by its end: state it, one of {', '.join(FORMATS)}")
    return form


def _cache2k(file, limit):
    content = file.read(4 * limit)
    if len(content) % 4:
        raise ValueError(f"{len(content)} bytes are no whole number of accesses, of 4 bytes each")
    numbers = array("I", content)
    if sys.byteorder == "little":
        numbers.byteswap()
    return list(map(str, numbers)), None


def _text(file):
    return (line.decode("utf-8" if number else ENCODING) for number, line in enumerate(file))


def _lirs(file, limit):
    keys = list(islice((key for line in _text(file) if (key := line.strip()) not in ("", "*")), limit))
    strange = next((key for key in keys if not key.isdecimal()), None)
    if strange is not None:
        raise ValueError(f"a line must be a decimal number; got {strange[:40]!r}")
    return keys, None


def _lines(file, limit):
    return list(islice((key for line in _text(file) if (key := line.strip())), limit)), None


def _csv(file, limit):
    reader = csv.DictReader(_text(file))
    if "key" not in (reader.fieldnames or ()):
        raise ValueError(f"the header must name a column 'key'; got {reader.fieldnames}")
    time, size = (next((name for name in names if name in reader.fieldnames), None) for names in (TIMES, SIZES))
    rows = ((row["key"], row[size] if size else "", row.get(time)) for row in whole_rows(reader))
    rows = nsmallest(limit, rows, key=lambda row: moment(row[2])) if time else islice(rows, limit)
    keys, sizes = [], {} if size else None
    for key, told, _ in rows:
        keys.append(key)
        if size:
            sizes[key] = max(_bytes(told), sizes.get(key, 0))
    return keys, sizes


def _bytes(text):
    size = int(text or 0)
    if not 0 <= size <= MOST_BYTES:
        raise ValueError(f"a size in bytes must be between 0 and {MOST_BYTES}; got {shown(text)}")
    return size


FORMATS = {"cache2k": _cache2k, "lirs": _lirs, "lines": _lines, "csv": _csv}
ENDS = {".trace.xz": "cache2k", ".trace.bz2": "cache2k", ".trace.gz": "lirs", ".trace": "lirs"}
for packed in ("", *OPENERS):
    ENDS |= {f".csv{packed}": "csv", f".txt{packed}": "lines", f".list{packed}": "lines"}


def with_made_sizes(trace, seed=1):
    """The same accesses, with sizes drawn for the keys: lognormal, half of them below 2 kB, some of a hundred times that."""
    drawn = Random(seed)
    return trace._replace(sizes={key: int(drawn.lognormvariate(7.6, 1.4)) + 1 for key in dict.fromkeys(trace.keys)})


def skewed(accesses, seed=1, keys=20_000, exponent=0.9):
    """Some keys are asked for often, most seldom, and that never changes (Zipf)."""
    weights = list(accumulate(1 / rank**exponent for rank in range(1, keys + 1)))
    ranks = Random(seed).choices(range(keys), cum_weights=weights, k=accesses)
    return with_made_sizes(Trace("made: skewed", list(map(str, ranks))))


def scanned(accesses, seed=2, every=5_000, length=2_500):
    """The same, and from time to time a job that asks for many keys, each of them once."""
    keys = []
    for number, key in enumerate(skewed(accesses, seed).keys):
        if number % every == 0:
            keys += (f"scan {number} {each}" for each in range(length))
        keys.append(key)
    return with_made_sizes(Trace("made: skewed, with scans", keys[:accesses]))


def drifting(accesses, seed=3, lasting=10):
    """The same, and what is popular moves on: after each `lasting` accesses by one key."""
    ranks = skewed(accesses, seed, keys=2_000).keys
    keys = [str(int(rank) + number // lasting) for number, rank in enumerate(ranks)]
    return with_made_sizes(Trace("made: drifting", keys))


def looping(accesses, seed=4, length=4_000):
    """Half of the accesses go round a loop, the other half is skewed."""
    keys = skewed(accesses, seed, keys=5_000).keys
    keys[::2] = (f"loop {number % length}" for number in range(len(keys[::2])))
    return with_made_sizes(Trace("made: skewed, with a loop", keys))


MADE = (skewed, scanned, drifting, looping)
