"""Little memory: what cannot be kept is not, and whoever asked has the value all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from parts import before

if TYPE_CHECKING:
    from parts import Make, Record

    from tiered_cache.local import ValkeyServer

MIB = 2**20
MEMORY = 128
BUDGET = MEMORY * MIB // 4
SHAPES = 4


@pytest.mark.fault("F67", "128 MB, and values of up to twice L1's budget")
def test_values_of_twice_the_budget(function: Make, valkey: ValkeyServer, record_property: Record) -> None:
    """L1 evicts before it is full, what is larger than all of it is not kept, and the process lives."""
    sizes = [MIB, 12 * MIB, 24 * MIB, BUDGET + MIB, 2 * BUDGET]
    fn = function("pressed.handler", before(valkey, L2={"compress_above": None}), memory=MEMORY)
    pids = set()
    for turn in range(3):
        asked = [(number + len(sizes) * (turn % 2), size) for number, size in enumerate(sizes)]
        told = fn.invoke({"asked": asked, "room": 8 * BUDGET}).value
        assert len(sizes) * [True] == told["right"]
        assert told["l1"]["bytes"] <= BUDGET == told["l1"]["max_bytes"]
        pids.add(told["pid"])
    assert 1 == len(pids)
    assert told["l1"]["evictions"] > 0 < told["l1"]["oversized"]
    l1 = told["l1"]
    record_property(
        "measured", f"at most {l1['bytes']} of {BUDGET} bytes, {l1['evictions']} evicted, {l1['oversized']} not kept"
    )


@pytest.mark.faults
@pytest.mark.fault("F67", "next to no memory left when a value is to be kept")
@pytest.mark.parametrize("share", ["reference", "copy"])
def test_a_value_that_there_is_no_memory_to_keep_is_returned(
    share: str, function: Make, valkey: ValkeyServer, record_property: Record
) -> None:
    """Whether it is measuring, copying, encoding, compressing or sending that fails; it is counted, and nothing breaks."""
    rooms = [MIB // 8, MIB // 2, 2 * MIB]
    fn = function("pressed.starved", before(valkey, L1={"share": share}), memory=1024, timeout=60.0)
    told = fn.invoke({"rooms": rooms}).value
    assert 2 * SHAPES * len(rooms) == len(told["outcomes"])
    assert [] == [one for one in told["outcomes"] if one[-1] != "right"]
    assert told["unserializable"] > 0 < told["l1"]["oversized"]
    assert not set(told["errors"]) - {"memory", "refused"}
    assert "closed" == told["breaker"]
    kept_not = f"not kept by L1 {told['l1']['oversized']}, by L2 {told['unserializable']}"
    record_property(
        "measured", f"share={share}: {len(told['outcomes'])} values returned, {kept_not}, errors {told['errors']}"
    )
