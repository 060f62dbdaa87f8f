"""``kvstore serve``: one node of a cluster, from its settings to its exit status."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from importlib import import_module
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
from kvstore.server import collector, open_files
from kvstore.server.host import Host
from kvstore.server.listening import Listener, listen
from kvstore.server.long_turns import LongTurns
from kvstore.server.readers import Readers
from kvstore.server.settings import Settings
from kvstore.storage.data_dir import DataDir

DRAIN_SECONDS = 5.0
"""How long a node that was told to end waits for requests under way, and for another node to lead."""
BACKLOG = 4_096
ACCEPTED_AT_ONCE = 16
KEEPALIVE_SECONDS = 300
"""A client that is silent for this long is probed: the connection of one whose machine is gone would stay for ever."""

log = logs.get("server")


def run(settings: Settings) -> int:
    """Serve until a signal asks it to end; returns the exit status. Raises DataDirError when it cannot start."""
    import_module("kvstore.language.parser")  # not in the turn in which the first text is proposed
    collector.begin()
    long_turns = LongTurns()
    long_turns.watch_collector()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(serve(settings, _new_threads, long_turns))
    finally:
        end_signals.ignore()  # the loop has let go of them


def _new_threads(name: str, count: int) -> Executor:
    return ThreadPoolExecutor(count, name)


async def serve(settings: Settings, new_threads: Callable[[str, int], Executor], long_turns: LongTurns) -> int:
    """Serve on the running event loop until a signal asks it to end; returns the exit status.

    ``new_threads`` gives as many threads as are wanted under a name, for what may take long; ``long_turns`` is told of
    what took too long all the same. Raises DataDirError when it cannot start.
    """
    with DataDir.open(settings.data_dir, f"kvstore serve, node {settings.node_id}") as data_dir:
        data_dir.check_cluster(settings.cluster_name)
        return await _serve(settings, data_dir, new_threads, long_turns)


async def _serve(
    settings: Settings, data_dir: DataDir, new_threads: Callable[[str, int], Executor], long_turns: LongTurns
) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    clients = ClientListener(settings, long_turns)
    host = Host(settings, data_dir, clients, long_turns, end, new_threads)
    for number in end_signals.numbers():
        loop.add_signal_handler(number, end, 0)
    try:
        data_dir.claim(settings.cluster_name)  # after the log is there: a claimed directory without one has lost it
        for start, address in (
            (host.start, settings.peer_listen),
            (partial(clients.listen, host, lambda: host.node.leads), settings.client_listen),
        ):
            try:
                await start()
            except OSError as error:
                raise DataDirError(f"cannot listen on {address_text(address)}: {_reason(error)}") from error
        log.info(
            "serving",
            clients=clients.address,
            peers=host.peer_address if host.peers.addresses else "none",
            nodes=",".join(sorted(settings.peers)),
            applied=host.node.applied_upto,
        )
        status = await ended
        if status == 0:
            await _drain(host, clients)
        return host.failed_with or status
    finally:
        await clients.close()
        await host.close()
        log.info("ended")


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
        if host.failed_with:
            return
        host.hand_over()
        await asyncio.sleep(0.05)


class ClientListener:
    """Accepts clients, and keeps their connections. Implements :class:`kvstore.server.host.Clients`."""

    def __init__(self, settings: Settings, long_turns: LongTurns) -> None:
        self.address = address_text(settings.client_listen)
        self._listen = settings.client_listen
        soon = asyncio.get_running_loop().call_soon
        self._hub = Hub(settings.password, Shares(soon, long_turns.took))
        self._readers = Readers(self._hub.shares, soon)
        self._hub.max_clients = open_files.room_for_clients(settings.max_clients)
        self.flush = self._hub.flush
        self._open: dict[ClientProtocol, None] = {}  # in the order in which they came
        self._listener: Listener | None = None

    async def listen(self, service: Service, leads: Callable[[], bool]) -> None:
        """Accept clients of this service; ``leads``: whether its node does. Raises OSError for an address in use."""
        loop = asyncio.get_running_loop()
        self._hub.later = loop.call_later
        self._hub.leads = leads
        self._hub.shares.room.is_closed = service.is_behind
        self._listener = await listen(
            lambda: ClientProtocol(service, self._hub, self._open, self._readers),
            self._listen,
            at_once=ACCEPTED_AT_ONCE,
            backlog=BACKLOG,
        )
        self.address = address_text(self._listener.address)

    @property
    def count(self) -> int:
        return len(self._open)

    def stop(self) -> None:
        """Accept no more clients, and read no further requests."""
        if self._listener is not None:
            self._listener.close()
        for protocol in self._open:
            protocol.stop_reading()

    @property
    def have_all(self) -> bool:
        """Whether every request that was read is answered, and every client has taken its replies."""
        return all(protocol.has_all for protocol in self._open)

    async def close(self) -> None:
        self.stop()
        for protocol in list(self._open):
            protocol.close()
        await asyncio.sleep(0)


class ClientProtocol(asyncio.Protocol):
    """Carries bytes between a client's socket and its connection."""

    def __init__(self, service: Service, hub: Hub, registry: dict[ClientProtocol, None], readers: Readers) -> None:
        self._service = service
        self._hub = hub
        self._readers = readers
        self.has_come = False
        self._is_held = self._is_paused = False
        self._registry = registry
        self._stopped = False
        self._transport: asyncio.Transport | None = None
        self._connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(
            asyncio.Transport, transport
        )  # uvloop's transport does not derive from asyncio's
        peer = address_text(transport.get_extra_info("peername"))
        if refusal := self._hub.refusal(peer, len(self._registry)):
            transport.write(refusal)
            transport.close()
            return
        transport.set_write_buffer_limits(high=1_048_576)
        _keep_alive(transport.get_extra_info("socket"))
        self._registry[self] = None
        self._readers.add(self)
        self._connection = Connection(
            self._service,
            self._hub,
            write=transport.write,
            close=transport.close,
            pause=self._pause,
            abort=transport.abort,
            untaken=transport.get_write_buffer_size,
            peer=peer,
            local=address_text(transport.get_extra_info("sockname")),
        )

    def data_received(self, data: bytes) -> None:
        self.has_come = True
        if self._connection is not None:
            try:
                self._connection.received(data)
            except Exception as error:
                self._connection.give_up(error)
        self._readers.look()

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.writable(False)

    def resume_writing(self) -> None:
        if self._connection is not None:
            try:
                self._connection.writable(True)
            except Exception as error:
                self._connection.give_up(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._registry.pop(self, None)
        self._readers.remove(self)
        if self._connection is not None:
            self._connection.lost()
        self._connection = self._transport = None

    def stop_reading(self) -> None:
        self._stopped = True
        self._pause(True)

    @property
    def has_all(self) -> bool:
        """Whether every request that was read is answered, and the client has taken the replies."""
        if self._transport is None or self._connection is None:
            return True
        return self._connection.is_answered and not self._transport.get_write_buffer_size()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def hold(self, wanted: bool) -> None:
        self._is_held = wanted
        self._read_or_not()

    def _pause(self, wanted: bool) -> None:
        self._is_paused = wanted
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_paused or self._is_held or self._stopped:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # other systems keep their default
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
