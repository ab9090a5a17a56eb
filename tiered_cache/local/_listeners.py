"""How a server of asyncio is to stop listening."""

from __future__ import annotations

import asyncio


async def stop_listening(server: asyncio.Server) -> None:
    """Accept nothing more, and close `server` when what was accepted has reached its handler.

    `close()` alone loses the socket of who was accepted in the turn before it: its transport finds the server gone
    (https://github.com/python/cpython/issues/109564).
    """
    loop = server.get_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    for _ in range(10):  # a few turns of the loop lie between the accepting and the handler
        await asyncio.sleep(0)
    server.close()
