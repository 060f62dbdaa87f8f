"""``kvstore serve``: one node of a cluster, from its settings to its exit status."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
from functools import partial
from typing import cast

from kvstore import logs
from kvstore import stop_signals as end_signals
from kvstore.addresses import address_text
from kvstore.errors import DataDirError
from kvstore.node.hosting import new_event_loop
from kvstore.node.service import Service
from kvstore.resp.connection import Connection
from kvstore.resp.hub import Hub
from kvstore.resp.shares import Shares
from kvstore.server.host import Host
from kvstore.server.long_turns import LongTurns
from kvstore.server.settings import Settings
from kvstore.storage.data_dir import DataDir

DRAIN_SECONDS = 5.0
"""How long a node that was told to end waits for requests under way, and for another node to lead."""
BACKLOG = 4_096
KEEPALIVE_SECONDS = 300
"""A client that is silent for this long is probed: the connection of one whose machine is gone would stay for ever."""

log = logs.get("server")


def run(settings: Settings) -> int:
    """Serve until a signal asks it to end; returns the exit status. Raises DataDirError when it cannot start."""
    # A search for cycles among hundreds of thousands of values would stop the node for longer than anything it does.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with (
        DataDir.open(settings.data_dir, f"kvstore serve, node {settings.node_id}") as data_dir,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        data_dir.check_cluster(settings.cluster_name)
        return runner.run(_serve(settings, data_dir))


async def _serve(settings: Settings, data_dir: DataDir) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    long_turns = LongTurns()
    clients = ClientListener(settings, long_turns)
    host = Host(settings, data_dir, clients, long_turns, on_failure=end)
    numbers = end_signals.numbers()
    for number in numbers:
        loop.add_signal_handler(number, end, 0)
    try:
        data_dir.claim(settings.cluster_name)  # after the log is there: a claimed directory without one has lost it
        for start, address in (
            (host.start, settings.peer_listen),
            (partial(clients.listen, host), settings.client_listen),
        ):
            try:
                await start()
            except OSError as error:
                raise DataDirError(f"cannot listen on {address_text(address)}: {_reason(error)}") from error
        log.info(
            "serving",
            clients=clients.address,
            peers=host.peer_address,
            nodes=",".join(sorted(settings.peers)),
            applied=host.node.applied_upto,
        )
        status = await ended
        if status == 0:
            await _drain(host, clients)
        return status
    finally:
        await clients.close()
        await host.close()
        log.info("ended")
        for number in numbers:
            loop.remove_signal_handler(number)
        end_signals.ignore()


def _reason(error: OSError) -> str:
    """The reason in the system's words; the event loop's own text would name the address a second time."""
    known = error.errno in errno.errorcode
    return (os.strerror(error.errno or 0) if known else error.strerror or str(error)).lower()


async def _drain(host: Host, clients: ClientListener) -> None:
    """Take no more requests, answer those under way, and let another node lead."""
    log.info("draining")
    clients.stop()
    deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
    while not (host.is_idle and clients.have_all) and asyncio.get_running_loop().time() < deadline:
        host.hand_over()
        await asyncio.sleep(0.05)


class ClientListener:
    """Accepts clients, and keeps their connections. Implements :class:`kvstore.server.host.Clients`."""

    def __init__(self, settings: Settings, long_turns: LongTurns) -> None:
        self.address = address_text(settings.client_listen)
        self._listen = settings.client_listen
        self._hub = Hub(settings.password, Shares(asyncio.get_running_loop().call_soon, long_turns.took))
        self.flush = self._hub.flush
        self._open: set[ClientProtocol] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, service: Service) -> None:
        """Accept clients of this service. Raises OSError if the address cannot be used."""
        loop = asyncio.get_running_loop()
        self._hub.later = loop.call_later
        self._server = await loop.create_server(
            lambda: ClientProtocol(service, self._hub, self._open), *self._listen, backlog=BACKLOG
        )
        self.address = address_text(self._server.sockets[0].getsockname())

    @property
    def count(self) -> int:
        return len(self._open)

    def stop(self) -> None:
        """Accept no more clients, and read no further requests."""
        if self._server is not None:
            self._server.close()
        for protocol in self._open:
            protocol.stop_reading()

    @property
    def have_all(self) -> bool:
        """Whether every client has taken its replies."""
        return not any(protocol.unsent for protocol in self._open)

    async def close(self) -> None:
        self.stop()
        for protocol in list(self._open):
            protocol.close()
        await asyncio.sleep(0)


class ClientProtocol(asyncio.Protocol):
    """Carries bytes between a client's socket and its connection."""

    def __init__(self, service: Service, hub: Hub, registry: set[ClientProtocol]) -> None:
        self._service = service
        self._hub = hub
        self._registry = registry
        self._stopped = False
        self._transport: asyncio.Transport | None = None
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(
            asyncio.Transport, transport
        )  # uvloop's transport does not derive from asyncio's
        transport.set_write_buffer_limits(high=1_048_576)
        _keep_alive(transport.get_extra_info("socket"))
        self._registry.add(self)
        self._connection = Connection(
            self._service,
            self._hub,
            write=transport.write,
            close=transport.close,
            pause=self._pause,
            abort=transport.abort,
            untaken=transport.get_write_buffer_size,
            peer=address_text(transport.get_extra_info("peername")),
            local=address_text(transport.get_extra_info("sockname")),
        )

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.received(data)

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.writable(False)

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.writable(True)

    def connection_lost(self, error: Exception | None) -> None:
        self._registry.discard(self)
        if self._connection is not None:
            self._connection.lost()
        self._connection = self._transport = None

    def stop_reading(self) -> None:
        self._stopped = True
        self._pause(True)

    @property
    def unsent(self) -> int:
        """How many bytes wait for the client to take them."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _pause(self, wanted: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if wanted or self._stopped:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # other systems keep their default
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
