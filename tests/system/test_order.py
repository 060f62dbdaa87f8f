"""Writes that one client sends after each other take effect in that order, whatever happens between the nodes."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

from tests.system.servers import HOST, Servers, free_ports, running

WRITES = 3_000
SEVER_SECONDS = 0.3


class Severed:
    """A way to a port whose connections are cut now and then, with whatever is on its way."""

    def __init__(self, to: int) -> None:
        self.port = free_ports(1)[0]
        self._to = to
        self._writers: set[asyncio.StreamWriter] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._join, HOST, self.port)
        while not self._ended.is_set():
            await asyncio.sleep(SEVER_SECONDS)
            self._sever()
        server.close()
        await asyncio.sleep(SEVER_SECONDS)
        self._sever()
        await asyncio.sleep(SEVER_SECONDS)

    def _sever(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, here = await asyncio.open_connection(HOST, self._to)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, here}
        await asyncio.gather(self._pass_on(reader, here), self._pass_on(there, writer))
        self._writers -= {writer, here}

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except OSError:
            pass
        writer.close()


def test_a_pipeline_keeps_its_order_while_connections_to_the_leader_break(tmp_path: Path) -> None:
    with running(tmp_path) as servers:
        follower = next(name for name in servers.names if name != servers.leader())
        ways = {name: Severed(servers.peers[name]) for name in servers.names if name != follower}
        try:
            servers.stop(follower)
            servers.start(follower, via={name: way.port for name, way in ways.items()})
            servers.wait_until_serving(follower)
            _write_numbers(servers, follower)
            assert _order(servers, follower) == list(range(WRITES))
        finally:
            for way in ways.values():
                way.close()


def _write_numbers(servers: Servers, node: str) -> None:
    """Write one number after the other without waiting for answers; all have to be OK."""
    with servers.client(node) as client:
        connection = client.connection_pool.get_connection()

        def send() -> None:
            for number in range(WRITES):
                connection.send_command("SET", "last", number)
                time.sleep(0.002)

        sender = threading.Thread(target=send)
        sender.start()
        assert [connection.read_response() for _ in range(WRITES)] == [b"OK"] * WRITES
        sender.join()


def _order(servers: Servers, node: str) -> list[int]:
    """The numbers in the order in which the log first holds them: what was sent again counts once."""
    with servers.client(node) as client:
        rows: list[list[bytes]] = []
        while part := client.execute_command("KV.LOG", int(rows[-1][0]) + 1 if rows else 1):
            rows += part
    values = [row[3].decode() for row in rows]
    return list(dict.fromkeys(int(value.split("=")[1]) for value in values if value.startswith("set last=")))
