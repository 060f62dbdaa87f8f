"""How soon a connection is accepted when many come at once to a loop that is busy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from kvstore.server.listening import listen


class Peer(asyncio.Protocol):
    """Notes the turn of the loop in which it was accepted."""

    def __init__(self, accepted: list[int], turn: Callable[[], int]) -> None:
        self._accepted = accepted
        self._turn = turn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._accepted.append(self._turn())

    def eof_received(self) -> None:
        self._transport.close()


async def turns_of(connections: int, at_once: int) -> list[int]:
    """In which turns of the loop so many connections, all there before the first, are accepted."""
    loop, accepted, turn = asyncio.get_running_loop(), list[int](), 0
    listener = await listen(lambda: Peer(accepted, lambda: turn), ("127.0.0.1", 0), at_once=at_once, backlog=1_000)
    wires = [socket.create_connection(listener.address) for _ in range(connections)]
    over = loop.create_future()

    def take_turn() -> None:
        nonlocal turn
        turn += 1
        if len(accepted) == connections or turn > 10 * connections:
            over.set_result(None)
        else:
            loop.call_soon(take_turn)

    loop.call_soon(take_turn)
    await over
    address = listener.address
    listener.close()
    for wire in wires:
        wire.close()
    await asyncio.sleep(0.2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    return accepted


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_many_connections_are_accepted_in_few_turns(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        accepted = runner.run(turns_of(300, 16))
    assert len(accepted) == 300
    assert max(accepted) < 300 // 16 + 10
