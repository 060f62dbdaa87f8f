"""Connections between nodes: queues have bounds, attempts have pauses, names are looked up anew."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import pytest

from consensus.ballot import Ballot
from consensus.messages import Accept, Accepted, Chosen, Heartbeat, PreVote
from kvstore.node.peer_messages import PeerMessage
from kvstore.server import peers
from kvstore.server.frames import (
    KEEP_ALIVE,
    PROTOCOL_VERSION,
    Hello,
    Welcome,
    decode_hello,
    decode_message,
    frame,
    pieces,
)
from kvstore.server.peers import Address, Identity, Peers

HOST = "127.0.0.1"
LARGE = Accept(Ballot(1, "n1"), 1, [b"x" * 1_000_000], 0)


class Other:
    """A node as the one under test sees it: it says who it is told to be, and reads when it is told to."""

    def __init__(self, *, welcomes: bool = True, reads: bool = True, stays: bool = True) -> None:
        self.hellos: list[Hello] = []
        self.messages = 0
        self.heard: list[PeerMessage] = []
        self._pieces: list[bytes] = []
        self.address: Address = (HOST, 0)
        self._welcomes, self.reads, self._stays = welcomes, reads, stays

    async def start(self, host: str = HOST, port: int = 0) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, host, port)
        self.address = server.sockets[0].getsockname()[:2]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.hellos.append(decode_hello(await self._frame(reader)))
            if self._welcomes:
                writer.write(frame(Welcome()))
                await asyncio.sleep(0.03)
            while self._stays:
                if not self.reads:
                    writer.write(KEEP_ALIVE)
                    await asyncio.sleep(0.1)
                elif body := await self._body(reader):
                    self.heard.append(decode_message(body))
                    self.messages += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _frame(reader: asyncio.StreamReader) -> bytes:
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        return await reader.readexactly(length)

    async def _body(self, reader: asyncio.StreamReader) -> bytes:
        """The next message, empty for a piece of one that is not whole yet."""
        (head,) = struct.unpack(">I", await reader.readexactly(4))
        length = head & (1 << 30) - 1
        body = await reader.readexactly(length)
        if head == length:
            return body
        self._pieces.append(body)
        if head >> 31:
            return b""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


@asynccontextmanager
async def node(others: dict[str, Address], identity: Identity | None = None) -> AsyncIterator[tuple[Peers, Address]]:
    """The node under test, n1."""
    addresses = others | {"n1": (HOST, 0)}
    found = Peers(identity or Identity("c", "n1", 1), addresses, lambda sender, message: None, lambda node: None)
    address = await found.start((HOST, 0))
    try:
        yield found, address
    finally:
        await found.close()


async def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(test)


def test_a_node_that_does_not_read_costs_a_bounded_queue_and_holds_up_nobody() -> None:
    async def test() -> None:
        slow, quick = Other(reads=False), Other()
        servers = [await slow.start(), await quick.start()]
        async with node({"n2": slow.address, "n3": quick.address}) as (found, _):
            await until(lambda: found.is_connected("n2") and found.is_connected("n3"))
            for sent in range(1, 101):
                found.send([("n2", LARGE), ("n3", LARGE)])
                await until(lambda sent=sent: quick.messages == sent)  # type: ignore[misc]
            waiting = found._dialled["n2"]
            assert waiting.is_full
            assert waiting._transport is not None
            in_socket = waiting._transport.get_write_buffer_size()
            assert in_socket <= 2 * peers.HANDED_OVER_BYTES
            assert in_socket + waiting._queued_bytes <= peers.MAX_UNSENT_BYTES + 2 * len(frame(LARGE))
            assert found.is_connected("n2")
        for server in servers:
            server.close()

    run(test())


def test_what_is_sent_in_one_turn_is_bounded_too() -> None:
    async def test() -> None:
        other = Other(reads=False)
        server = await other.start()
        async with node({"n2": other.address}) as (found, _):
            await until(lambda: found.is_connected("n2"))
            found.send([("n2", LARGE)] * 200)
            link = found._dialled["n2"]
            assert link._queued_bytes <= peers.MAX_UNSENT_BYTES + 2 * len(frame(LARGE))
            assert link.gap
        server.close()

    run(test())


def test_heartbeats_and_votes_overtake_values_but_tell_nothing_that_waits_behind_them() -> None:
    async def test() -> None:
        other = Other(reads=False)
        server = await other.start()
        async with node({"n2": other.address}) as (found, _):
            await until(lambda: found.is_connected("n2"))
            values = [Accept(Ballot(1, "n1"), slot, [b"x" * 1_000_000], 0) for slot in range(1, 31)]
            for value in values:
                found.send([("n2", value)])
            await asyncio.sleep(0.1)
            urgent: list[PeerMessage] = [
                Heartbeat(Ballot(1, "n1"), 7, 30, [(40, 41)]),
                Accepted(Ballot(1, "n2"), 1, 2),
                PreVote(Ballot(2, "n1"), 1),
            ]
            found.send([("n2", message) for message in [*urgent, Chosen(Ballot(1, "n1"), 30, [])]])
            other.reads = True
            await until(lambda: other.messages == 34)
        places = [place for place, message in enumerate(other.heard) if type(message) not in (Accept, Chosen)]
        assert places[-1] < 20, places  # behind what the socket had already
        assert [other.heard[place] for place in places] == [Heartbeat(Ballot(1, "n1"), 7, 0, []), *urgent[1:]]
        assert [message for message in other.heard if type(message) is Accept] == values
        assert type(other.heard[-1]) is Chosen
        server.close()

    run(test())


def test_a_message_is_encoded_once_however_many_it_goes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[PeerMessage] = []

    def counting(message: PeerMessage) -> list[bytes]:
        encoded.append(message)
        return pieces(message)

    async def test() -> None:
        others = {f"n{number}": Other() for number in range(2, 6)}
        servers = [await other.start() for other in others.values()]
        async with node({name: other.address for name, other in others.items()}) as (found, _):
            await until(lambda: all(map(found.is_connected, others)))
            monkeypatch.setattr(peers, "pieces", counting)
            found.send([(name, LARGE) for name in others])
            await until(lambda: all(other.messages for other in others.values()))
        assert encoded == [LARGE]
        for server in servers:
            server.close()

    run(test())


@pytest.mark.parametrize("welcomes", [True, False])
def test_one_that_hangs_up_soon_is_not_called_without_a_pause(welcomes: bool) -> None:
    async def test() -> None:
        other = Other(welcomes=welcomes, stays=False)
        server = await other.start()
        async with node({"n2": other.address}):
            await asyncio.sleep(3)
        assert 3 <= len(other.hellos) <= 12
        server.close()

    run(test())


def test_a_name_that_changes_its_address_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo
    at = HOST

    def lookup(host: str, *rest: object, **options: object) -> object:
        return real(at if host == "n2.test" else host, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)

    async def test() -> None:
        nonlocal at
        before, after = Other(stays=False), Other()
        server = await before.start()
        async with node({"n2": ("n2.test", before.address[1])}):
            await until(lambda: before.hellos)
            server.close()
            server = await after.start("127.0.0.2", before.address[1])
            at = "127.0.0.2"
            await until(lambda: after.hellos)
        server.close()

    run(test())


def test_a_process_that_dials_again_replaces_its_connection_and_another_is_refused() -> None:
    async def test() -> None:
        async with node({"n2": (HOST, 1)}) as (found, address):

            async def dial(incarnation: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                reader, writer = await asyncio.open_connection(*address)
                writer.write(frame(Hello("c", "n2", "n1", PROTOCOL_VERSION, incarnation)))
                return reader, writer

            first, first_writer = await dial(1)
            welcome = frame(Welcome())
            assert await first.readexactly(len(welcome)) == welcome
            second, second_writer = await dial(1)
            assert await second.readexactly(len(welcome)) == welcome
            with suppress(ConnectionResetError):
                assert not await first.read()
            other, other_writer = await dial(2)
            assert b"another process is connected as n2" in await other.read()
            second_writer.close()
            await until(lambda: not found._accepted)
            restarted, restarted_writer = await dial(2)
            assert await restarted.readexactly(len(welcome)) == welcome
            for writer in (first_writer, other_writer, restarted_writer):
                writer.close()

    run(test())


def test_who_does_not_say_who_it_is_cannot_take_all_connections() -> None:
    async def test() -> None:
        async with node({"n2": (HOST, 1)}) as (found, address):
            strangers = [socket.create_connection(address) for _ in range(5)]
            await until(lambda: len(found._links) == 5)
            strangers += [socket.create_connection(address) for _ in range(peers.MAX_UNGREETED)]
            await until(lambda: len(found._links) == peers.MAX_UNGREETED)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(frame(Hello("c", "n2", "n1", PROTOCOL_VERSION, 1)))
            welcome = frame(Welcome())
            assert await reader.readexactly(len(welcome)) == welcome
            for stranger in strangers[:5]:
                stranger.settimeout(5)
                with suppress(ConnectionResetError):
                    assert stranger.recv(1) == b""
            writer.close()
            for stranger in strangers:
                stranger.close()

    run(test())
