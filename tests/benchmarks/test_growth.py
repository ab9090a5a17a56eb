"""As caches grow, each is asked for its own keys, and what is measured after the warming are others."""

from functools import partial

from tiered_cache.benchmarks.l1 import filled, reading
from tiered_cache.benchmarks.readers import Called

ORDERS = [["a", "b", "a"], ["c"]]


def test_each_is_asked_for_one_order_after_the_other():
    """And nobody for another."""
    asked = {"first": [], "second": []}
    readers = {name: Called(partial(lambda keys, key: keys.append(key), keys)) for name, keys in asked.items()}
    operations = reading({"a": 1, "b": 2, "c": 3}, readers, ORDERS)
    assert list(operations) == ["dict[key]", "first", "second"]
    for operation in operations.values():
        operation()
    assert asked == {"first": ["a", "b", "a"], "second": ["a", "b", "a"]}
    operations["second"]()
    operations["second"]()
    assert asked == {"first": ["a", "b", "a"], "second": ["a", "b", "a", "c", "a", "b", "a"]}


def test_all_keys_are_there_beforehand():
    """A miss of ours would call what is no loader."""
    values = {f"key:{number}": {"id": number} for number in range(3_000)}
    with filled(values) as readers:
        assert "tiered_cache" in readers
        for operation in reading(values, readers, [list(values)]).values():
            operation()
