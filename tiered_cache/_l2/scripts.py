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
    """The same command, with the text of a script in place of its hash."""
    if command[0] != b"EVALSHA":
        return command
    return (b"EVAL", Script.by_hash[command[1]], *command[2:])


def routed_by(command: Command) -> bytes:
    """The key that says which node of a cluster the command is for. All keys of one command lie in one slot."""
    return command[3] if command[0] in (b"EVALSHA", b"EVAL") else command[1]


ASK = Script(
    """
    local value = redis.pcall('GET', KEYS[1])
    local claim, taken = ARGV[3], 'unasked'
    if claim == 'always' then
        taken = redis.pcall('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
    elseif claim == 'seize' then
        taken = redis.pcall('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
    elseif not value then
        taken = redis.pcall('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
    end
    if not taken and redis.pcall('GET', KEYS[2]) == ARGV[1] then taken = redis.status_reply('OK') end
    return {value, taken, taken ~= 'unasked' and redis.pcall('GET', KEYS[3])}
    """
)
"""Keys: value, lease, pending. Arguments: token, milliseconds, claim.

Gives [value or nil, "OK" or nil or "unasked", handle or nil]; the handle only to who wants the lease, taken or not.
Asked again with the same token, as after a reply that was lost, it gives the same: the lease is ours.
"""

FILL = Script(
    """
    if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
    local stored = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    redis.call('DEL', KEYS[2], KEYS[3])
    if stored['err'] then return stored end
    return 1
    """
)
"""Keys: value, lease, pending. Arguments: token, envelope, milliseconds. Gives 1, or 0 where the lease is not ours any more."""

LEAVE = Script(
    """
    if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
    local stored = redis.pcall('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
    if stored['err'] then return stored end
    redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[4])
    return 1
    """
)
"""Keys: value, lease, pending. Arguments: token, envelope of a handle, its milliseconds, those until the next look at it.

The lease goes on as the pause until that look. Gives 1, or 0 where the lease is not ours any more.
"""

RELEASE = Script(
    """
    if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
    if ARGV[2] == 'drop' then redis.call('DEL', KEYS[1]) end
    if ARGV[2] ~= 'keep' then redis.call('DEL', KEYS[3]) end
    return redis.call('DEL', KEYS[2])
    """
)
"""Keys: value, lease, pending. Arguments: token, and "keep" the others, or "end" the load and its handle with it, or "drop"
the value too. Gives 1, or 0 where the lease is not ours any more.
"""

REWRITE = Script(
    """
    redis.call('DEL', KEYS[2], KEYS[3])
    local held = redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1)
    if held ~= ARGV[1] then return held == '' and 1 or 0 end
    redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
    return 1
    """
)
"""Keys: value, lease, pending. Arguments: the header that was read, and the one in its place. Gives 0 where another is there."""

LOG = Script(
    """
    local log, marks = KEYS[1], KEYS[2]
    local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    last = last and last[1]
    local epoch = redis.call('HGET', marks, 'epoch')

    local function now()
        local time = redis.call('TIME')
        return time[1] * 1000000 + time[2]
    end
    if not last or not epoch or string.sub(last, 1, #epoch + 1) ~= epoch .. '-' then
        redis.call('DEL', log, marks)
        epoch = string.format('%.0f', now())
        last = redis.call('XADD', log, epoch .. '-' .. epoch, 'o', '')
        redis.call('HSET', marks, 'epoch', epoch, 'end', last)
    end
    if #ARGV == 0 then
        redis.call('HSET', marks, 'end', last)
        return last
    end

    local at = string.format('%.0f', math.max(now(), tonumber(string.sub(last, #epoch + 2)) + 1))
    redis.call('XADD', log, 'MAXLEN', '~', 10000, epoch .. '-' .. at, 'p', last, unpack(ARGV))
    last = epoch .. '-' .. at
    redis.call('HSET', marks, 'end', last)
    for number = 1, #ARGV, 2 do
        if ARGV[number] == 't' then redis.call('HSET', marks, 't' .. ARGV[number + 1], at) end
        if ARGV[number] == 'c' then redis.call('HSET', marks, 'all', at) end
    end
    if redis.call('HLEN', marks) > 20000 then
        local all = redis.call('HGET', marks, 'all')
        redis.call('DEL', marks)
        redis.call('HSET', marks, 'epoch', epoch, 'end', last, 'tags', at, 'all', all or '0')
    end
    return last
    """
)
"""Open the log if it is not there, and append one record, with the tags' markers, in one step.

Keys: log, markers. Arguments: for each name in the record its kind and the name; none: the log is opened only. Gives the
id of the last record. A record says which came before it (`p`), so that a reader knows whether it has missed any.

A log or markers without the other, as after an eviction, are lost: a new epoch begins. It and the sequence are the
server's microseconds, so that records which a failover loses do not have their ids given out again. When there are too
many markers, one for all tags takes their place: whatever carries a tag is then loaded anew.
"""
