"""What a fleet costs a month, from the user's prices: the function, its origin, and the Redis if there is one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tiered_cache._errors import ConfigurationError
from tiered_cache._units import Size, shown, size, whole
from tiered_cache.simulation.fleet import number

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLE = Path(__file__).with_name("prices.toml")
"""Prices to begin with. They are an example."""
MONTH = 730 * 3600.0
"""Seconds."""
STORED_BESIDE = 230
"""Bytes that a value takes in the server beside itself: its key, its header and what the server keeps for each; measured."""
SENT_BESIDE = 100
"""Bytes of its header, which go to the server and back with it."""
LARGE = 32 * 1024
"""Bytes of a value from which on L2 sends its header alone where L1 still holds the same."""
ORIGINS = ("dynamodb", "s3", "athena", "free")
REDISES = ("serverless", "nodes")


@dataclass(frozen=True, slots=True)
class Lambda:
    """The function."""

    gb_second: float
    million_requests: float


@dataclass(frozen=True, slots=True)
class DynamoDB:
    """Tables on demand."""

    million_read_units: float


@dataclass(frozen=True, slots=True)
class S3:
    """Objects read."""

    thousand_gets: float


@dataclass(frozen=True, slots=True)
class Athena:
    """Queries."""

    terabyte: float
    least_megabytes: float


@dataclass(frozen=True, slots=True)
class Serverless:
    """ElastiCache Serverless."""

    gb_hour: float
    least_gb: float
    million_ecpus: float


@dataclass(frozen=True, slots=True)
class Nodes:
    """ElastiCache on nodes of one's own."""

    node_hour: float
    nodes: float


class Prices(NamedTuple):
    """The user's prices, all in one currency; `prices.toml` says what each is of."""

    currency: str
    function: Lambda
    dynamodb: DynamoDB
    s3: S3
    athena: Athena
    serverless: Serverless
    nodes: Nodes


SECTIONS: Mapping[str, Any] = {
    "lambda": Lambda,
    "dynamodb": DynamoDB,
    "s3": S3,
    "athena": Athena,
    "elasticache_serverless": Serverless,
    "elasticache_nodes": Nodes,
}
"""Of the file, in the order of `Prices`."""


def read_prices(path: Path = EXAMPLE) -> Prices:
    """The prices in a TOML file. Raises ConfigurationError, which names the entry and says what is allowed."""
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"prices must be a file of TOML such as {EXAMPLE}; got {path}: {error}") from error
    _same_names(f"{path} must have", content, ("currency", *SECTIONS))
    currency = content.pop("currency")
    if not isinstance(currency, str):
        raise ConfigurationError(f"currency must be text such as '$', in {path}; got {shown(currency)}")
    return Prices(currency, *(_section(path, name, content[name]) for name in SECTIONS))


def _section(path: Path, name: str, given: object) -> Any:
    made = SECTIONS[name]
    if not isinstance(given, dict):
        raise ConfigurationError(f"{name} must be a table, [{name}], in {path}; got {shown(given)}")
    _same_names(f"[{name}] in {path} must have", given, tuple(field.name for field in fields(made)))
    return made(**{key: number(f"{name}.{key} in {path}", value) for key, value in given.items()})


def _same_names(where: str, given: Mapping[str, object], wanted: tuple[str, ...]) -> None:
    missing, unknown = set(wanted) - set(given), set(given) - set(wanted)
    if missing or unknown:
        faults = [f"{what} {', '.join(sorted(names))}" for what, names in (("no", missing), ("also", unknown)) if names]
        raise ConfigurationError(f"{where} {', '.join(wanted)}, and nothing else; it has {' and '.join(faults)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What each request is about.

    memory_mb: the function's, 128 to 10,240. origin: "dynamodb" reads an item of `value_size`, "s3" an object; "athena" scans
    `scanned` for each load; "free" costs nothing by the load. consistent: of DynamoDB's reads. redis: "serverless" or "nodes".
    """

    memory_mb: int = 512
    origin: str = "dynamodb"
    value_size: Size = "2 KiB"
    consistent: bool = False
    scanned: Size = "100 MB"
    redis: str = "serverless"

    def __post_init__(self) -> None:
        if not 128 <= whole("memory_mb", self.memory_mb, least=128) <= 10_240:
            raise ConfigurationError(f"memory_mb must be at most 10240; got {self.memory_mb}")
        for name, given, allowed in (("origin", self.origin, ORIGINS), ("redis", self.redis, REDISES)):
            if given not in allowed:
                raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}; got {shown(given)}")
        size("value_size", self.value_size)
        size("scanned", self.scanned)


class Sized(NamedTuple):
    """What was used by the sizes of the values, where each key has its own."""

    l2_bytes: float
    """Of the values of all keys that are kept, whenever."""
    l2_kilobytes: float
    """That values took on the way from and to L2, see `kilobytes`; one for each that was confirmed by its header."""
    origin_blocks: float
    """That were loaded, see `blocks`."""


class Usage(NamedTuple):
    """What was used in so many seconds. l2_*: zero where there is no L2."""

    seconds: float
    requests: float
    billed_ms: float
    origin_loads: float
    l2_looks: float = 0.0
    """For invalidations, along with a read or without one."""
    l2_reads: float = 0.0
    l2_found: float = 0.0
    """Reads for which there was a value."""
    l2_confirmed: float = 0.0
    """Those of them that found what L1 still held."""
    l2_writes: float = 0.0
    l2_keys: float = 0.0
    """Keys that are kept, whenever."""
    sized: Sized | None = None
    """None where all values have the workload's size."""


class Costs(NamedTuple):
    """Of a month of 730 hours, by part."""

    compute: float
    requests: float
    origin: float
    redis: float

    @property
    def total(self) -> float:
        return sum(self)


def monthly(usage: Usage, prices: Prices, workload: Workload, *, with_l2: bool) -> Costs:
    """What a month of the same costs."""
    months = MONTH / usage.seconds
    return Costs(
        months * usage.billed_ms / 1e3 * workload.memory_mb / 1024 * prices.function.gb_second,
        months * usage.requests / 1e6 * prices.function.million_requests,
        months * _loads(usage, prices, workload),
        _redis(usage, prices, workload, months) if with_l2 else 0.0,
    )


def a_load(prices: Prices, workload: Workload) -> float:
    """What the origin charges for one load."""
    match workload.origin:
        case "dynamodb":
            return blocks(size("value_size", workload.value_size)) * _a_block(prices, workload)
        case "s3":
            return prices.s3.thousand_gets / 1e3
        case "athena":
            scanned = max(size("scanned", workload.scanned), prices.athena.least_megabytes * 1e6)
            return scanned / 1e12 * prices.athena.terabyte
        case _:
            return 0.0


def blocks(value_size: float) -> int:
    """Those of 4 KB that DynamoDB charges for an item."""
    return max(1, ceil(value_size / 4096))


def kilobytes(value_size: float, *, again: bool = False) -> float:
    """What a value takes on the way from or to L2, at least one, as ECPUs are; `again`: if L1 still holds the same."""
    return 1.0 if again and value_size >= LARGE else max(1.0, (value_size + SENT_BESIDE) / 1024)


def _a_block(prices: Prices, workload: Workload) -> float:
    return (1.0 if workload.consistent else 0.5) / 1e6 * prices.dynamodb.million_read_units


def _loads(usage: Usage, prices: Prices, workload: Workload) -> float:
    if usage.sized is not None and workload.origin == "dynamodb":
        return usage.sized.origin_blocks * _a_block(prices, workload)
    return usage.origin_loads * a_load(prices, workload)


def _all_alike(usage: Usage, each: int) -> Sized:
    """What was used where all values take `each` bytes."""
    whole_values = usage.l2_found - usage.l2_confirmed + usage.l2_writes
    moved = whole_values * kilobytes(each) + usage.l2_confirmed * kilobytes(each, again=True)
    return Sized(usage.l2_keys * each, moved, usage.origin_loads * blocks(each))


def _redis(usage: Usage, prices: Prices, workload: Workload, months: float) -> float:
    hours = MONTH / 3600
    if workload.redis == "nodes":
        return hours * prices.nodes.nodes * prices.nodes.node_hour
    sized = usage.sized or _all_alike(usage, size("value_size", workload.value_size))
    ecpus = sized.l2_kilobytes + usage.l2_looks + usage.l2_reads - usage.l2_found
    stored = max((sized.l2_bytes + usage.l2_keys * STORED_BESIDE) / 1e9, prices.serverless.least_gb)
    return hours * stored * prices.serverless.gb_hour + months * ecpus / 1e6 * prices.serverless.million_ecpus
