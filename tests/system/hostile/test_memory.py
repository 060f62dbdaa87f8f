"""Clients of ten kinds that try to fill a node's memory: it stays below the figure in docs/operations.md."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.system.servers import HOST, Servers, eventually, running
from tests.unit.resp_client import packed

ROOT = Path(__file__).parents[3]
MIB = 1_048_576
SECONDS = 2.5
CLIENTS = 12

Kind = Callable[[socket.socket], Iterator[bytes]]
"""What a client of this kind sends, piece by piece, without taking an answer."""


def figure() -> int:
    """MiB that a node can need at most, as documented."""
    text = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(r"A node needs at most about (\d+)\.(\d) GB", text)
    assert found
    return (int(found[1]) * 10 + int(found[2])) * 1_000 // 10


def auth(_: socket.socket) -> Iterator[bytes]:
    yield packed("auth secret")


def unfinished(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield b"*2\r\n$3\r\nGET\r\n$62000000\r\n"
    for _piece in range(59):
        yield b"x" * MIB


def many_arguments(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield b"*1000000\r\n"
    for _piece in range(99):
        yield b"$1\r\nx\r\n" * 10_000


def stranger(_: socket.socket) -> Iterator[bytes]:
    yield b"*2\r\n$4\r\nAUTH\r\n$62000000\r\n"
    for _piece in range(59):
        yield b"x" * MIB


def strange_digits(_: socket.socket) -> Iterator[bytes]:
    for _piece in range(59):
        yield b"*" + b"1" * MIB


def reader(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    for _piece in range(100):
        yield packed("get big") * 10


def reader_of_many(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    for _piece in range(20):
        yield packed("mget" + " big" * 12)


def transaction(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield packed("multi")
    for _piece in range(15):
        yield packed(f"set k {'x' * 1_000_000}")


def small_transaction(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield packed("multi")
    for _piece in range(16):
        yield packed("get big") * 1_000


def watcher(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    for piece in range(16):
        yield packed("watch " + " ".join(f"{'w' * 900}{piece}.{number}" for number in range(1_000)))


def namer(_: socket.socket) -> Iterator[bytes]:
    yield from auth(_)
    yield packed("client setname " + "n" * 60_000_000)
    yield packed("echo " + "n" * 60_000_000)


KINDS: list[Kind] = [
    *(unfinished, many_arguments, stranger, strange_digits, reader, reader_of_many, transaction, small_transaction),
    *(watcher, namer),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Servers]:
    if not Path("/proc/self/status").exists():
        pytest.skip("a process's memory is read from /proc, which this system has not")
    password = tmp_path / "password"
    password.write_text("secret")
    with running(tmp_path, 1, ["--password-file", str(password)], password="secret") as servers:
        yield servers


def memory(servers: Servers, field: str) -> int:
    """MiB."""
    status = Path(f"/proc/{servers.pid('n1')}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) // 1_024


def attack(servers: Servers, kinds: list[Kind], beside: Callable[[], None]) -> None:
    """Let clients of these kinds send what the node takes, for a while."""
    clients = []
    for number in range(CLIENTS * len(kinds)):
        client = socket.create_connection((HOST, servers.ports["n1"]))
        client.setblocking(False)
        clients.append((client, kinds[number % len(kinds)](client), bytearray()))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for client, pieces, rest in clients:
            if not rest:
                rest += next(pieces, b"")
            with suppress(OSError):
                del rest[: client.send(rest[:MIB])]
        beside()
    for client, _, _ in clients:
        client.close()


@pytest.mark.parametrize(
    "kinds", [*([kind] for kind in KINDS), KINDS], ids=lambda kinds: "+".join(k.__name__ for k in kinds)[:30]
)
def test_the_figure_is_not_exceeded(server: Servers, kinds: list[Kind]) -> None:
    with closing(server.client("n1", socket_timeout=10)) as healthy:
        healthy.set("big", b"x" * MIB)
        worst = 0.0

        def beside() -> None:
            nonlocal worst
            began = time.monotonic()
            healthy.set("healthy", "yes")
            worst = max(worst, time.monotonic() - began)

        attack(server, kinds, beside)
        assert memory(server, "VmHWM") < figure()
        assert worst < 5
        assert healthy.get("healthy") == b"yes"
        eventually(lambda: memory(server, "VmRSS") < 250, f"its memory is given back: {memory(server, 'VmRSS')} MiB")
