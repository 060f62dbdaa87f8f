"""Listening for connections, so that many who come at once do not keep the next one waiting."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from kvstore.addresses import Address


class Listener:
    """Accepts connections at an address until it is closed."""

    def __init__(self, servers: list[asyncio.Server]) -> None:
        self._servers = servers

    @property
    def address(self) -> Address:
        """The host and port that are listened at."""
        host, port = self._servers[0].sockets[0].getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Accept no more."""
        for server in self._servers:
            server.close()


async def listen(
    factory: Callable[[], asyncio.BaseProtocol], address: Address, *, at_once: int, backlog: int = 100
) -> Listener:
    """Accept connections; ``at_once``: how many a turn of the loop accepts at least. Raises OSError.

    uvloop accepts one from each of its sockets in a turn. Of a thousand that come at once to a node whose turns take
    ten milliseconds the last would wait ten seconds. Hence it gets the same socket several times.
    """
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(factory, *address, backlog=backlog, reuse_address=True)]
    if type(loop).__module__ == "uvloop":
        for listening in servers[0].sockets:
            for _ in range(at_once - 1):
                copy = socket.socket(fileno=os.dup(listening.fileno()))
                servers.append(await loop.create_server(factory, sock=copy, backlog=backlog))
    return Listener(servers)
