"""`tiered-cache demo`: a handler served by L1, L2 and three origins on local services, with the latency of each tier."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from tiered_cache.local._needs import need
from tiered_cache.local.container import Container
from tiered_cache.local.content import CUSTOMER_ITEMS, DOCUMENT_COPIES, customer_id, document_name, fill
from tiered_cache.local.services import LocalServices

if TYPE_CHECKING:
    from collections.abc import Callable

HANDLER = "three_origins"
L1_CALLS = 5_000


class Row(NamedTuple):
    """Seconds by tier for one kind of content: medians, and how many calls each is the median of."""

    content: str
    cold: list[float]
    origin: list[float]
    l2: list[float]
    l1: list[float]


class Outage(NamedTuple):
    """An answer after Redis was killed."""

    what: str
    answer: dict[str, Any]
    seconds: float


def run(examples: Path, told: Callable[[str], object], *, short: bool = False) -> tuple[list[Row], list[Outage]]:
    """Measure the example handler in three containers, then kill Redis under them.

    examples: the folder with the handler's module. told: called with a word on each step as it begins.
    """
    events = _events(10 if short else CUSTOMER_ITEMS // 2)
    told("Starting Valkey, S3, DynamoDB and Athena")
    with LocalServices() as services:
        fill(services, lambda step: told(f"Putting {step}"))

        def container() -> Container:
            return Container(examples, HANDLER, services.environment())

        told("Container A: a cold start, then each origin")
        with container() as first:
            rows = [_measure(first, content, wanted) for content, wanted in events.items()]
            told("Container A: the same keys again, from L1")
            rows = [_again(first, row, events[row.content][0], 200 if short else L1_CALLS) for row in rows]
            for name in ("B",) if short else ("B", "C"):
                told(f"Container {name}: the same keys, from L2")
                with container() as other:
                    other.invoke(_customer(CUSTOMER_ITEMS - 1))  # imports and connects
                    rows = [_from_l2(other, row, events[row.content]) for row in rows]
            told("Killing Redis")
            services.valkey.kill()
            outages = [_outage("container A, a key that it holds", first, _customer(0))]
            outages.append(_outage("container A, a key that it does not hold", first, _customer(CUSTOMER_ITEMS - 2)))
            outages.append(_outage("container A, the next such key", first, _customer(CUSTOMER_ITEMS - 3)))
        told("A new container, with Redis dead")
        with container() as late:
            outages.append(_outage("a new container, its first call ever", late, _customer(0)))
            outages.append(_outage("a new container, an object from S3", late, _document(0)))
    return rows, outages


def _events(customers: int) -> dict[str, list[dict[str, Any]]]:
    """The events to be measured, by what they ask for."""
    return {
        "S3, 1.2 MB JSON": [_document(copy) for copy in range(DOCUMENT_COPIES)],
        "DynamoDB, an item": [_customer(number) for number in range(customers)],
        "Athena, 200k rows": [{"want": "mapping"}],
    }


def _customer(number: int) -> dict[str, Any]:
    return {"want": "customer", "customer_id": customer_id(number)}


def _document(copy: int) -> dict[str, Any]:
    return {"want": "document", "document": document_name(copy)}


def _measure(container: Container, content: str, events: list[dict[str, Any]]) -> Row:
    seconds = [_expect(container, event, "origin") for event in events]
    return Row(content, seconds[:1], seconds[1:] or seconds[:1], [], [])


def _again(container: Container, row: Row, event: dict[str, Any], calls: int) -> Row:
    _expect(container, event, "l1")
    return row._replace(l1=container.invoke(event, times=calls).seconds)


def _from_l2(container: Container, row: Row, events: list[dict[str, Any]]) -> Row:
    return row._replace(l2=row.l2 + [_expect(container, event, "l2") for event in events])


def _expect(container: Container, event: dict[str, Any], tier: str) -> float:
    result = container.invoke(event)
    if result.value["tier"] != tier:
        raise RuntimeError(f"{event} was to be answered by {tier}, and was by {result.value}")
    return result.seconds[0]


def _outage(what: str, container: Container, event: dict[str, Any]) -> Outage:
    result = container.invoke(event)
    return Outage(what, result.value, result.seconds[0])


def show(rows: list[Row], outages: list[Outage], console: Any) -> None:
    """Print what was measured as two tables."""
    table = _table("One handler, three tiers: median time of an invocation")
    table.add_column("content", no_wrap=True)
    for heading in ("first call", "origin", "L2 hit", "faster", "L1 hit", "faster"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        origin, l2, l1 = median(row.origin), median(row.l2), median(row.l1)
        hits = (_time(l2), _ratio(origin / l2), _time(l1), _ratio(origin / l1))
        table.add_row(row.content, _time(row.cold[0]), _time(origin), *hits)
    console.print(table)
    for row in rows:
        console.print(f"{row.content}: {len(row.origin)} calls of the origin, {len(row.l2)} of L2, {len(row.l1)} of L1")
    console.print("Faster: than the origin. S3 and DynamoDB are moto, Athena is DuckDB, all on this")
    console.print("machine: the real ones are slower.\n")
    outage = _table("After Redis was killed")
    for heading in ("asked", "answered by", "why", "time"):
        outage.add_column(heading, justify="right" if heading == "time" else "left")
    for line in outages:
        outage.add_row(line.what, line.answer["tier"], line.answer["reason"], _time(line.seconds))
    console.print(outage)


def _table(title: str) -> Any:
    box = need("rich.box").SIMPLE_HEAD
    return need("rich.table").Table(title=title, title_justify="left", box=box, pad_edge=False, collapse_padding=True)


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}" if seconds / scale < 100 else f"{seconds / scale:.0f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _ratio(times: float) -> str:
    return f"{times:,.0f}x" if times >= 10 else f"{times:.1f}x"
