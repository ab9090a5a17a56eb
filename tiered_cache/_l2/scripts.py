"""The steps of the protocol that must be one at the server: each a script, called by its hash.

What a command of a script refuses (`pcall`) is the script's reply, in the server's own words on every version.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

Command = tuple[bytes, ...]


class Script:
    """A script and its calls."""

    by_hash: Final[dict[bytes, bytes]] = {}
    """The text of every script, for a server that does not know it yet."""

    def __init__(self, text: str) -> None:
        encoded = "\n".join(line.strip() for line in text.strip().splitlines()).encode()
        self._hash = sha1(encoded, usedforsecurity=False).hexdigest().encode()  # Redis' own name for it
        self.by_hash[self._hash] = encoded

    def __call__(self, keys: tuple[bytes, ...], *arguments: bytes) -> Command:
        """The command that runs it."""
        return (b"EVALSHA", self._hash, b"%d" % len(keys), *keys, *arguments)


def in_full(command: Command) -> Command:
    """The same call, with the script's text in place of its hash."""
    return (b"EVAL", Script.by_hash[command[1]], *command[2:])


def routed_by(command: Command) -> bytes:
    """The key that says which node of a cluster the command is for. All keys of one command lie in one slot."""
    return command[3] if command[0] in (b"EVALSHA", b"EVAL") else command[1]


ASK = Script(
    """
    local value = redis.pcall('GET', KEYS[1])
    if value then return value end
    local taken = redis.pcall('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
    if type(taken) == 'table' and taken['ok'] then return 1 end
    return taken and taken['err'] and taken or 0
    """
)
