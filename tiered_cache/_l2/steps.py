"""The steps of the protocol as commands, and the names that a namespace's things have in the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiered_cache._l2.envelope import HEADER_SIZE
from tiered_cache._l2.scripts import ASK, FILL, LEAVE, RELEASE, REWRITE
from tiered_cache._reply import Claim

if TYPE_CHECKING:
    from tiered_cache._l2.scripts import Command
    from tiered_cache._reply import Lease

LONGEST_KEY = 512
"""Bytes of a key above which its hash stands in its place; the whole key is inside the envelope and is compared."""
LONGEST = 3e9
"""Seconds after which everything is forgotten: about a century, the most of which no server loses count."""

_CLAIMS = {Claim.MISSING: b"missing", Claim.ALWAYS: b"always", Claim.SEIZE: b"seize"}


class Steps:
    """Makes the commands of one namespace. A key's value, lease and handle lie in one slot: the hash tag sees to that."""

    def __init__(self, namespace: str, *, hash_keys: bool) -> None:
        self.owner = f"{namespace}|"
        """Stands before the key inside the envelope too: no entry is another namespace's."""
        self.prefix = f"tc1:{{{self.owner}".encode()
        self._hash_keys = hash_keys

    def alias(self, name: str) -> str:
        """What stands in the server for a key or a tag: itself, or its hash."""
        if not self._hash_keys and len(name) <= LONGEST_KEY // 4:
            return name
        encoded = name.encode()
        if not self._hash_keys and len(encoded) <= LONGEST_KEY:
            return name
        from hashlib import blake2b

        return "#" + blake2b(encoded, digest_size=20).hexdigest()

    def value(self, key: str) -> bytes:
        """The name of the key's value."""
        return self.prefix + self.alias(key).encode() + b"}"

    def beginning(self, key: str) -> Command:
        """Gives the header of the key's value, and the key after it."""
        return (b"GETRANGE", self.value(key), b"0", b"%d" % (HEADER_SIZE + len((self.owner + key).encode()) - 1))

    def ask(self, lease: Lease, claim: Claim) -> Command:
        return ASK(self._all(lease.key), lease.token, _milliseconds(lease.seconds), _CLAIMS[claim])

    def fill(self, lease: Lease, data: bytes, lasting: float) -> Command:
        return FILL(self._all(lease.key), lease.token, data, _milliseconds(lasting))

    def leave(self, lease: Lease, data: bytes, lasting: float, pause: float) -> Command:
        return LEAVE(self._all(lease.key), lease.token, data, _milliseconds(lasting), _milliseconds(pause))

    def release(self, lease: Lease, *, drop: bool = False, ended: bool = False) -> Command:
        return RELEASE(self._all(lease.key), lease.token, b"drop" if drop else b"end" if ended else b"keep")

    def rewrite(self, key: str, header: bytes, new: bytes) -> Command:
        return REWRITE(self._all(key), header, new)

    def forget(self, key: str, lease: Lease | None) -> list[Command]:
        """All that is under the key goes; or all else, and `lease` stands there."""
        value, leased, pending = self._all(key)
        if lease is None:
            return [(b"DEL", value, leased, pending)]
        # In this order: from the first on, no other's fill is taken.
        return [(b"SET", leased, lease.token, b"PX", _milliseconds(lease.seconds)), (b"DEL", value, pending)]

    def _all(self, key: str) -> tuple[bytes, bytes, bytes]:
        value = self.value(key)
        return value, value + b":lease", value + b":pending"


def _milliseconds(seconds: float) -> bytes:
    return b"%d" % max(1, int(1000 * min(seconds, LONGEST)))
